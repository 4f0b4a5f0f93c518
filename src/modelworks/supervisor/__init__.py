"""Who starts whom: the small process that owns the platform's other processes, and the commands that talk to it.

The supervisor lives as long as the platform, so it imports only the standard library and our error tree. What is heavy
(settings, ``initdb``, keys and certificates) happens in a short-lived child, :mod:`modelworks.supervisor.prepare`.
"""
