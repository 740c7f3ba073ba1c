"""The definition of decoding with int8 weights.

Every weight matrix of the blocks, and the embedding where it is the head, is rounded to whole steps. A step is a
127th of the largest weight of its output, so that an output's size does not matter to the others:

    step_j = max_i |W_ij| / 127,    W_ij = n_ij step_j,    n_ij from -127 to 127, to the nearest

Biases, layer norms and what the embedding looks up stay as they are, and so do activations: only weights are read
as int8, which is what decoding spends its time on. A backend that does this says so in
`Capabilities.decoding_weights`, and has an option `int8` that turns it on.
"""

import numpy as np

LARGEST = 127.0


def steps(weight: np.ndarray) -> np.ndarray:
    """The size of a step for each output of a weight [in, out]: float64 [out], 1 where all weights are zero."""
    largest = np.abs(weight).max(0).astype(np.float64)
    return np.where(largest == 0.0, 1.0, largest / LARGEST)


def rounded(weight: np.ndarray) -> np.ndarray:
    """The weight [in, out] in whole steps, as float64."""
    return np.rint(weight / steps(weight))
