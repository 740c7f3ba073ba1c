"""`gpt2spec tokenize` shows where tokens begin, for any tokenizer, and counts files of any size."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.cli.main import main
from gpt2spec.cli.tokenize import line, offsets
from gpt2spec.tokenizer import gpt2_tokenizer, train_tokenizer, write_tokenizer

Run = Callable[..., str]


@pytest.fixture
def tokenize(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> str:
        assert main(["tokenize", *map(str, arguments)]) == 0
        return capsys.readouterr().out

    return run


def test_the_listing_has_offsets_in_bytes_and_characters(tokenize: Run) -> None:
    rows = [row.split() for row in tokenize("é🦙!").splitlines()[:-2]]
    assert rows[0] == ["ID", "BYTE", "CHAR", "TOKEN"]
    assert [row[1:3] for row in rows[1:]] == [["0", "0"], ["2", "1"], ["4", "1"], ["5", "1"], ["6", "2"]]


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_offsets_are_those_of_the_text(text: str) -> None:
    tokens = gpt2_tokenizer().decode_each(gpt2_tokenizer().encode(text))
    begins = [len(text[:i].encode()) for i in range(len(text))]
    for byte, character in offsets(tokens):
        assert begins[character] == max(begin for begin in begins if begin <= byte)


def test_a_line_tells_tokens_apart(tokenize: Run) -> None:
    assert tokenize("--line", "Hi there,\n\tyou 🦙") == "Hi|·there|,|↵|␉|you|·\\xf0\\x9f|\\xa6|\\x99\n"
    assert line([b"a", b" b"], colours=True) == "\x1b[44ma\x1b[0m\x1b[45m·b\x1b[0m"


def test_the_tokenizer_can_be_named_or_that_of_a_checkpoint(tokenize: Run, babbler: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, train_tokenizer([["banana banana"]], 260))
    assert tokenize("--count", "banana", "--tokenizer", "bytes") == "6\n"
    assert tokenize("--count", "banana", "--checkpoint", babbler) == "6\n"
    assert tokenize("--count", "banana", "--tokenizer", tmp_path) == "2\n"  # ban, ana
    assert json.loads(tokenize("--json", "banana", "--tokenizer", tmp_path))["byte_offsets"] == [0, 3]


def test_files_and_folders_are_counted_in_a_table(tokenize: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello world")
    (tmp_path / "b.txt").write_text("<|endoftext|>")
    table = [row.split() for row in tokenize("--file", tmp_path).splitlines()]
    assert [row[1:] for row in table[1:]] == [["2", "11", "5.500"], ["7", "13", "1.857"], ["9", "24", "2.667"]]
    found = json.loads(tokenize("--json", "--special", "--file", tmp_path / "a.txt", tmp_path / "b.txt"))
    assert [row["tokens"] for row in found] == [2, 1]


def test_counting_takes_no_memory_for_the_text(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("w") as file:
        file.writelines("It is a truth universally acknowledged, \n" * 1000 for _ in range(1000))
    code = (
        "import resource, sys; from gpt2spec.cli.main import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3\n"
        "main(['tokenize', '--count', 'warm']); before = peak()\n"
        "main(['tokenize', '--count', '--file', sys.argv[1]]); print(peak() - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.txt")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    _, tokens, growth = process.stdout.split()
    assert int(tokens) % 1000 == 0 or int(tokens) > 8_000_000
    assert float(growth) < 80, "MB, for 41 MB of text that would be 41 and 36 of ids"
