"""Documents are found in every format and assigned to a split; errors say why a row is no document."""

import bz2
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from backports import zstd
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2spec.cli.main import main
from gpt2spec.data import PrepareOptions, Tokens, corpus, open_prepared, prepare, read_manifest, validation_tail
from gpt2spec.data.corpus import Corpus
from gpt2spec.data.duplicates import SeenTexts, text_hash
from gpt2spec.data.formats import separated
from gpt2spec.data.prepare import entropy_of
from gpt2spec.data.shards import count_tokens
from gpt2spec.data.sources import text_source
from gpt2spec.errors import ConfigError, DataError
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer

TEXTS = [
    "A first text.\nOf two lines.",
    'It says "quoted, with a comma" and <|endoftext|>, which is ordinary.',
    "zu früh: 🦙 œ\r\n\ttabs",
    "x" * 70_000 + " and a long one " * 9000,
    "The last one.",
]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}
ALL = PrepareOptions(val_fraction=0)


def write(folder: Path, name: str, texts: list[str]) -> Path:
    """Write documents to a file in the format and compression that its name says."""
    path, form = folder / name, name.split(".")[1]
    if form == "parquet":
        pyarrow.parquet.write_table(
            pyarrow.table({"id": range(len(texts)), "text": texts}), path, row_group_size=2, write_page_checksum=True
        )
        return path
    if form == "jsonl":
        text = "".join(json.dumps({"id": i, "text": each}) + "\n" for i, each in enumerate(texts))
    elif form == "csv":
        out = io.StringIO()
        csv.writer(out).writerows([["id", "text"], *enumerate(texts)])
        text = out.getvalue()
    else:
        text = "###".join(texts)
    path.write_bytes(COMPRESS[path.suffix if path.suffix in COMPRESS else ""](text.encode()))
    return path


def documents(folder: Path, split: str = "train") -> list[str]:
    """The texts of a split, decoded from the tokens after each `<|endoftext|>`."""
    dataset = open_prepared(folder)
    tokens = np.concatenate([np.empty(0, np.uint16), *getattr(dataset, split).shards])
    starts = np.flatnonzero(tokens == gpt2_tokenizer().end_of_text)
    assert len(tokens) == 0 or starts[0] == 0
    return [gpt2_tokenizer().decode(part[1:].tolist()) for part in np.split(tokens, starts)[1:]]


# Formats


@pytest.mark.parametrize(
    "name",
    ["x.parquet", *(f"x.{form}{suffix}" for form in ("txt", "jsonl", "csv") for suffix in COMPRESS)],
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, TEXTS)
    split_on = "###" if ".txt" in name else None
    manifest = prepare([path], tmp_path / "out", PrepareOptions(val_fraction=0, split_on=split_on))
    assert documents(tmp_path / "out") == TEXTS
    assert manifest.documents.train == len(TEXTS)
    assert manifest.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert manifest.source_bytes == path.stat().st_size
    tokens = sum(len(gpt2_tokenizer().encode(text)) for text in TEXTS)
    assert manifest.train_tokens == tokens + len(TEXTS), "also where a long document was cut for the encoder"


def test_folders_patterns_and_standard_input_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    write(folder, "b.jsonl.gz", TEXTS[:2])
    write(folder / "sub", "a.csv", TEXTS[2:3])
    (folder / "ignored.md").write_text("not this")
    prepare([folder], tmp_path / "all", ALL)
    assert documents(tmp_path / "all") == TEXTS[:3]
    prepare([folder / "**" / "*.csv"], tmp_path / "some", ALL)
    assert documents(tmp_path / "some") == TEXTS[2:3]
    with open(write(tmp_path, "piped.jsonl", TEXTS)) as file:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdin", file)
        prepare([Path("-")], tmp_path / "piped", PrepareOptions(val_fraction=0, format="jsonl"))
    assert documents(tmp_path / "piped") == TEXTS


def test_only_one_source_can_be_a_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="only one of the sources can be a stream"):
        prepare([Path("-"), tmp_path / "pipe"], tmp_path / "out")


