"""Does a backend compute GPT-2? So far: how its errors are measured, and the weights that it is measured with.

`error` measures in units of the dtype's epsilon; `weights` makes the two weight sets. The cases, the mutants and
the judge are still to come.
"""
