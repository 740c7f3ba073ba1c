"""This module learns a byte-level BPE from text.

The words of the text, as GPT-2's pattern finds them, begin as sequences of bytes. In each step, the most frequent pair
of neighbours in all words becomes a new token everywhere. Among equally frequent pairs, the one whose left token has
the lowest id is taken, and among those, the one whose right token has the lowest id. Hugging Face's `tokenizers` does
the work; tests verify that it follows these rules.

Source: "Language Models are Unsupervised Multitask Learners", section 2.2, and Sennrich et al., "Neural Machine
Translation of Rare Words with Subword Units" (2016), algorithm 1.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from gpt2spec.errors import ConfigError, DataError
from gpt2spec.tokenizer.bpe import Tokenizer
from gpt2spec.tokenizer.pieces import split_safely
from gpt2spec.tokenizer.vocabulary import VERSION_LINE, byte_characters

SMALLEST_VOCABULARY = 256 + 1
"""The smallest vocabulary has all bytes and `<|endoftext|>`; every further token is a merge."""
PIECE_CHARACTERS = 1 << 14
"""The length of the pieces of text for `tokenizers`, which holds 256 of them at a time."""


def train_tokenizer(documents: Iterable[Iterable[str]], vocab_size: int, *, progress: bool = False) -> Tokenizer:
    """Learn a tokenizer of `vocab_size` entries.

    Memory grows with the number of different words, not with the text.

    Args:
        documents: each is an iterable of pieces of its text, divided anywhere.
        vocab_size: the size of the vocabulary: 256 bytes, the merges, and `<|endoftext|>`.
        progress: whether to show on a terminal how far the work is.

    Raises:
        ConfigError: for a vocabulary too small to hold every byte, or where `tokenizers` is not installed.
        DataError: for text in which too few pairs can be merged; the message says how many.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"a vocabulary has at least {SMALLEST_VOCABULARY} entries, 256 bytes and <|endoftext|>, not {vocab_size}"
        )
    try:
        from tokenizers import Tokenizer as Learner
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer
    except ImportError as error:
        raise ConfigError('learning a tokenizer needs tokenizers: pip install "gpt2spec[tokenizers]"') from error

    learner = Learner(BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    alphabet = list(byte_characters().values())
    trainer = BpeTrainer(
        vocab_size=vocab_size - 1, min_frequency=1, initial_alphabet=alphabet, special_tokens=[], show_progress=progress
    )
    _interruptibly(lambda pieces: learner.train_from_iterator(pieces, trainer), _pieces(documents))
    merges = json.loads(learner.to_str())["model"]["merges"]
    wanted = vocab_size - SMALLEST_VOCABULARY
    if len(merges) < wanted:
        raise DataError(
            f"the text has only {len(merges)} merges, for {len(merges) + SMALLEST_VOCABULARY} entries, not {vocab_size}"
            ": give more text, or a smaller vocabulary"
        )
    lines = (VERSION_LINE, *(f"{left} {right}" for left, right in merges))
    return Tokenizer("".join(f"{line}\n" for line in lines).encode(), name="bpe")


def _interruptibly(learn: Callable[[Iterator[str]], object], pieces: Iterator[str]) -> None:
    """Call `learn` with the pieces in a thread. In the main thread, Ctrl-C would wait for minutes until it returns."""
    stopped, outcome = threading.Event(), Future[None]()

    def until_stopped() -> Iterator[str]:
        for piece in pieces:
            if stopped.is_set():
                return
            yield piece

    def run() -> None:
        try:
            learn(until_stopped())
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="gpt2spec-learn", daemon=True).start()
    try:
        outcome.result()
    except KeyboardInterrupt:
        stopped.set()
        with contextlib.suppress(TimeoutError):
            outcome.exception(timeout=1.0)
        raise


def _pieces(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    """Divide the documents into short pieces without dividing a word."""
    for document in documents:
        short = (text[i : i + PIECE_CHARACTERS] for text in document for i in range(0, len(text), PIECE_CHARACTERS))
        yield from split_safely(short)