def test_several_compressed_streams_in_a_file_are_one_text(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        path = tmp_path / f"x.txt{suffix}"
        path.write_bytes(compress(b"one ") + compress(b"two ") + compress(b"three"))
        prepare([path], tmp_path / "out", ALL)
        assert documents(tmp_path / "out") == ["one two three"]


def test_a_small_file_may_hold_a_text_much_larger_than_it(tmp_path: Path) -> None:
    for suffix, compress in COMPRESS.items():
        (tmp_path / f"x.txt{suffix}").write_bytes(compress(b"ab " * 1_000_000))
        manifest = prepare([tmp_path / f"x.txt{suffix}"], tmp_path / "out", ALL, tokenizer=byte_tokenizer())
        assert manifest.train_tokens == 3_000_001


@given(st.lists(st.text("ab#", max_size=5), max_size=12), st.text("ab#", min_size=1, max_size=3))
def test_documents_are_separated_wherever_the_text_is_cut(pieces: list[str], separator: str) -> None:
    found: list[str] = []
    for begins, text in separated(pieces, separator):
        found = [*found, text] if begins else [*found[:-1], found[-1] + text]
    expected = "".join(pieces).split(separator)
    assert found == (expected[:-1] if expected[-1] == "" else expected)


def test_text_of_the_user_never_becomes_a_mark(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a<|endoftext|>b")
    prepare([tmp_path / "x.txt"], tmp_path / "whole", ALL)
    assert documents(tmp_path / "whole") == ["a<|endoftext|>b"]
    prepare([tmp_path / "x.txt"], tmp_path / "split", PrepareOptions(val_fraction=0, split_on="<|endoftext|>"))
    assert documents(tmp_path / "split") == ["a", "b"]


def test_blank_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("one## \n##two##")
    (tmp_path / "c.jsonl").write_text('{"text": ""}\n\n{"text": null}\n{"text": "three"}')
    manifest = prepare([tmp_path], tmp_path / "out", PrepareOptions(val_fraction=0, split_on="##"))
    assert documents(tmp_path / "out") == ["one", "two", "three"]
    assert manifest.documents.blank >= 3


# Rows that are no documents


BAD = {
    "x.jsonl": [
        (b'{"text": "good"}', None),
        (b'{"text": 5}', "line 2: the field 'text' is no text but 5"),
        (b'{"text": "cut o', r"line 3: not JSON \(Invalid control character at column 16"),
        (b'{"other": "", "id": 1}', r"line 4: it has no field 'text'; it has other, id \(choose with --field\)"),
        (b'["text"]', "line 5: a JSON object was expected"),
        (b'{"text": "\xff"}', "line 6: not UTF-8: the byte 0xff at offset 10"),
        (rb'{"text": "\ud83d"}', r"line 7: the text has the lone surrogate U\+D83D"),
        (b"[" * 100_000, "line 8: not JSON that can be read: it is nested too deeply"),
        (b'{"text": "fine"}', None),
    ],
    "x.csv": [
        (b"id,text", None),
        (b"1,good", None),
        (b"2,good,too", "line 3: it has 3 columns, the header 2"),
        (b"3,b\xff", "line 4: the text has the wrong byte 0xFF"),
        (b'4,"a"b', "line 5: not CSV"),
        (b"5,fine", None),
    ],
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, lines in BAD.items() for i, (_, reason) in enumerate(lines) if reason]
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, name: str, number: int) -> None:
    good = {i for i, (_, reason) in enumerate(BAD[name]) if reason is None}
    lines = [line for i, (line, _) in enumerate(BAD[name]) if i in good or i == number]
    (tmp_path / name).write_bytes(b"\n".join(lines))
    reason = re.sub(r"line \d+", f"line {sorted([*good, number]).index(number) + 1}", BAD[name][number][1] or "")
    with pytest.raises(DataError, match=rf"{name}, {reason}.*--skip-bad"):
        prepare([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\n".join(line for line, _ in BAD[name]))
    manifest = prepare([tmp_path / name], tmp_path / "out", PrepareOptions(val_fraction=0, skip_bad=True))
    assert documents(tmp_path / "out") == ["good", "fine"]
    assert manifest.documents.bad == sum(reason is not None for _, reason in BAD[name])


def test_a_wrong_column_is_answered_with_those_there_are(tmp_path: Path) -> None:
    for name in ("x.csv", "x.parquet", "x.jsonl"):
        path = write(tmp_path, name, TEXTS)
        with pytest.raises(DataError, match=r"has no (column|field) 'txet'; it has id, text \(choose with --field\)"):
            prepare([path], tmp_path / "out", PrepareOptions(field="txet"))
        with pytest.raises(DataError, match=r"'id'.* is no text but"):
            prepare([write(tmp_path, "x.parquet", TEXTS)], tmp_path / "out", PrepareOptions(field="id"))
    with pytest.raises(DataError, match=r"there is no text in .*all rows are bad: .*line 1: it has no field 'txet'"):
        prepare([tmp_path / "x.jsonl"], tmp_path / "out", PrepareOptions(field="txet", skip_bad=True))


def test_a_line_that_is_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2spec.data.formats.LONGEST_ROW", 3_000_000)
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "ab " * 500_000}))
    assert prepare([tmp_path / "x.jsonl"], tmp_path / "out", ALL).text_bytes == 1_500_000
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "ab " * 2_000_000}))
    with pytest.raises(DataError, match="a line of more than 3000000 bytes"):
        prepare([tmp_path / "x.jsonl"], tmp_path / "out", ALL)


