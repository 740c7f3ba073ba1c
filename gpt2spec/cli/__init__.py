"""The command line, with one thin module for each command.

A command's module has `NAME`, `HELP`, `add_arguments(parser)` and `run(args)`, which returns the exit code. At its top,
it imports nothing but the standard library, so that `gpt2spec --help` answers at once.
"""
