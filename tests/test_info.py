"""Counts, operations and memory are the published or derived ones, in `gpt2spec.costs` and in the command's output."""

import json

import pytest

from gpt2spec import costs
from gpt2spec.cli.main import main
from gpt2spec.config import ALIASES, PRESETS, GPT2Config, preset
from gpt2spec.errors import ConfigError, InputError
from gpt2spec.parameters import initial_parameters

# total, rank >= 2, without embeddings
EXACT = {
    "124M": (124_439_808, 124_318_464, 85_056_000),
    "355M": (354_823_168, 354_501_632, 302_311_424),
    "774M": (774_030_080, 773_428_480, 708_390_400),
    "1558M": (1_557_611_200, 1_556_609_600, 1_475_561_600),
}


@pytest.mark.parametrize("name", EXACT)
def test_counts_of_the_released_sizes(name: str) -> None:
    counts = costs.parameter_counts(preset(name))
    assert (counts.total, counts.matrices, counts.without_embeddings) == EXACT[name]


def test_counts_are_those_of_real_weights() -> None:
    weights = initial_parameters(preset("test"))
    counts = costs.parameter_counts(preset("test"))
    assert counts.total == sum(w.size for w in weights.values())
    assert counts.matrices == sum(w.size for w in weights.values() if w.ndim >= 2)


@pytest.mark.parametrize("name", PRESETS)
def test_floating_point_operations_follow_the_formula(name: str) -> None:
    config = preset(name)
    L, D, V, T = config.n_layer, config.n_embd, config.vocab_size, config.n_ctx // 2
    forward = 2 * (12 * L * D * D + V * D) + 4 * T * D * L
    assert costs.forward_flops_per_token(config, T) == forward
    assert costs.training_flops_per_token(config, T) == 3 * forward


def test_floating_point_operations_agree_with_counting_every_product() -> None:
    config = GPT2Config(n_layer=3, n_head=2, n_embd=8, n_ctx=16, vocab_size=11)
    T, D, H, d = 16, 8, 2, 4

    def product(rows: int, inner: int, columns: int) -> int:
        return 2 * rows * inner * columns

    projections = product(T, D, 3 * D) + product(T, D, D) + product(T, D, 4 * D) + product(T, 4 * D, D)
    attention = H * (product(T, d, T) + product(T, T, d))
    whole = 3 * (projections + attention) + product(T, D, 11)
    assert costs.forward_flops_per_token(config, T) * T == whole


def test_memory_of_the_smallest_released_size() -> None:
    N, cache = 124_439_808, 2 * 12 * 768
    held = costs.memory(preset("gpt2"), "float32")
    assert (held.weights, held.cast_weights, held.gradients, held.adamw) == (4 * N, 0, 4 * N, 8 * N)
    assert held.cache_per_token == 4 * cache
    layer_norms = (2 * 12 + 1) * 2 * 768
    held = costs.memory(preset("gpt2"), "bfloat16")
    assert (held.weights, held.cast_weights, held.gradients, held.adamw) == (4 * N, 2 * (N - layer_norms), 4 * N, 8 * N)
    assert held.cache_per_token == 2 * cache
    assert costs.memory(preset("gpt2"), "float64").adamw == 16 * N


def test_costs_refuse_what_a_model_cannot_do() -> None:
    for context in (0, 65):
        with pytest.raises(InputError, match=f"from 1 to 64 positions, not {context}"):
            costs.forward_flops_per_token(preset("test"), context)
    with pytest.raises(ConfigError, match=r"no dtype 'bfloat61' \(did you mean 'bfloat16'\?\)"):
        costs.memory(preset("test"), "bfloat61")


@pytest.mark.parametrize("name", EXACT)
def test_info_shows_the_counts_and_each_layer_weight_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", name]) == 0
    shown = capsys.readouterr().out
    for count in EXACT[name]:
        assert f"{count:,}" in shown
    lines = [line for line in shown.splitlines() if line.startswith("h.*.")]
    assert len(lines) == 12
    assert all(f" x {preset(name).n_layer} " in line for line in lines)


def test_info_as_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "test", "--context", "16", "--batch-size", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    sizes = [row["count"] * (row["shape"][0] * (row["shape"] + [1])[1]) for row in shown["weights"]]
    assert sum(sizes) == shown["parameters"]["total"]
    assert shown["flops"]["training_per_step"] == 3 * 16 * costs.training_flops_per_token(preset("test"), 16)
    assert shown["memory"]["float32"]["cache"] == 3 * 16 * costs.memory(preset("test"), "float32").cache_per_token


def test_info_without_a_preset_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    words = capsys.readouterr().out.split()
    assert {*PRESETS, *ALIASES, "1,557,611,200"} <= {*words}
    assert main(["info", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(PRESETS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt3"], "there is no preset 'gpt3'"),
        (["test", "--context", "65"], "from 1 to 64 positions, not 65"),
        (["test", "--batch-size", "0"], "at least 1 sequence, not 0"),
    ],
)
def test_info_refuses_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
