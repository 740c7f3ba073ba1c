"""The two things a task can ask of a model, and the answers. Everything is token ids."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2spec.decoding.options import GenerateOptions


@dataclass(frozen=True)
class Likelihood:
    """How likely is `target` after `context`, which is not empty?

    What of the context does not fit the model is left out from its beginning; a target that does not fit is read in
    windows. `banned` are tokens that a filtered guess of the target's first token leaves out.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    banned: frozenset[int] = frozenset()

    @property
    def length(self) -> int:
        """Tokens that are read."""
        return len(self.context) + len(self.target) - 1


@dataclass(frozen=True)
class Likely:
    """The answer: log-likelihood of the target in nats, and which of its tokens were the likeliest at their place.

    `filtered` says it of the first token where the banned ones are left out.
    """

    total: float
    greedy: tuple[bool, ...]
    filtered: bool

    def to_json(self) -> list[Any]:
        """In few characters."""
        return [self.total, "".join("01"[flag] for flag in self.greedy), self.filtered]


@dataclass(frozen=True)
class Continuation:
    """How does the model go on after `prompt`? The prompt and `max_new_tokens` fit its context together."""

    prompt: tuple[int, ...]
    options: GenerateOptions

    @property
    def length(self) -> int:
        """Tokens that are read and made."""
        return len(self.prompt) + self.options.max_new_tokens


@dataclass(frozen=True)
class Continued:
    """The answer: the new text before any stop string, and the log-likelihood of all new tokens in nats."""

    text: str
    logprob: float

    def to_json(self) -> list[Any]:
        """In few characters."""
        return [self.text, self.logprob]


Request = Likelihood | Continuation
Answer = Likely | Continued


def key_of(request: Request) -> str:
    """A hash of everything the answer depends on but the model."""
    if isinstance(request, Likelihood):
        content: list[Any] = ["likelihood", request.context, request.target, sorted(request.banned)]
    else:
        options = {name: value for name, value in dataclasses.asdict(request.options).items() if name != "batch_size"}
        content = ["continuation", request.prompt, options]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def answer_from_json(request: Request, content: Sequence[Any]) -> Answer:
    """The inverse of an answer's `to_json`."""
    if isinstance(request, Likelihood):
        total, greedy, filtered = content
        return Likely(float(total), tuple(flag == "1" for flag in greedy), bool(filtered))
    text, logprob = content
    return Continued(str(text), float(logprob))


@dataclass(frozen=True)
class Asked:
    """Requests with their answers, in order.

    Attributes:
        requests: what was asked about one example.
        answers: what the model answered.
    """

    requests: tuple[Request, ...] = field(repr=False)
    answers: tuple[Answer, ...]

    @property
    def likely(self) -> list[Likely]:
        """The answers, where all are likelihoods."""
        return [answer for answer in self.answers if isinstance(answer, Likely)]

    @property
    def texts(self) -> list[Continued]:
        """The answers, where all are continuations."""
        return [answer for answer in self.answers if isinstance(answer, Continued)]
