"""This module turns the texts of a task into requests for a model with a given tokenizer and context."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.errors import ConfigError
from gpt2spec.metrics.windows import windows
from gpt2spec.tasks.requests import Continuation, Likelihood
from gpt2spec.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reader:
    """A model as tasks see it.

    Attributes:
        tokenizer: its tokenizer. `<|endoftext|>` in texts is ordinary text.
        n_ctx: the most tokens that it reads.
        stride: how many tokens windows over long texts move on by; see `gpt2spec.metrics.windows`.
    """

    tokenizer: Tokenizer
    n_ctx: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.n_ctx:
            raise ConfigError(f"a stride lies from 1 to the context of {self.n_ctx} tokens, not {self.stride}")

    def likelihood(self, context: str, target: str, banned: frozenset[int] = frozenset()) -> Likelihood:
        """A request for the likelihood of `target` after `context`.

        White space at the end of the context belongs to the target, as in GPT-2's tokens. Both are encoded as one
        text; if the context alone has n tokens, the target's tokens are those after the first n. An empty context is
        `<|endoftext|>`.
        """
        end = len(context.rstrip())
        context, target = context[:end], context[end:] + target
        before = self.tokenizer.encode(context)
        whole = self.tokenizer.encode(context + target)
        start = before or [self.tokenizer.end_of_text]
        after = whole[len(before) :] or self.tokenizer.encode(target)  # where both have become one token
        return Likelihood(tuple(start), tuple(after), banned)

    def text(self, text: str) -> list[Likelihood]:
        """Requests for windows over a text after `<|endoftext|>`, so that every token is predicted once."""
        return self.windows(self.tokenizer.encode(text))

    def windows(self, tokens: Sequence[int]) -> list[Likelihood]:
        """Requests for windows over tokens after `<|endoftext|>`, so that every token is predicted once."""
        tokens = [self.tokenizer.end_of_text, *tokens]
        return [
            Likelihood(tuple(tokens[w.begin : w.first]), tuple(tokens[w.first : w.end]))
            for w in windows(len(tokens), self.n_ctx, self.stride)
        ]

    def continuation(self, prompt: str, max_new_tokens: int, document: str = "", **settings: Any) -> Continuation:
        """A request for the text that follows `document` + `prompt`; `settings` are options of `GenerateOptions`.

        Decoding is greedy unless the settings differ. New tokens take at most half of the context, and they end at
        `<|endoftext|>`. Where the rest does not fit, the end of the document is left out first, and then the beginning
        of the prompt.
        """
        options = GenerateOptions(
            max_new_tokens=max(1, min(max_new_tokens, self.n_ctx // 2)),
            stop_tokens=(self.tokenizer.end_of_text,),
            **{"temperature": 0.0, **settings},
        )
        room = self.n_ctx - options.max_new_tokens
        tokens = self.tokenizer.encode(document + prompt) or [self.tokenizer.end_of_text]
        if len(tokens) > room:
            last = self.tokenizer.encode(prompt)
            tokens = [*self.tokenizer.encode(document)[: max(0, room - len(last))], *last][-room:]
        return Continuation(tuple(tokens), options)
