"""`gpt2spec generate` in use: Ctrl-C and `--interactive`."""

import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from spelling_models import spelling_parameters, write_run

from gpt2spec.cli.generate_output import uninterrupted
from gpt2spec.decoding.generator import Generator

TEXT = "The quick brown fox"


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "speller", spelling_parameters(TEXT))


@pytest.fixture
def interrupt_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Raise Ctrl-C after so many pieces of text."""

    def arrange(count: int) -> None:
        whole = Generator.stream

        def stream(self: Generator, *args: Any, **settings: Any) -> Iterator[Any]:
            yield from itertools.islice(whole(self, *args, **settings), count)
            raise KeyboardInterrupt

        monkeypatch.setattr(Generator, "stream", stream)

    return arrange


# Ctrl-C.


def test_interrupted_text_stays(speller: Path, run_generate: Any, interrupt_after: Any) -> None:
    interrupt_after(5)
    assert run_generate(speller, "--prompt", "T") == (130, "TThe q\n", "gpt2spec: interrupted\n")


def test_interrupted_json_has_what_there_is(speller: Path, run_generate: Any, interrupt_after: Any) -> None:
    """Two texts are finished, two have begun, and one has not."""
    interrupt_after(2 * 4 + 3)
    code, out, err = run_generate(speller, "--samples", 5, "--batch-size", 2, "--max-new-tokens", 4, "--json")
    assert (code, err) == (130, "gpt2spec: interrupted\n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["sample"], row["text"], row["finish_reason"]) for row in rows] == [
        (0, "The ", "length"),
        (1, "The ", "length"),
        (2, "Th", "interrupted"),
        (3, "T", "interrupted"),
    ]
    assert [len(row["logprobs"]) for row in rows] == [4, 4, 2, 1]


def test_finished_text_behind_an_interrupted_one_is_finished(
    speller: Path, run_generate: Any, interrupt_after: Any
) -> None:
    interrupt_after(10)
    code, out, _ = run_generate(speller, "--prompt", "T", "--prompt", "x" * (len(TEXT) - 1))
    assert (code, out) == (130, f"=== prompt 0, interrupted ===\nTThe qui\n\n=== prompt 1 ===\n{'x' * 18}ox\n")


def test_interrupted_beams_keep_what_is_known(
    speller: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Generator.search

    def search(self: Generator, *args: Any) -> Iterator[Any]:
        yield from itertools.islice(whole(self, *args), 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Generator, "search", search)
    code, out, err = run_generate(speller, "--beams", 2, "--prompt", "T", "--prompt", "x", "--json")
    assert (code, err, len(out.splitlines())) == (130, "gpt2spec: interrupted\n", 1)


def test_interrupt_waits_for_a_line_but_not_twice() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[int] = []
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == [1]


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    done: list[int] = []

    def work() -> None:
        with uninterrupted():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


# --interactive.


@pytest.fixture
def type_lines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulate typed lines and then Ctrl-D; an exception in the list is raised by reading that line."""

    def arrange(*lines: str | BaseException) -> None:
        waiting = iter([*lines, EOFError()])

        def read(prompt: str) -> str:
            print(prompt, end="")
            line = next(waiting)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)

    return arrange


def test_every_line_is_continued(speller: Path, run_generate: Any, type_lines: Any) -> None:
    type_lines("T", "", "xx")
    code, out, err = run_generate(speller, "--interactive", "--max-new-tokens", 5)
    assert (code, out) == (0, "> TThe q\n> The q\n> xxhe qu\n> \n")
    assert err.startswith("A line is a prompt;") and err.count("\n") == 1


def test_every_line_has_the_next_seed(babbler: Path, run_generate: Any, type_lines: Any) -> None:
    type_lines("ab", "ab", "ab")
    talk = run_generate(babbler, "--interactive", "--max-new-tokens", 8, "--seed", 5)[1]
    texts = [run_generate(babbler, "--prompt", "ab", "--max-new-tokens", 8, "--seed", seed)[1] for seed in (5, 6, 7)]
    assert talk == "".join(f"> {text}" for text in texts) + "> \n"
    assert len(set(texts)) == 3


def test_length_fits_each_line(speller: Path, run_generate: Any, type_lines: Any) -> None:
    type_lines("x" * 47, "x" * 46)
    out = run_generate(speller, "--interactive", "--ignore-end-of-text")[1]
    assert out == f"> {'x' * 47}<|endoftext|>\n> {'x' * 46}{2 * '<|endoftext|>'}\n> \n"


def test_unusable_lines_do_not_end_it(speller: Path, run_generate: Any, type_lines: Any) -> None:
    wrong = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    type_lines("x" * 60, "\udcff", wrong, KeyboardInterrupt(), "T")
    code, out, err = run_generate(speller, "--interactive", "--max-new-tokens", 3)
    assert (code, out) == (0, "> > > > \n> TThe\n> \n")
    too_long, surrogate, not_utf8 = err.splitlines()[1:]
    assert too_long == "gpt2spec: error: the prompt has 60 tokens; with 3 new ones it would pass n_ctx = 48"
    assert surrogate.startswith("gpt2spec: error: the text has the lone surrogate U+DCFF")
    assert not_utf8 == "gpt2spec: error: the line is not UTF-8 text"


def test_interrupt_ends_one_text_only(
    speller: Path, run_generate: Any, type_lines: Any, interrupt_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(5)
    type_lines("T", "x")
    code, out, err = run_generate(speller, "--interactive")
    assert (code, out) == (0, "> TThe q\n> xThe q\n> \n")
    assert "interrupted" not in err


def test_interactive_shows_several_samples(speller: Path, run_generate: Any, type_lines: Any) -> None:
    type_lines("T")
    out = run_generate(speller, "--interactive", "--max-new-tokens", 3, "--samples", 2)[1]
    assert out == "> === sample 0 ===\nTThe\n\n=== sample 1 ===\nTThe\n> \n"
