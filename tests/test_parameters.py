"""The weight table and the initial weights."""

import hashlib
import math

import numpy as np
import pytest

from gpt2spec.config import GPT2Config, preset
from gpt2spec.errors import InputError
from gpt2spec.parameters import HostParams, check_parameters, count_parameters, initial_parameters, weight_table

# Wide enough that a spread is known to a percent.
WIDE = GPT2Config(n_layer=3, n_head=2, n_embd=128, n_ctx=300, vocab_size=501, wpe_initializer_range=0.01)
BLOCK = {
    "ln_1.weight": [16],
    "ln_1.bias": [16],
    "attn.c_attn.weight": [16, 48],
    "attn.c_attn.bias": [48],
    "attn.c_proj.weight": [16, 16],
    "attn.c_proj.bias": [16],
    "ln_2.weight": [16],
    "ln_2.bias": [16],
    "mlp.c_fc.weight": [16, 64],
    "mlp.c_fc.bias": [64],
    "mlp.c_proj.weight": [64, 16],
    "mlp.c_proj.bias": [16],
}


def digest(params: HostParams) -> str:
    """Hash of names, shapes and little-endian bytes."""
    whole = hashlib.sha256()
    for name, array in params.items():
        whole.update(f"{name} {list(array.shape)} ".encode())
        whole.update(array.astype("<f4").tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize(
    ("name", "total", "matrices", "without_embeddings"),
    [
        ("124M", 124_439_808, 124_318_464, 85_056_000),
        ("355M", 354_823_168, 354_501_632, 302_311_424),
        ("774M", 774_030_080, 773_428_480, 708_390_400),
        ("1558M", 1_557_611_200, 1_556_609_600, 1_475_561_600),
    ],
)
def test_counts_are_those_of_the_released_models(name: str, total: int, matrices: int, without_embeddings: int) -> None:
    config = preset(name)
    table = weight_table(config)
    assert count_parameters(config) == total
    assert sum(weight.size for weight in table if weight.is_matrix) == matrices
    assert sum(weight.size for weight in table if weight.name not in ("wte.weight", "wpe.weight")) == without_embeddings


def test_names_and_shapes_are_those_of_the_checkpoints(small: GPT2Config) -> None:
    blocks = {f"h.{i}.{name}": shape for i in range(2) for name, shape in BLOCK.items()}
    expected = {"wte.weight": [37, 16], "wpe.weight": [24, 16], **blocks, "ln_f.weight": [16], "ln_f.bias": [16]}
    assert [(weight.name, list(weight.shape)) for weight in weight_table(small)] == list(expected.items())
    params = initial_parameters(small)
    assert [(name, list(array.shape)) for name, array in params.items()] == list(expected.items())
    assert {array.dtype for array in params.values()} == {np.dtype(np.float32)}


def test_every_weight_starts_as_its_distribution_says() -> None:
    residual = 0.02 / math.sqrt(2 * WIDE.n_layer)
    for name, array in initial_parameters(WIDE, seed=3).items():
        if array.ndim == 1:
            assert (array == (1.0 if "ln_" in name and name.endswith("weight") else 0.0)).all(), name
            continue
        std = 0.01 if name == "wpe.weight" else residual if "c_proj" in name else 0.02
        n = array.size
        assert abs(array.std() / std - 1) < 4 / math.sqrt(2 * n), name
        assert abs(array.mean() / std) < 4 / math.sqrt(n), name
        # Normal and not uniform: the share beyond one and two standard deviations, and a kurtosis of 3.
        z = np.abs(array.astype(np.float64) / std)
        for limit, share in ((1.0, 0.3173), (2.0, 0.0455)):
            assert abs((z > limit).mean() - share) < 4 * math.sqrt(share / n), name
        assert abs((z**4).mean() - 3) < 4 * math.sqrt(96 / n), name


def test_the_same_seed_gives_these_bits_everywhere(small: GPT2Config) -> None:
    assert (
        digest(initial_parameters(small, seed=1)) == "cbdfc5e8876039e4fea9b9116fde704231f5027e1d4c531c8077dd5e5c12bb92"
    )


def test_another_seed_gives_other_matrices(small: GPT2Config) -> None:
    one, two = initial_parameters(small, seed=1), initial_parameters(small, seed=2)
    for weight in weight_table(small):
        assert (one[weight.name] == two[weight.name]).any() == (not weight.is_matrix), weight.name


def test_no_two_matrices_begin_alike(small: GPT2Config) -> None:
    matrices = [array.reshape(-1)[:4] for array in initial_parameters(small).values() if array.ndim == 2]
    assert len({tuple(np.round(x / x[0], 3).tolist()) for x in matrices}) == len(matrices) == 10


def test_the_shape_of_one_weight_changes_no_other(small: GPT2Config) -> None:
    here, there = initial_parameters(small), initial_parameters(small.replace(vocab_size=99, n_ctx=7))
    changed = {name for name in here if here[name].shape != there[name].shape}
    assert changed == {"wte.weight", "wpe.weight"}
    assert all((here[name] == there[name]).all() for name in set(here) - changed)


def test_the_default_seed_is_0(small: GPT2Config) -> None:
    assert digest(initial_parameters(small)) == digest(initial_parameters(small, seed=0))


def test_fitting_parameters_pass_in_any_order_and_float_dtype(small: GPT2Config) -> None:
    params = initial_parameters(small)
    check_parameters(small, params)
    check_parameters(small, {name: params[name].astype(np.float64) for name in reversed(params)})


def test_parameters_that_do_not_fit_are_refused_by_name(small: GPT2Config) -> None:
    params = initial_parameters(small)

    def refused(changed: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            check_parameters(small, changed)  # type: ignore[arg-type]

    rest = {name: array for name, array in params.items() if name != "wpe.weight"}
    refused(rest, r"the weight 'wpe.weight' is missing: 28 weights are expected")
    refused({}, r"the weight 'wte.weight' and 27 more is missing")
    refused({**params, "wpe.weihgt": 0}, r"no weight 'wpe.weihgt' \(did you mean 'wpe.weight'\?\)")
    refused({**params, "lm_head.weight": 0, "x": 0}, "no weight 'lm_head.weight' and 1 more")
    refused({**params, "wpe.weight": params["wpe.weight"].T}, r"'wpe.weight' has shape \[16, 24\]; \[24, 16\] is exp")
    refused({**params, "wpe.weight": params["wpe.weight"].astype(int)}, "'wpe.weight' is int64; a NumPy array of float")
    refused({**params, "wpe.weight": params["wpe.weight"].tolist()}, "'wpe.weight' is list; a NumPy array of floats")
