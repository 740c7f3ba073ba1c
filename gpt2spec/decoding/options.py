"""The options of decoding, which are checked before anything is computed."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal

from gpt2spec.errors import ConfigError, nearest


@dataclass(frozen=True)
class GenerateOptions:
    """How prompts are continued. Impossible values are a `ConfigError`.

    The repetition penalty, temperature, top-k, top-p and min-p are applied in this order; one uniform number then
    chooses among the tokens that are left. With `beams`, the likeliest sequences are searched for instead.

    Attributes:
        max_new_tokens: the most tokens to add.
        temperature: logits are divided by it; 0 is greedy.
        top_k: keep the k likeliest tokens; None keeps all. Among equal tokens, the lowest ids come first.
        top_p: keep the smallest set of likeliest tokens whose probability is at least p, so that the token that
            crosses p stays (Holtzman et al. 2020); None keeps all.
        top_p_rule: "reach" as above, or "openai": tokens up to a running probability of at most p, and always one,
            as in `sample.py` of github.com/openai/gpt-2.
        min_p: keep tokens at least this share as likely as the likeliest (Nguyen et al. 2024); None keeps all.
        repetition_penalty: the logits of tokens that are already in the text are divided by it if they are positive,
            and multiplied by it if they are negative (Keskar et al. 2019); 1 means no penalty.
        beams: how many sequences beam search follows at a time; 1 means no beam search.
        length_penalty: a beam's score is its sum of log-probabilities divided by its number of new tokens to this
            power: 0 gives the plain sum, 1 the mean.
        early_stopping: end a beam search as soon as it has `beams` finished sequences, and not only when no
            unfinished one could be better.
        samples: the number of continuations of each prompt; a beam search returns its best ones.
        seed: different seeds give different samples.
        stop_tokens: ids that end a text; they are not part of it.
        stop: strings that end a text, which then ends before the first of them.
        overflow: what to do about texts that would pass the model's context: "error" refuses them before anything
            is computed; "slide" continues from the last half of the context whenever it is full.
        alternatives: how many of the likeliest tokens to report at each step.
        batch_size: the most rows that are computed at once.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    top_p_rule: Literal["reach", "openai"] = "reach"
    min_p: float | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 0.0
    early_stopping: bool = False
    samples: int = 1
    seed: int = 0
    stop_tokens: Sequence[int] = ()
    stop: Sequence[str] = ()
    overflow: Literal["error", "slide"] = "error"
    alternatives: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for name, what in _SEQUENCES.items():  # tuples can be hashed, and callers cannot change them
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name), what))
        for name, least in _WHOLE.items():
            _check_whole(name, getattr(self, name), least)
        if self.top_k is not None:
            _check_whole("top_k", self.top_k, 1)
        _check_number("temperature", self.temperature, " of at least 0", lambda value: value >= 0.0)
        _check_number("length_penalty", self.length_penalty, "", lambda value: True)
        _check_number("repetition_penalty", self.repetition_penalty, " above 0", lambda value: value > 0.0)
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and 0.0 <= float(value) <= 1.0):
                raise ConfigError(f"{name} lies from 0 to 1, not {value!r}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {' or '.join(map(str, known))}, not {getattr(self, name)!r}")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ConfigError(f"stop is a list of strings, none of them empty, not {self.stop!r}")
        for token in self.stop_tokens:
            _check_whole("a stop token", token, 0)
        if self.beams > 1:
            self.check_beams()

    def check_beams(self) -> None:
        """Raise `ConfigError` for options that beam search does not have."""
        if self.samples > self.beams:
            raise ConfigError(f"{self.samples} samples of {self.beams} beams: there are only as many as beams")
        neutral = {field.name: field.default for field in fields(self)}
        for name in _NOT_WITH_BEAMS:
            if getattr(self, name) != neutral[name]:
                raise ConfigError(f"beam search takes no {name}: it looks for the likeliest text, and draws nothing")
        if self.overflow == "slide":
            raise ConfigError("beam search cannot slide: its scores are those of one context")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always chosen."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def filters(self) -> bool:
        """Whether any filter may drop tokens."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None


_WHOLE = {"max_new_tokens": 1, "beams": 1, "samples": 1, "seed": 0, "alternatives": 0, "batch_size": 1}
_CHOICES = {"top_p_rule": ("reach", "openai"), "overflow": ("error", "slide"), "early_stopping": (True, False)}
_SEQUENCES = {"stop": "strings, none of them empty", "stop_tokens": "token ids"}
_NOT_WITH_BEAMS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "alternatives")


def options_from(options: GenerateOptions | None, settings: dict[str, Any]) -> GenerateOptions:
    """`options`, or new ones with the fields in `settings`. An unknown field is a `ConfigError`."""
    if options is not None:
        if settings:
            raise ConfigError(f"either options or single settings ({', '.join(settings)}), not both")
        return options
    known = [field.name for field in fields(GenerateOptions)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"generation has no setting {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    return GenerateOptions(**settings)


def _as_tuple(name: str, value: object, what: str) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is a list of {what}, not {value!r}")
    return tuple(value)


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} is a whole number of at least {least}, not {value!r}")


def _check_number(name: str, value: object, words: str, allowed: Callable[[float], bool]) -> None:
    if not isinstance(value, Real) or not math.isfinite(float(value)) or not allowed(float(value)):
        raise ConfigError(f"{name} is a number{words}, not {value!r}")
