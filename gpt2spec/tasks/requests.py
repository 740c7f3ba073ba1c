"""The two kinds of requests that a task makes to a model, and the answers. Texts are token ids here."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpt2spec.decoding.options import GenerateOptions


@dataclass(frozen=True)
class Likelihood:
    """A request for the likelihood of `target` after `context`, which is not empty.

    A context that is too long loses its beginning; a target that is too long is read in windows. A filtered guess of
    the target's first token leaves out the tokens in `banned`.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    banned: frozenset[int] = frozenset()

    @property
    def length(self) -> int:
        """The number of tokens that the model reads."""
        return len(self.context) + len(self.target) - 1


@dataclass(frozen=True)
class Likely:
    """The answer to `Likelihood`.

    Attributes:
        total: the log-likelihood of the target in nats.
        greedy: for each token of the target, whether it was the likeliest.
        filtered: whether the first token was the likeliest of those that are not banned.
    """

    total: float
    greedy: tuple[bool, ...]
    filtered: bool

    def to_json(self) -> list[Any]:
        """A short form for JSON."""
        return [self.total, "".join("01"[flag] for flag in self.greedy), self.filtered]


@dataclass(frozen=True)
class Continuation:
    """A request for the text after `prompt`. The prompt and `max_new_tokens` together fit the model's context."""

    prompt: tuple[int, ...]
    options: GenerateOptions

    @property
    def length(self) -> int:
        """The number of tokens that are read and generated."""
        return len(self.prompt) + self.options.max_new_tokens


@dataclass(frozen=True)
class Continued:
    """The answer to `Continuation`: the text before any stop string, and the log-likelihood of its tokens."""

    text: str
    logprob: float

    def to_json(self) -> list[Any]:
        """A short form for JSON."""
        return [self.text, self.logprob]


Request = Likelihood | Continuation
Answer = Likely | Continued


def key_of(request: Request) -> str:
    """A hash of everything that the answer depends on, except the model."""
    if isinstance(request, Likelihood):
        content: list[Any] = ["likelihood", request.context, request.target, sorted(request.banned)]
    else:
        options = {name: value for name, value in dataclasses.asdict(request.options).items() if name != "batch_size"}
        content = ["continuation", request.prompt, options]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def answer_from_json(request: Request, content: Sequence[Any]) -> Answer:
    """Read an answer that `to_json` wrote."""
    if isinstance(request, Likelihood):
        total, greedy, filtered = content
        return Likely(float(total), tuple(flag == "1" for flag in greedy), bool(filtered))
    text, logprob = content
    return Continued(str(text), float(logprob))


@dataclass(frozen=True)
class Asked:
    """Requests with their answers, in order.

    Attributes:
        requests: the requests about one example.
        answers: the model's answers.
    """

    requests: tuple[Request, ...] = field(repr=False)
    answers: tuple[Answer, ...]

    @property
    def likely(self) -> list[Likely]:
        """The answers to the requests for likelihoods."""
        return [answer for answer in self.answers if isinstance(answer, Likely)]

    @property
    def texts(self) -> list[Continued]:
        """The answers to the requests for continuations."""
        return [answer for answer in self.answers if isinstance(answer, Continued)]
