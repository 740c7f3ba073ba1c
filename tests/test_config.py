"""A configuration is valid, or it cannot be made."""

import dataclasses
import math

import pytest

from gpt2spec.config import ALIASES, PRESETS, GPT2Config, preset
from gpt2spec.errors import ConfigError


def test_the_released_sizes_are_those_of_the_paper_with_heads_of_64() -> None:
    sizes = {name: preset(name) for name in ("124M", "355M", "774M", "1558M")}
    assert {name: (c.n_layer, c.n_embd, c.n_head) for name, c in sizes.items()} == {
        "124M": (12, 768, 12),
        "355M": (24, 1024, 16),
        "774M": (36, 1280, 20),
        "1558M": (48, 1600, 25),
    }
    for config in sizes.values():
        assert (config.head_width, config.n_ctx, config.vocab_size) == (64, 1024, 50257)
        assert (config.layer_norm_epsilon, config.dropout, config.attn_dropout) == (1e-5, 0.1, 0.0)
        assert (config.initializer_range, config.wpe_initializer_range) == (0.02, 0.02)


def test_the_default_is_gpt2() -> None:
    assert GPT2Config() == preset("gpt2") == PRESETS["gpt2"]


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_same_model(alias: str) -> None:
    assert preset(alias) is not None
    assert preset(alias) == preset(ALIASES[alias])


@pytest.mark.parametrize("field", ["n_layer", "n_head", "n_embd", "n_ctx", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_sizes_are_whole_numbers_of_at_least_1(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{field} is a whole number of at least 1, not {value!r}"):
        GPT2Config(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["dropout", "attn_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2, math.nan, math.inf])
def test_dropout_is_a_probability_below_1(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} is a probability from 0 to below 1, not {value}"):
        GPT2Config(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["layer_norm_epsilon", "initializer_range", "wpe_initializer_range"])
@pytest.mark.parametrize("value", [0.0, -1e-5, 1.0, math.nan, math.inf])
def test_epsilon_and_spreads_lie_between_0_and_1(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{field} lies between 0 and 1, not {value}"):
        GPT2Config(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["0.1", None, True])
def test_numbers_are_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match=f"dropout is a number, not {value!r}"):
        GPT2Config(dropout=value)  # type: ignore[arg-type]


def test_the_width_is_a_multiple_of_the_heads() -> None:
    with pytest.raises(ConfigError, match="n_embd must be a multiple of n_head: 1600 / 24 is no whole number"):
        GPT2Config(n_embd=1600, n_head=24)


def test_a_configuration_is_frozen_and_can_be_a_key() -> None:
    config = preset("test")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layer = 3  # type: ignore[misc]
    assert {config: 1}[preset("test")] == 1


def test_a_changed_copy_is_checked_too() -> None:
    assert preset("nano", n_head=4) == preset("nano").replace(n_head=4)
    assert preset("nano").n_head == 2
    with pytest.raises(ConfigError, match="multiple of n_head"):
        preset("nano", n_head=3)


def test_mistyped_names_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no 'n_layers' \(did you mean 'n_layer'\?\); it has n_layer, n_head"):
        preset("gpt2", n_layers=3)
    with pytest.raises(ConfigError, match=r"no preset 'gpt2-larg' \(did you mean 'gpt2-large'\?\); the presets are"):
        preset("gpt2-larg")
