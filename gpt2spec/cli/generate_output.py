"""This module prints the texts of `gpt2spec generate`: one as it is made, or several in order, or all as JSON.

Standard output has the texts, with headings if there are several, and nothing else; figures go to standard error.
"""

import dataclasses
import json
import signal
import sys
import threading
import unicodedata
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from gpt2spec.cli.generate_progress import Progress

if TYPE_CHECKING:
    from gpt2spec.decoding.generator import Generator
    from gpt2spec.decoding.options import GenerateOptions
    from gpt2spec.decoding.sequence import Generation, Piece

FIELDS = ("prompt", "sample", "text", "tokens", "logprobs", "finish_reason", "alternatives", "score")
"""The keys of a JSON line, in order; keys without a value are left out."""

INTERRUPTED = "interrupted"
"""The finish reason of a text that Ctrl-C ended."""

Write = Callable[["Generation", str], None]
"""Prints a text, given why it ended."""


def show(
    generator: "Generator",
    prompts: Sequence[str],
    ids: Sequence[Sequence[int]],
    options: "GenerateOptions",
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Continue prompts, given as text and as token ids, and print the texts.

    Ctrl-C prints the texts so far and raises `KeyboardInterrupt`.
    """
    texts = len(prompts) * options.samples
    if texts == 1 and options.beams == 1 and not as_json:
        progress = Progress(texts, options.max_new_tokens, silent=True)
        show_stream(generator, prompts[0], ids[0], options, progress)
    else:
        progress = Progress(texts, options.max_new_tokens, silent=quiet)
        write = write_json if as_json else Blocks(prompts, options.samples)
        show_in_order(generator, ids, options, write, progress)
    if not quiet:
        progress.summarise()


def show_stream(
    generator: "Generator", prompt: str, ids: Sequence[int], options: "GenerateOptions", progress: Progress
) -> None:
    """Print a prompt and its continuation while it is made."""
    emit(prompt)
    try:
        for piece in generator.stream([ids], options):
            progress.add(int(piece.choice is not None))
            if piece.text:
                emit(piece.text)
    finally:
        emit("\n")


def show_in_order(
    generator: "Generator",
    prompts: Sequence[Sequence[int]],
    options: "GenerateOptions",
    write: Write,
    progress: Progress,
) -> None:
    """Print texts in order, each as soon as it and those before it are finished."""
    places = deque((prompt, sample) for prompt in range(len(prompts)) for sample in range(options.samples))
    pieces: defaultdict[tuple[int, int], list[Piece]] = defaultdict(list)
    try:
        if options.beams > 1:
            for generation in generator.search(prompts, options):
                progress.add(len(generation.tokens))
                progress.finish(len(generation.tokens))
                with uninterrupted(), progress.bar_hidden():
                    write(generation, generation.finish_reason)
            return
        for piece in generator.stream(prompts, options, promptly=False):
            text = pieces[piece.prompt, piece.sample]
            text.append(piece)
            progress.add(int(piece.choice is not None))
            if piece.finish_reason is not None:
                progress.finish(len(text) - (piece.choice is None))
            while places and is_finished(pieces[places[0]]):
                with uninterrupted(), progress.bar_hidden():
                    write(*text_of(generator, pieces.pop(places.popleft()), options))
    except KeyboardInterrupt:
        progress.close()
        for place in places:
            if pieces[place]:
                write(*text_of(generator, pieces[place], options))
        raise
    finally:
        progress.close()


def is_finished(pieces: Sequence["Piece"]) -> bool:
    """Whether these pieces are a whole text."""
    return bool(pieces) and pieces[-1].finish_reason is not None


def text_of(generator: "Generator", pieces: Sequence["Piece"], options: "GenerateOptions") -> tuple["Generation", str]:
    """The text that the pieces make up, and why it ended."""
    *before, last = pieces
    whole = dataclasses.replace(last, finish_reason=last.finish_reason or "length")
    return generator.collect([*before, whole], options), last.finish_reason or INTERRUPTED


class Blocks:
    """Prints prompts with their continuations, under headings if there are several."""

    def __init__(self, prompts: Sequence[str], samples: int) -> None:
        self.prompts, self.samples = prompts, samples
        self.first = True

    def __call__(self, generation: "Generation", reason: str) -> None:
        """Print one continuation."""
        text = self.prompts[generation.prompt] + (generation.text or "") + "\n"
        if heading := ", ".join(self.words(generation, reason)):
            text = ("" if self.first else "\n") + f"=== {heading} ===\n" + text
        self.first = False
        emit(text)

    def words(self, generation: "Generation", reason: str) -> Iterator[str]:
        """The parts of a heading; there are none for a single text without anything special."""
        if len(self.prompts) > 1:
            yield f"prompt {generation.prompt}"
        if self.samples > 1:
            yield f"sample {generation.sample}"
        if generation.score is not None and (len(self.prompts) > 1 or self.samples > 1):
            yield f"score {generation.score:.4f}"
        if reason == INTERRUPTED:
            yield reason


def write_json(generation: "Generation", reason: str) -> None:
    """Print a text as one line of ASCII, which every terminal and every program can read."""
    fields: dict[str, Any] = {**vars(generation), "finish_reason": reason}
    emit(json.dumps({name: fields[name] for name in FIELDS if fields[name] is not None}) + "\n")


def emit(text: str) -> None:
    """Print at once. Control characters are shown as escapes on a terminal."""
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def visible(text: str) -> str:
    r"""`text` with `\x1b` and the like for control characters other than line feeds and tabs."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode() for c in text
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C to the end of the block, so that no line is incomplete or lost; a second Ctrl-C is not delayed.

    Nothing is changed outside the main thread, or if Ctrl-C is ignored or has another handler.
    """
    if threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if received:
            raise KeyboardInterrupt
