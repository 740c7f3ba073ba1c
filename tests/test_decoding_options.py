"""Every option of decoding is checked before anything is computed."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from decoding_models import EXACT, SMALL, NeverRuns

from gpt2spec.api import GenerateOptions, Generator, generate, stream
from gpt2spec.errors import ConfigError

BAD: dict[str, list[tuple[Any, str]]] = {
    "max_new_tokens": [
        (0, "max_new_tokens is a whole number of at least 1, not 0"),
        (1.5, "max_new_tokens is a whole number of at least 1, not 1.5"),
        ("3", "max_new_tokens is a whole number of at least 1, not '3'"),
        (True, "max_new_tokens is a whole number of at least 1, not True"),
        (None, "max_new_tokens is a whole number of at least 1, not None"),
    ],
    "temperature": [
        (-0.1, "temperature is a number of at least 0, not -0.1"),
        (math.inf, "temperature is a number of at least 0, not inf"),
        (math.nan, "temperature is a number of at least 0, not nan"),
        ("hot", "temperature is a number of at least 0, not 'hot'"),
        (None, "temperature is a number of at least 0, not None"),
    ],
    "top_k": [
        (0, "top_k is a whole number of at least 1, not 0"),
        (1.5, "top_k is a whole number of at least 1, not 1.5"),
        ([1], "top_k is a whole number of at least 1, not [1]"),
    ],
    "top_p": [
        (-0.1, "top_p lies from 0 to 1, not -0.1"),
        (1.1, "top_p lies from 0 to 1, not 1.1"),
        (math.nan, "top_p lies from 0 to 1, not nan"),
        ("0.9", "top_p lies from 0 to 1, not '0.9'"),
    ],
    "top_p_rule": [("nucleus", "top_p_rule is reach or openai, not 'nucleus'")],
    "min_p": [
        (-0.1, "min_p lies from 0 to 1, not -0.1"),
        (1.01, "min_p lies from 0 to 1, not 1.01"),
        (math.nan, "min_p lies from 0 to 1, not nan"),
        ([], "min_p lies from 0 to 1, not []"),
    ],
    "repetition_penalty": [
        (0.0, "repetition_penalty is a number above 0, not 0.0"),
        (-1.0, "repetition_penalty is a number above 0, not -1.0"),
        (math.inf, "repetition_penalty is a number above 0, not inf"),
        (None, "repetition_penalty is a number above 0, not None"),
    ],
    "beams": [
        (0, "beams is a whole number of at least 1, not 0"),
        (2.0, "beams is a whole number of at least 1, not 2.0"),
    ],
    "length_penalty": [
        (math.nan, "length_penalty is a number, not nan"),
        (-math.inf, "length_penalty is a number, not -inf"),
        ("1", "length_penalty is a number, not '1'"),
    ],
    "early_stopping": [("never", "early_stopping is True or False, not 'never'")],
    "samples": [(0, "samples is a whole number of at least 1, not 0")],
    "seed": [
        (-1, "seed is a whole number of at least 0, not -1"),
        (0.5, "seed is a whole number of at least 0, not 0.5"),
    ],
    "stop_tokens": [
        ([1, -1], "a stop token is a whole number of at least 0, not -1"),
        ([1.0], "a stop token is a whole number of at least 0, not 1.0"),
        (7, "stop_tokens is a list of token ids, not 7"),
        ("ab", "stop_tokens is a list of token ids, not 'ab'"),
    ],
    "stop": [
        ("end", "stop is a list of strings, none of them empty, not 'end'"),
        (["end", ""], "stop is a list of strings, none of them empty, not ('end', '')"),
        ([b"end"], "stop is a list of strings, none of them empty, not (b'end',)"),
        (None, "stop is a list of strings, none of them empty, not None"),
    ],
    "overflow": [("cut", "overflow is error or slide, not 'cut'")],
    "alternatives": [
        (-1, "alternatives is a whole number of at least 0, not -1"),
        (1.5, "alternatives is a whole number of at least 0, not 1.5"),
    ],
    "batch_size": [(0, "batch_size is a whole number of at least 1, not 0")],
}
WITH_BEAMS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature": ({"temperature": 0.7}, "beam search takes no temperature: it looks for the likeliest text"),
    "greedy": ({"temperature": 0.0}, "beam search takes no temperature"),
    "top_k": ({"top_k": 5}, "beam search takes no top_k"),
    "top_p": ({"top_p": 0.9}, "beam search takes no top_p"),
    "min_p": ({"min_p": 0.1}, "beam search takes no min_p"),
    "repetition_penalty": ({"repetition_penalty": 1.1}, "beam search takes no repetition_penalty"),
    "alternatives": ({"alternatives": 2}, "beam search takes no alternatives"),
    "overflow": ({"overflow": "slide"}, "beam search cannot slide: its scores are those of one context"),
    "samples": ({"samples": 4}, "4 samples of 3 beams: there are only as many as beams"),
}
CALLS: dict[str, Callable[..., Any]] = {"generate": generate, "stream": stream}


def test_every_setting_has_values_that_are_refused() -> None:
    assert list(BAD) == [field.name for field in fields(GenerateOptions)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("name", "value", "message"), [(name, *case) for name, cases in BAD.items() for case in cases], ids=repr
)
def test_values_that_cannot_be_are_refused_before_anything_runs(name: str, value: Any, message: str, call: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        GenerateOptions(**{name: value})
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        CALLS[call](NeverRuns(), SMALL.config, SMALL.params, [[1]], **{name: value})


@pytest.mark.parametrize("call", CALLS)
def test_a_setting_that_there_is_not_is_refused_with_the_nearest_name(call: str) -> None:
    with pytest.raises(ConfigError, match=r"no setting 'top_pp' \(did you mean 'top_p'\?\); it has max_new_tokens, "):
        CALLS[call](NeverRuns(), SMALL.config, SMALL.params, [[1]], top_pp=0.9)
    with pytest.raises(ConfigError, match=r"no setting 'zzz'; it has max_new_tokens, temperature, .*, batch_size$"):
        CALLS[call](NeverRuns(), SMALL.config, SMALL.params, [[1]], zzz=1)


@pytest.mark.parametrize("call", CALLS)
def test_options_and_single_settings_together_are_refused(call: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("either options or single settings (seed, top_k), not both")):
        CALLS[call](NeverRuns(), SMALL.config, SMALL.params, [[1]], GenerateOptions(), seed=1, top_k=2)


@pytest.mark.parametrize("case", WITH_BEAMS)
def test_beam_search_refuses_what_it_does_not_do(case: str) -> None:
    settings, message = WITH_BEAMS[case]
    with pytest.raises(ConfigError, match=re.escape(message)):
        GenerateOptions(beams=3, **settings)
    if case != "samples":
        GenerateOptions(beams=1, **settings)
        generator = Generator(EXACT, SMALL.config, SMALL.params)
        with pytest.raises(ConfigError, match=re.escape(message)):
            generator.search([[1]], beams=1, **settings)


def test_a_beam_search_is_not_streamed() -> None:
    backend: Any = NeverRuns()
    assert GenerateOptions(beams=3, samples=3).samples == 3
    with pytest.raises(ConfigError, match="beam search cannot be streamed: it knows its texts only at the end"):
        Generator(EXACT, SMALL.config, SMALL.params).stream([[1]], beams=2)
    with pytest.raises(ConfigError, match="cannot be streamed"):
        stream(backend, SMALL.config, SMALL.params, [[1]], beams=2)


def test_stop_strings_need_a_tokenizer() -> None:
    backend: Any = NeverRuns()
    for call in CALLS.values():
        with pytest.raises(ConfigError, match="stop strings need a tokenizer; give stop_tokens, or a tokenizer"):
            call(backend, SMALL.config, SMALL.params, [[1]], stop=["."])


def test_options_never_change_and_equal_ones_are_one_key() -> None:
    stop, stop_tokens = ["a", "b"], [1, 2]
    options = GenerateOptions(stop=stop, stop_tokens=stop_tokens)
    stop.append("c")
    stop_tokens.append(3)
    assert (options.stop, options.stop_tokens) == (("a", "b"), (1, 2))
    same = GenerateOptions(stop=("a", "b"), stop_tokens=(1, 2))
    assert options == same
    assert len({options, same, dataclasses.replace(options, seed=1)}) == 2
    for field in fields(GenerateOptions):
        with pytest.raises(FrozenInstanceError):
            setattr(options, field.name, getattr(options, field.name))


def test_stop_strings_and_tokens_may_come_from_anything_that_can_be_gone_through() -> None:
    options = GenerateOptions(stop=iter(["a", "b"]), stop_tokens=(i for i in (1, 2)))  # type: ignore[arg-type]
    assert (options.stop, options.stop_tokens) == (("a", "b"), (1, 2))
    assert GenerateOptions(stop_tokens={3}).stop_tokens == (3,)  # type: ignore[arg-type]


def test_extreme_values_that_mean_something_are_allowed() -> None:
    GenerateOptions(temperature=0, top_p=0, min_p=0)
    GenerateOptions(temperature=1e-320, top_p=1, min_p=1, top_k=10**9, seed=2**80)
    GenerateOptions(repetition_penalty=0.5, length_penalty=-2, alternatives=10**6, batch_size=10**6)
