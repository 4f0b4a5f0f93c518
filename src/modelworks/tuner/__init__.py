"""What chooses the parameters of sweeps: Optuna, in a process of its own that lives while there is a sweep.

The controller writes a request a line to its standard input and reads an answer a line; with the input it ends.
Everything that it knows is in the database, and each request may come twice.
"""
