"""The embedded engines: their binaries, set-up, and what starts them. The supervisor owns their processes.

Each engine module offers the same functions: ``prepare(home, …) -> Launch`` (blocking, may be repeated) and
``ready(home)`` (an answer of the engine itself, not an open port).
``external`` checks engines that run elsewhere.
"""
