"""Text becomes shards, whole or not at all, and the same shards every time."""

import hashlib
import json
import math
import os
import pydoc_data.topics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2spec.data import (
    Dataset,
    PrepareOptions,
    open_dataset,
    open_prepared,
    prepare,
    read_manifest,
    read_shard,
    write_shard,
)
from gpt2spec.data import sources as sources_module
from gpt2spec.data.prepare import entropy_of
from gpt2spec.data.shards import Tokens, count_tokens
from gpt2spec.data.sources import Pass, text_source
from gpt2spec.errors import ConfigError, DataError, InputError, StorageError
from gpt2spec.tokenizer import gpt2_tokenizer

PROSE = "".join(f"Line {i} of a small text, with œ and 🦙 in it.\n\n" for i in range(200))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder with three documents, one of them in a subfolder, and a file that is not a document."""
    folder = tmp_path / "corpus"
    (folder / "part").mkdir(parents=True)
    (folder / "a.txt").write_text("First document.\n" * 20, encoding="utf-8")
    (folder / "b.TXT").write_text("Second document.\r\n" * 20, encoding="utf-8", newline="")
    (folder / "part" / "c.txt").write_text(PROSE, encoding="utf-8")
    (folder / "notes.md").write_text("not this one")
    return folder


def all_tokens(folder: Path, split: str) -> list[int]:
    return [int(token) for path in sorted(folder.glob(f"{split}_*.bin")) for token in read_shard(path)]


def without_marks(tokens: list[int]) -> str:
    return gpt2_tokenizer().decode(token for token in tokens if token != 50256)


# Shards


def test_a_shard_is_llm_c_s_file_byte_for_byte(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.bin", [50256, 1, 258])
    data = (tmp_path / "x.bin").read_bytes()
    assert data[:12] == bytes.fromhex("88d83401 01000000 03000000")  # 20240520, 1, 3
    assert data[12:1024] == bytes(1012)
    assert data[1024:] == bytes.fromhex("50c4 0100 0201")
    tokens = read_shard(tmp_path / "x.bin")
    assert (tokens.tolist(), tokens.dtype) == ([50256, 1, 258], np.uint16)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 65535), max_size=50))
def test_any_tokens_can_be_written_and_read(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    path = tmp_path_factory.mktemp("shard") / "x.bin"
    write_shard(path, tokens)
    assert read_shard(path).tolist() == tokens


@pytest.mark.parametrize("token", [-1, 65536])
def test_an_id_that_does_not_fit_is_refused_and_leaves_no_file(tmp_path: Path, token: int) -> None:
    with pytest.raises(InputError, match=f"not {token}"):
        write_shard(tmp_path / "x.bin", [1, token])
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_sound_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_shard(path, range(10))
    good = path.read_bytes()

    def refused(data: bytes, reason: str) -> None:
        path.write_bytes(data)
        with pytest.raises(DataError, match=reason):
            read_shard(path)

    refused(b"", "has 0 bytes")
    refused(good[:1000], "less than a header")
    refused(b"\0" + good[1:], "starts with .*a shard with 20240520")
    refused(good[:4] + b"\2" + good[5:], "version 2")
    refused(good[:-1], "10 tokens are 1044 bytes, but it has 1043")
    refused(good + b"\0\0", "damaged")
    refused(good[:8] + b"\xff" * 4 + good[12:], "damaged")
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_shard(path)


# Preparing


def test_a_prepared_folder_holds_the_text_and_says_what_it_is(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare([corpus], out, PrepareOptions(val_fraction=0.05))
    assert manifest.validation == "position", "no document was drawn"
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train_000000.bin", "val_000000.bin"]
    train, val = all_tokens(out, "train"), all_tokens(out, "val")
    whole = "".join((corpus / name).read_bytes().decode() for name in ("a.txt", "b.TXT", "part/c.txt"))
    assert without_marks(train + val) == whole
    assert train.count(50256) == 3, "every document begins with <|endoftext|>"
    assert (train[0], val[0], val.count(50256)) == (50256, 50256, 1)
    assert without_marks(train).endswith("\n")
    assert abs(len(without_marks(val)) / len(whole) - 0.05) < 0.01

    assert read_manifest(out) == manifest
    assert (manifest.train_tokens, manifest.val_tokens) == (len(train), len(val))
    assert [source.name for source in manifest.sources] == ["a.txt", "b.TXT", "part/c.txt"]
    assert manifest.sources[2].sha256 == hashlib.sha256(PROSE.encode()).hexdigest()
    assert manifest.source_bytes == len(whole.encode())
    for shard in (*manifest.train, *manifest.val):
        assert shard.sha256 == hashlib.sha256((out / shard.file).read_bytes()).hexdigest()
    p = np.unique(train + val, return_counts=True)[1] / len(train + val)
    assert manifest.unigram_entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-12)


def test_preparing_twice_gives_the_same_bytes_wherever_it_is(corpus: Path, tmp_path: Path) -> None:
    prepare([corpus], tmp_path / "x", PrepareOptions(shard_tokens=500))
    moved = corpus.rename(tmp_path / "elsewhere")
    prepare([moved], tmp_path / "y", PrepareOptions(shard_tokens=500))
    x, y = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "xy")
    assert x == y
    assert len(x) > 5


def test_shards_are_full_but_for_the_last(corpus: Path, tmp_path: Path) -> None:
    whole = prepare([corpus], tmp_path / "whole")
    manifest = prepare([corpus], tmp_path / "out", PrepareOptions(shard_tokens=100))
    assert {shard.tokens for shard in manifest.train[:-1]} == {100}
    assert manifest.train[1].file == "train_000001.bin"
    assert manifest.train_tokens == whole.train_tokens
    for split in ("train", "val"):
        assert all_tokens(tmp_path / "out", split) == all_tokens(tmp_path / "whole", split)


def test_reading_in_small_pieces_changes_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([corpus], tmp_path / "x")
    monkeypatch.setattr(sources_module, "CHUNK_BYTES", 7)  # cuts many characters and words in two
    prepare([corpus], tmp_path / "y")
    x, y = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in "xy")
    assert x == y


@settings(deadline=None)
@given(st.text(max_size=60))
def test_a_source_is_read_as_it_is(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources_module, "CHUNK_BYTES", 5)
        reading = Pass(text_source("x", text))
        assert "".join(reading.text()) == text
    assert (reading.bytes, reading.sha256) == (len(text.encode()), hashlib.sha256(text.encode()).hexdigest())


def test_without_validation_there_is_no_such_shard(corpus: Path, tmp_path: Path) -> None:
    manifest = prepare([corpus], tmp_path / "out", PrepareOptions(val_fraction=0))
    assert (manifest.val, manifest.val_tokens) == ((), 0)
    assert len(open_dataset(tmp_path / "out").val) == 0


def test_entropy_is_that_of_the_distribution() -> None:
    even = Tokens((np.array([0, 1], np.uint16), np.array([2, 3], np.uint16)), vocab_size=10)
    assert entropy_of(count_tokens(even)) == pytest.approx(math.log(4))
    assert entropy_of(count_tokens(Tokens((np.zeros(5, np.uint16),), vocab_size=10))) == 0


# What cannot be prepared


def test_every_kind_of_missing_text_is_one_clear_error(tmp_path: Path) -> None:
    out, empty, words = tmp_path / "out", tmp_path / "empty.txt", tmp_path / "words.json"
    (tmp_path / "folder").mkdir()
    empty.touch()
    words.touch()
    broken = tmp_path / "links" / "broken.txt"
    broken.parent.mkdir()
    broken.symlink_to(tmp_path / "gone.txt")
    for path, reason in [
        (tmp_path / "missing", "missing does not exist"),
        (tmp_path / "folder", "folder has no text"),
        (empty, r"no text in .*empty\.txt"),
        (words, r"\.json files cannot be read"),
        (broken.parent, r"cannot read .*broken\.txt: No such file"),
        (Path(os.devnull), "neither a file nor a folder"),
    ]:
        with pytest.raises(DataError, match=reason):
            prepare([path], out)
    with pytest.raises(DataError, match="no text was given"):
        prepare([], out)
    assert not out.exists()


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    if os.geteuid() == 0:  # the superuser may read everything but the memory of no process
        secret.symlink_to("/proc/self/mem")
    else:
        secret.write_text("x")
        secret.chmod(0)
    with pytest.raises(DataError, match=r"cannot read .*secret\.txt: (Permission denied|Input/output error)"):
        prepare([secret], tmp_path / "out")


@pytest.mark.parametrize("chunk", [4, 1 << 20])
@pytest.mark.parametrize(
    ("data", "offset", "byte"),
    [(b"\xff\xfeh\0i\0", 0, "ff"), (b"good text, then \xc3(", 16, "c3"), ("zu früh: 🦙".encode()[:-1], 10, "f0")],
)
def test_the_first_wrong_byte_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, offset: int, byte: str, chunk: int
) -> None:
    monkeypatch.setattr(sources_module, "CHUNK_BYTES", chunk)
    (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.txt is not UTF-8 text: the byte 0x{byte} at offset {offset} is wrong"):
        prepare([tmp_path / "x.txt"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    "options", [{"val_fraction": 1.0}, {"val_fraction": math.nan}, {"shard_tokens": 0}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(corpus: Path, tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not "):
        prepare([corpus], tmp_path / "out", PrepareOptions(**options))  # type: ignore[arg-type]


def test_a_folder_with_anything_else_in_it_is_never_overwritten(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was not prepared by gpt2spec"):
        prepare([corpus], corpus)
    out = tmp_path / "out"
    prepare([corpus], out)
    (out / "my notes").write_text("precious")
    with pytest.raises(DataError, match="files beside the prepared ones, such as 'my notes'"):
        prepare([corpus], out)
    assert (out / "my notes").read_text() == "precious"
    with pytest.raises(DataError, match="is no folder"):
        prepare([corpus], corpus / "a.txt")


def test_a_prepared_folder_is_replaced_and_an_empty_one_filled(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare([corpus], out, PrepareOptions(shard_tokens=50))
    prepare([corpus / "a.txt"], out)
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "train_000000.bin", "val_000000.bin"]
    assert [source.name for source in read_manifest(out).sources] == ["a.txt"]


def test_a_failure_leaves_the_old_folder_and_no_trace(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    prepare([corpus], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    class Interrupted(type(gpt2_tokenizer())):  # type: ignore[misc]
        def __init__(self) -> None:
            self.__dict__.update(gpt2_tokenizer().__dict__)

        def encode_to_numpy(self, text: str) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], out, tokenizer=Interrupted())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out"]


def test_a_target_that_cannot_be_written_is_a_storage_error(corpus: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        prepare([corpus], corpus / "a.txt" / "out")


# Opening


def fields(dataset: Dataset) -> list[object]:
    return [dataset.vocab_size, dataset.tokenizer_id, dataset.unigram_entropy, dataset.fingerprint, len(dataset.train)]


def test_text_is_prepared_once_and_then_found_again(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = open_dataset(corpus, cache=cache)
    stamp = (first.folder / "manifest.json").stat().st_mtime_ns
    second = open_dataset(corpus, cache=cache)
    assert fields(first) == fields(second)
    assert (second.folder / "manifest.json").stat().st_mtime_ns == stamp
    assert (first.name, first.source) == ("corpus", str(corpus))
    prepare([corpus], tmp_path / "by hand")
    assert fields(open_dataset(tmp_path / "by hand")) == fields(first)


def test_other_text_or_settings_are_prepared_anew(corpus: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prints = {open_dataset(corpus, cache=cache, val_fraction=f).fingerprint for f in (0.1, 0.2)}
    (corpus / "a.txt").write_text("Something else.")
    prints.add(open_dataset(corpus, cache=cache).fingerprint)
    prints.add(open_dataset(corpus / "a.txt", cache=cache).fingerprint)
    assert len(prints) == len(list(cache.iterdir())) == 4


def test_a_damaged_cache_is_made_again(corpus: Path, tmp_path: Path) -> None:
    first = open_dataset(corpus, cache=tmp_path / "cache")
    (first.folder / "train_000000.bin").write_bytes(b"short")
    assert fields(open_dataset(corpus, cache=tmp_path / "cache")) == fields(first)


def test_the_default_text_is_python_s_language_reference(tmp_path: Path) -> None:
    dataset = open_dataset(cache=tmp_path)
    topics = pydoc_data.topics.topics
    text = without_marks([*all_tokens(dataset.folder, "train"), *all_tokens(dataset.folder, "val")])
    assert text == "\n\n".join(topics[key] for key in sorted(topics))
    assert dataset.name == "language-reference"
    assert "language reference" in dataset.source
    assert 5 < dataset.unigram_entropy < 8


def test_a_folder_that_is_neither_prepared_nor_text_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "train_000000.bin", [1, 2])  # its manifest is lost
    with pytest.raises(DataError, match=r"has neither token files nor text"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_damage_to_a_prepared_folder_is_found(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([corpus], out)
    shard = out / "train_000000.bin"
    good = shard.read_bytes()

    shard.write_bytes(good[:-2] + b"\0\0")
    with pytest.raises(DataError, match=r"train_000000\.bin is damaged: its SHA-256"):
        open_dataset(out).verify()
    write_shard(shard, [1, 2, 3])
    with pytest.raises(DataError, match="has 3 tokens, the manifest says"):
        open_dataset(out)
    shard.unlink()
    with pytest.raises(DataError, match=r"cannot read the shard .*train_000000\.bin"):
        open_dataset(out)
    shard.write_bytes(good)
    open_dataset(out).verify()


def test_a_manifest_that_cannot_be_used_is_refused(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([corpus], out)
    path = out / "manifest.json"
    contents = json.loads(path.read_text())
    contents.pop("sha256")

    def summed(contents: dict[str, Any]) -> str:
        return json.dumps(contents | {"sha256": hashlib.sha256(json.dumps(contents).encode()).hexdigest()})

    def refused(text: str, reason: str) -> None:
        path.write_text(text)
        with pytest.raises(DataError, match=reason):
            open_dataset(out)

    path.write_text(summed(contents))
    open_dataset(out)

    refused("{", "damaged")
    refused("[]", "not written by")
    refused(json.dumps(contents | {"format": "else"}), "not written by")
    for version in (1, 9):
        refused(
            json.dumps(contents | {"version": version}), f"version {version}, but 3 was expected: prepare the folder"
        )
    refused(json.dumps(contents), "does not match its sha256")
    refused(summed(contents).replace('"seed": 0', '"seed": 1'), "damaged, or was edited")
    refused(summed({key: contents[key] for key in contents if key != "splits"}), "damaged .*splits")
    contents["splits"]["train"]["shards"][0]["file"] = "../secret.bin"
    refused(summed(contents), "is no file name")
    path.unlink()
    with pytest.raises(DataError, match=r"was not prepared: it has no manifest\.json"):
        open_prepared(out)


# The command line


def gpt2spec(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "gpt2spec", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False)


def test_data_is_prepared_and_shown_from_the_command_line(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = gpt2spec("data", "prepare", corpus, "--out", out, "--val-fraction", 0.2)
    assert (done.returncode, done.stderr) == (0, b"")
    manifest = read_manifest(out)
    for shown in (f"{manifest.train_tokens:,} in 1 shard", f"{manifest.unigram_entropy:.4f} nats", manifest.tokenizer):
        assert shown in done.stdout.decode()
    info = gpt2spec("data", "info", out)
    assert info.stdout.startswith(done.stdout.rstrip())
    assert info.stdout.decode().endswith("all shards are undamaged\n")
    shard = out / "val_000000.bin"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    info = gpt2spec("data", "info", out)
    assert (info.returncode, info.stderr[:16]) == (2, b"gpt2spec: error:")
    assert b"val_000000.bin is damaged" in info.stderr


def test_tokens_are_shown_counted_and_decoded_from_the_command_line(tmp_path: Path) -> None:
    shown = gpt2spec("tokenize", "Hi 🦙").stdout.decode().splitlines()
    assert shown[1:5] == [
        "17250     0     0  'Hi'",
        "12520     2     2  b' \\xf0\\x9f'",
        "   99     5     3  b'\\xa6'",
        "  247     6     3  b'\\x99'",
    ]
    assert shown[-1] == "4 tokens, 4 characters, 7 bytes"
    assert gpt2spec("tokenize", "--count", stdin="Hi 🦙".encode()).stdout == b"4\n"
    (tmp_path / "x.txt").write_bytes(b"a\r\n<|endoftext|>")
    found = json.loads(gpt2spec("tokenize", "--file", tmp_path / "x.txt", "--special", "--json").stdout)
    assert (found["ids"], found["bytes"][:2]) == ([64, 201, 198, 50256], ["61", "0d"])
    assert gpt2spec("tokenize", "--decode", 15496, 995).stdout == b"Hello world\n"
    wrong = gpt2spec("tokenize", "--decode", 50257)
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (2, 1)
