"""Strange sources give the right documents or one clear message."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from gpt2spec.cli.main import main
from gpt2spec.data import PrepareOptions, open_prepared, prepare, read_manifest
from gpt2spec.data.journal import is_kept
from gpt2spec.errors import DataError, StorageError
from gpt2spec.tokenizer import byte_tokenizer

ALL = PrepareOptions(val_fraction=0)


def documents(folder: Path) -> list[str]:
    """The texts of the training split."""
    tokenizer = byte_tokenizer()
    tokens = np.concatenate(open_prepared(folder).train.shards)
    starts = np.flatnonzero(tokens == tokenizer.end_of_text)
    return [tokenizer.decode(part[1:].tolist()) for part in np.split(tokens, starts)[1:]]


def prepared(out: Path, *paths: Path, options: PrepareOptions = ALL) -> list[str]:
    prepare(paths, out, options, tokenizer=byte_tokenizer())
    return documents(out)


# Rows


@pytest.mark.parametrize("kind", ["dictionary", "dictionary of large_string", "string_view", "large_string"])
def test_parquet_s_kinds_of_text_are_all_read(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = ["one", None, "two é", "one"]
    if kind.startswith("dictionary"):
        column = arrow.array(texts, arrow.large_string() if "large" in kind else arrow.string()).dictionary_encode()
    else:
        column = arrow.array(texts, getattr(arrow, kind)())
    parquet.write_table(arrow.table({"text": column}), tmp_path / "x.parquet")
    assert prepared(tmp_path / "out", tmp_path / "x.parquet") == ["one", "two é", "one"]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    if name == "x.csv":
        (tmp_path / name).write_text("text,text\na,b\n")
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_arrays([arrow.array(["a"])] * 2, ["text", "text"]), tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} has 2 columns 'text'; give each a name of its own"):
        prepared(tmp_path / "out", tmp_path / name)


@pytest.mark.parametrize("text", ['\ufeff"text","id"\n"a, b",1\n', '\ufefftext,id\n"a, b",1\n'])
def test_a_byte_order_mark_is_no_part_of_a_header(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert prepared(tmp_path / "out", tmp_path / "x.csv") == ["a, b"]


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b"\xef\xbb"])
def test_nothing_but_a_byte_order_mark_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"no text|not UTF-8"):
        prepared(tmp_path / "out", tmp_path / "x.jsonl")


def test_what_a_message_quotes_is_short_and_shows_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"' + "k" * 100_000 + '": 1}\n')
    with pytest.raises(DataError, match=r"it has k{400}…") as failure:
        prepared(tmp_path / "out", tmp_path / "x.jsonl")
    assert len(str(failure.value)) < 700
    (tmp_path / "x.csv").write_bytes("id,text\n1,a\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"no column 'text'; it has .*\\x00") as failure:
        prepared(tmp_path / "out", tmp_path / "x.csv")
    assert "\0" not in str(failure.value)


# Files


def test_a_stream_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "x.txt")
    with pytest.raises(DataError, match=r"x\.txt is no file: give a stream by itself"):
        prepared(tmp_path / "out", tmp_path / "in")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have names in UTF-8 only")
def test_a_file_s_name_may_be_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in (b"bad\xff.txt", b"new\nline.txt"):
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_text(f"in {len(name)}")
    assert sorted(prepared(tmp_path / "out", tmp_path / "in")) == ["in 12", "in 8"]
    assert {source.name for source in read_manifest(tmp_path / "out").sources} == {r"bad\xff.txt", "new\nline.txt"}


def test_links_in_a_folder(tmp_path: Path) -> None:
    """Links to files are followed; links to folders are not, so that reading always ends."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "elsewhere.txt").write_text("elsewhere")
    (folder / "file.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "again").symlink_to(folder)
    (folder / "named.txt").symlink_to(tmp_path)
    assert prepared(tmp_path / "out", folder) == ["elsewhere"]
    (folder / "z.txt").symlink_to(folder / "z.txt")
    (tmp_path / "held-out.txt").write_text("held out")
    for validation in ([], [tmp_path / "held-out.txt"]):
        with pytest.raises(DataError, match=r"cannot read .*z\.txt: Too many levels of symbolic links"):
            prepare([folder], tmp_path / "out", validation=validation)


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "x.txt").write_text("text")
    scan = os.scandir

    def denied(path: str) -> object:  # the superuser may read everything
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DataError, match=r"cannot read .*closed: Permission denied"):
        prepared(tmp_path / "out", tmp_path / "in")


def test_names_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*: File name too long"):
        prepared(tmp_path / "out", tmp_path / ("x" * 300 + ".txt"))
    (tmp_path / "x.txt").write_text("text")
    for length in (300, 250):  # the second only as a work folder
        with pytest.raises(StorageError, match=r"cannot write .*: File name too long"):
            prepared(tmp_path / ("x" * length), tmp_path / "x.txt")
    assert not is_kept(tmp_path / ("x" * 300))


def test_standard_input_that_is_no_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"PAR1")))
    with pytest.raises(DataError, match="Parquet is not read from standard input"):
        prepared(tmp_path / "out", Path("-"), options=PrepareOptions(format="parquet"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="cannot read standard input: it is closed"):
        prepared(tmp_path / "out", Path("-"))


def test_what_validates_is_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")
    (tmp_path / "other.txt").symlink_to(folder / "b.txt")
    line = ["data", "prepare", str(folder), "--validation", str(tmp_path / "other.txt"), "--tokenizer", "bytes"]
    line += ["--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert "b.txt is given for training and for validation" in capsys.readouterr().err
    assert main([*line, "--drop-duplicates"]) == 0
    assert documents(tmp_path / "out") == ["first"]
