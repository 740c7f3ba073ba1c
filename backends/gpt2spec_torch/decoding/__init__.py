"""Decoding, which reads all weights for a few rows of one position each: how it keeps up with memory.

On a CPU, below float64 and without `compile=step`, `TorchBackend.decoding_params` lays weights out, and `layouts` finds
the operations that belong to them:

- `few_rows`: every matrix, in an order for products with few rows, and in whole steps with `int8`;
- `row_kernel`: one row is multiplied by a loop that Inductor compiled, unless `compile` is off;
- `row_block`: for one row, blocks of a million weights or more are one such program each;
- `ahead_of_time`: makes these programs once on a machine, and keeps them in the user's cache folder.

On CUDA weights stay tensors, and `graphs` records a step as one CUDA graph. Elsewhere, decoding is the model's own
pass, compiled or not.
"""