# Damaged files


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_compressed_file_that_is_cut_off_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix]("\n".join(TEXTS[:3] * 3).encode())
    path = tmp_path / f"x.txt{suffix}"
    for length in [0, 1, *range(2, len(data), 7), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"x\.txt\.\w+ is (cut off|damaged)"):
            prepare([path], tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_flipped_byte_in_a_compressed_file_is_an_error_or_changes_nothing(tmp_path: Path, suffix: str) -> None:
    text = "\n".join(TEXTS[:3] * 3)
    options = {zstd.CompressionParameter.checksum_flag: 1}
    data = zstd.compress(text.encode(), options=options) if suffix == ".zst" else COMPRESS[suffix](text.encode())
    path = tmp_path / f"x.txt{suffix}"
    caught = 0
    for place in range(0, len(data), 3):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        try:
            prepare([path], tmp_path / "out", ALL)
        except DataError:
            caught += 1
        else:
            assert documents(tmp_path / "out") == [text]
    assert caught > len(data) / 3 * 0.8


def test_junk_after_a_compressed_text_is_an_error(tmp_path: Path) -> None:
    for suffix in (".gz", ".xz", ".zst"):
        path = tmp_path / f"x.txt{suffix}"
        path.write_bytes(COMPRESS[suffix](b"text") + b"junk")
        with pytest.raises(DataError, match=r"is (damaged|cut off)"):
            prepare([path], tmp_path / "out")


def test_a_damaged_parquet_file_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "x.parquet", TEXTS[:3])
    data = path.read_bytes()
    inside = data.index(b"two lines")
    for wrong in (data[:-20], data[: len(data) // 2], b"", data[:inside] + b"2" + data[inside + 1 :]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=r"cannot read .*x\.parquet as Parquet"):
            prepare([path], tmp_path / "out")


@pytest.mark.parametrize("name", ["x.parquet", "x.txt.zst"])
def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = write(tmp_path, name, TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(ConfigError, match=r"pip install 'gpt2spec\[(parquet|zstd)\]'"):
        prepare([path], tmp_path / "out")


def test_what_cannot_be_decompressed_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.txt.bz2").write_bytes(bz2.compress(b"text"))
    with pytest.raises(DataError, match="is not UTF-8 text"):
        prepare([tmp_path / "x.txt.bz2"], tmp_path / "out")
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(DataError, match=r"is not text: \.json files"):
        prepare([tmp_path / "x.json.gz"], tmp_path / "out")


# Splits


def split_of(texts: list[str], options: PrepareOptions) -> dict[str, str]:
    """The split of every document."""
    sources = [text_source(str(i), text) for i, text in enumerate(texts)]
    return {text: piece.split for piece, text in Corpus(sources, options).pieces()}


MANY = [f"Document {i}: {'word ' * (i % 7)}" for i in range(2000)]


def test_documents_are_drawn_by_themselves() -> None:
    found = split_of(MANY, PrepareOptions(val_fraction=0.2))
    assert split_of(MANY[::-3], PrepareOptions(val_fraction=0.2)).items() <= found.items(), "order does not matter"
    share = list(found.values()).count("val") / len(MANY)
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / len(MANY)) ** 0.5
    assert split_of(MANY, PrepareOptions(val_fraction=0.2, seed=1)) != found
    more = split_of(MANY, PrepareOptions(val_fraction=0.3))
    assert {text for text in found if found[text] == "val"} < {text for text in more if more[text] == "val"}


def test_the_draw_is_the_same_for_ever() -> None:
    found = split_of(MANY[:40], PrepareOptions(val_fraction=0.2))
    assert [i for i, text in enumerate(MANY[:40]) if found[text] == "val"] == [2, 7, 10, 15, 16, 21, 26, 30, 33, 35]


def test_equal_documents_are_in_one_split_and_a_long_one_is_in_one_whole() -> None:
    long = [text + "x y " * 50_000 for text in MANY[:20]]
    pieces = [
        (p.split, p.begins) for p, _ in Corpus([text_source("", text) for text in long], PrepareOptions()).pieces()
    ]
    splits = {split for split, begins in pieces if begins}
    assert splits == {"train", "val"}
    assert len(pieces) > 2 * len(long)
    for (split, _), (following, begins) in itertools.pairwise(pieces):
        assert begins or split == following


def test_validation_can_be_given(tmp_path: Path) -> None:
    path, other = write(tmp_path, "x.jsonl", MANY[:50]), write(tmp_path, "v.csv", MANY[40:60])
    prepare([path], tmp_path / "out", validation=[other])
    assert documents(tmp_path / "out", "val") == MANY[40:60]
    assert documents(tmp_path / "out") == MANY[:50]
    manifest = prepare([path], tmp_path / "out", PrepareOptions(drop_duplicates=True), validation=[other])
    assert documents(tmp_path / "out", "val") == MANY[40:60]
    assert documents(tmp_path / "out") == MANY[:40], "what is in validation is not trained on"
    assert (manifest.validation, manifest.documents.duplicates) == ("given", 10)


@given(
    st.lists(st.text(st.sampled_from("ab \n\u00e9🦙1."), min_size=1, max_size=30), min_size=1, max_size=4),
    st.floats(0.05, 0.95),
)
def test_by_position_validation_begins_at_a_line(texts: list[str], fraction: float) -> None:
    """The result is compared with the documented rule, applied to the text itself."""
    tokenizer = gpt2_tokenizer()
    texts = [text for text in texts if text.strip()] or ["a"]
    ids = [token for text in texts for token in (tokenizer.end_of_text, *tokenizer.encode(text))]
    tokens = Tokens(tuple(np.array(part, np.uint16) for part in (ids[:5], ids[5:])), tokenizer.vocab_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation_tail, "_Table", TABLE)
        patch.setattr(validation_tail, "_BLOCK", 3)
        cut = validation_tail.find_cut(tokens, tokenizer, fraction, sum(map(len, texts)))
    after = [tokenizer.end_of_text, *tokenizer.encode(cut.after)] if cut.after else []
    train = [*ids[: cut.start], *tokenizer.encode(cut.before)]
    val = [*after, *ids[cut.stop :]]

    document, place = by_the_rule(texts, fraction)
    parts = [*((0, text) for text in texts[:document]), (0, texts[document][:place]), (1, texts[document][place:])]
    parts += [(1, text) for text in texts[document + 1 :]]
    expected: tuple[list[int], list[int]] = ([], [])
    for split, text in parts:
        expected[split].extend([tokenizer.end_of_text, *tokenizer.encode(text)] if text else [])
    assert (train, val) == expected


TABLE = functools.cache(validation_tail._Table)
"""Made once for all examples."""


def by_the_rule(texts: list[str], fraction: float) -> tuple[int, int]:
    """The document and the character at which validation begins, by the documented rule."""
    target = round((1 - fraction) * sum(map(len, texts)))
    document = 0
    while document < len(texts) - 1 and target >= len(texts[document]):
        target -= len(texts[document])
        document += 1
    if target >= len(texts[document]):
        return document, len(texts[document])
    before = texts[document][:target]
    line = before.rfind("\n") + 1
    return document, line if line or document else before.rfind(" ") + 1 or target


def test_a_long_text_is_cut_where_its_text_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text spans windows and shards, with a line break far before the cut, near it, or nowhere."""
    monkeypatch.setattr("gpt2spec.data.validation_tail._WINDOW", 50)
    words = " ".join(f"word{i} 🦙" for i in range(3000))
    for text in (f"a line\n{words}", words[:-900].replace(" word26", "\nword26") + words[-900:], words, "x" * 5000):
        (tmp_path / "x.txt").write_text(text)
        manifest = prepare([tmp_path / "x.txt"], tmp_path / "out", PrepareOptions(val_fraction=0.1, shard_tokens=777))
        place = by_the_rule([text], 0.1)[1]
        assert documents(tmp_path / "out") == [text[:place]]
        assert documents(tmp_path / "out", "val") == [text[place:]]
        assert manifest.train_tokens == len(gpt2_tokenizer().encode(text[:place])) + 1
        assert manifest.val_tokens == len(gpt2_tokenizer().encode(text[place:])) + 1
        dataset = open_prepared(tmp_path / "out")
        dataset.verify()
        assert manifest.unigram_entropy == entropy_of(count_tokens(dataset.train) + count_tokens(dataset.val))
        assert {shard.tokens for shard in manifest.train[:-1]} <= {777}


# Duplicates


def test_repeated_documents_are_dropped_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_IN_MEMORY", 10_000)  # the long ones wait in a file
    texts = [TEXTS[0], TEXTS[3], TEXTS[1], TEXTS[3], TEXTS[0], TEXTS[3] + "."]
    path = write(tmp_path, "x.txt", texts)
    prepare([path], tmp_path / "out", PrepareOptions(val_fraction=0, split_on="###"))
    assert documents(tmp_path / "out") == texts
    options = PrepareOptions(val_fraction=0, split_on="###", drop_duplicates=True)
    manifest = prepare([path], tmp_path / "out", options)
    assert documents(tmp_path / "out") == [TEXTS[0], TEXTS[3], TEXTS[1], TEXTS[3] + "."]
    assert manifest.documents.duplicates == 2


@example(list(range(5000)) * 2)
@given(st.lists(st.integers(0, 3000), max_size=3000))
def test_what_was_seen_is_known(numbers: list[int]) -> None:
    seen, known = SeenTexts(), set()
    for number in numbers:
        digest = text_hash()
        digest.update(b"%d" % number)
        assert seen.add(digest.digest()) == (number not in known)
        known.add(number)
    assert len(seen) == len(known)


# The command


def test_the_command_says_what_became_of_the_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "x.jsonl", [*MANY[:30], MANY[3], " "])
    with path.open("a") as file:
        file.write("no JSON\n")
    arguments = ["data", "prepare", str(path), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--drop-duplicates", "--skip-bad", "--val-fraction", "0.3", "--seed", "4"]) == 0
    shown = re.sub(" +", " ", capsys.readouterr().out)
    val = read_manifest(tmp_path / "out").documents.val
    for line in ("duplicates left out 1", "blank documents left out 1", "bad rows left out 1"):
        assert line in shown
    assert f"validation {val} documents, drawn with seed 4" in shown
    assert main([*arguments, "--validation", str(path), "--seed", "4"]) == 2
    assert "give one or the other" in capsys.readouterr().err
    (tmp_path / "y.txt").write_text("one\n--\ntwo\\n\n--\n")
    assert (
        main(["data", "prepare", str(tmp_path / "y.txt"), "--out", str(tmp_path / "y"), "--split-on", r"\n--\n"]) == 0
    )
    assert documents(tmp_path / "y") + documents(tmp_path / "y", "val") == ["two\\n", "one"]


def test_a_pipe_is_a_source(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gpt2spec", "data", "prepare", "-", "--out", str(tmp_path / "out")]
    subprocess.run(command, input=TEXTS[2].encode(), check=True, capture_output=True)
    assert "".join(documents(tmp_path / "out") + documents(tmp_path / "out", "val")) == TEXTS[2]
