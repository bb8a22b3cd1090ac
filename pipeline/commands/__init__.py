"""What a user types: options, help and printed results of every command, each a thin layer over one module.

Imports nothing heavy when it is itself imported, so that `--help` answers at once: a command imports what it needs when it
runs.
"""
