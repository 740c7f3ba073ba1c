"""The program that computes a block of the model for one row of decoding on PyTorch."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)

from gpt2spec_torch.create import create  # noqa: E402
from gpt2spec_torch.decoding import ahead_of_time, row_block  # noqa: E402
from gpt2spec_torch.decoding.row_block import RowBlockWeights  # noqa: E402

from gpt2spec import model  # noqa: E402
from gpt2spec.config import GPT2Config, preset  # noqa: E402
from gpt2spec.decoding.cache import Rows  # noqa: E402
from gpt2spec.parameters import initial_parameters, weight_table  # noqa: E402

CONFIG = GPT2Config(n_layer=2, n_head=3, n_embd=48, n_ctx=256, vocab_size=61, layer_norm_epsilon=1e-3)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, 200).tolist()
EXACT = {"float32": 3e-5, "bfloat16": 0.1}


def weights() -> dict[str, np.ndarray]:
    """Weights that all affect the result, including biases and the norms' weights."""
    random = np.random.default_rng(1)
    params = initial_parameters(CONFIG, seed=0)
    return {name: (x + 0.2 * random.standard_normal(x.shape)).astype(np.float32) for name, x in params.items()}


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use programs even for the smallest blocks."""
    monkeypatch.setattr(row_block, "LARGE", 1)


def rows(capacity: int, prompts: list[list[int]], **options: Any) -> Rows:
    made = create(device="cpu", **options)
    params = made.decoding_params(made.load_params(weights()))
    return Rows(made, CONFIG, params, prompts, capacity)


def logits_after_each(read: Rows, tokens: list[int]) -> np.ndarray:
    """The logits after each token: [len(tokens), V]."""
    found = []
    for token in tokens:
        read.append(read.backend.put(np.array([token], np.int32)))
        found.append(read.backend.to_numpy(read.logits)[0])
    return np.stack(found)


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"int8": True}], ids=str)
def test_a_row_has_the_logits_and_the_cache_that_it_has_without(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are caches of two capacities, of which the program saw one or none while it was compiled."""
    calls = []
    real = ahead_of_time.program

    def counted(name: str, recipe) -> Any:
        program = real(name, recipe)
        assert program is not None
        return lambda *tensors: calls.append(name) or program(*tensors)

    monkeypatch.setattr(row_block, "program", counted)
    for capacity, first in ((64, 5), (256, 150)):
        with_program = rows(capacity, [TOKENS[:first]], **options)
        assert isinstance(with_program.params["blocks"][0], RowBlockWeights)
        with monkeypatch.context() as patch:
            patch.setattr(row_block, "LARGE", 1 << 30)
            without = rows(capacity, [TOKENS[:first]], **options)
        assert not isinstance(without.params["blocks"][0], RowBlockWeights)
        calls.clear()
        found = logits_after_each(with_program, TOKENS[first : first + 40])
        assert len(calls) == 40 * CONFIG.n_layer and len(set(calls)) == 1
        expected = logits_after_each(without, TOKENS[first : first + 40])
        exact = EXACT[with_program.backend.dtype]
        assert len(calls) == 40 * CONFIG.n_layer
        np.testing.assert_allclose(found, expected, rtol=exact, atol=exact * np.abs(expected).max())
        for ours, theirs in zip(with_program.cache, without.cache, strict=True):
            for name in ("k", "v"):
                torch.testing.assert_close(ours[name], theirs[name], rtol=exact, atol=10 * exact)


@pytest.mark.usefixtures("small_is_large")
def test_several_rows_do_not_ask_for_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_block, "program", lambda *args: pytest.fail("asked"))
    read = rows(64, [TOKENS[:5], TOKENS[:7]])
    read.append(read.backend.put(np.array([1, 2], np.int32)))


@pytest.mark.usefixtures("small_is_large")
def test_without_a_program_the_block_is_computed_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_block, "program", lambda *args: None)
    found = logits_after_each(rows(64, [TOKENS[:5]]), TOKENS[5:9])
    monkeypatch.setattr(row_block, "LARGE", 1 << 30)
    np.testing.assert_array_equal(found, logits_after_each(rows(64, [TOKENS[:5]]), TOKENS[5:9]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"compile": False}, False), ({"compile": "step"}, False), ({"dtype": "float64"}, False)],
    ids=str,
)
@pytest.mark.usefixtures("small_is_large")
def test_only_compiled_blocks_have_a_program(options: dict[str, Any], expected: bool) -> None:
    made = create(device="cpu", **options)
    params = made.decoding_params(made.load_params(weights()))
    assert isinstance(params["blocks"][0], RowBlockWeights) == expected


@pytest.mark.parametrize(("name", "expected"), [("test", False), ("nano", False), ("gpt2", True)])
def test_a_program_is_for_large_blocks(name: str, expected: bool) -> None:
    config = preset(name, n_layer=1, vocab_size=61)
    made = create(device="cpu")
    params = made.decoding_params(
        made.load_params({weight.name: np.zeros(weight.shape, np.float32) for weight in weight_table(config)})
    )
    assert isinstance(params["blocks"][0], RowBlockWeights) == expected


def test_a_program_is_of_its_shape_dtypes_and_source(monkeypatch: pytest.MonkeyPatch) -> None:
    float32, bfloat16 = (torch.float32,) * 3, (torch.bfloat16,) * 3

    def name(config: GPT2Config, dtypes: Any) -> str:
        row_block._name.cache_clear()
        return row_block._name("gpt2spec.model", config, dtypes)

    same = {name(CONFIG, float32), name(CONFIG.replace(n_layer=9, vocab_size=99, n_ctx=32, dropout=0.5), float32)}
    assert len(same) == 1
    others = [
        name(CONFIG, bfloat16),
        name(CONFIG.replace(n_head=4), float32),
        name(CONFIG.replace(n_embd=96), float32),
        name(CONFIG.replace(layer_norm_epsilon=1e-5), float32),
    ]
    source = row_block.inspect.getsource
    for changed in (model.__name__, *row_block.SOURCES):
        monkeypatch.setattr(
            row_block.inspect,
            "getsource",
            lambda module, changed=changed: source(module) + "# new" * (module.__name__ == changed),
        )
        others.append(name(CONFIG, float32))
    row_block._name.cache_clear()
    assert len({*same, *others}) == 1 + len(others)
