"""The command line: one module a command, thin.

A command's module has `NAME`, `HELP`, `add_arguments(parser)` and `run(args)`, which returns the exit code.
It imports nothing but the standard library at its top, so that `gpt2spec --help` answers at once.
"""
