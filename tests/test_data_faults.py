"""Whatever happens to a preparation or its shards, the result is right or the error is clear."""

import importlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from kills import KILLS, timed, victims

from gpt2spec.data import PrepareOptions, journal, open_dataset, open_prepared, prepare, read_manifest
from gpt2spec.errors import DataError, StorageError
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer, parallel

MODULE = importlib.import_module("gpt2spec.data.prepare")
OPTIONS = PrepareOptions(shard_tokens=3000, split_on="##", drop_duplicates=True)
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away", "at", "once"]


def text_of(documents: int, words: int, seed: int = 0) -> str:
    choose = random.Random(seed)
    return "##".join(" ".join(choose.choices(WORDS, k=words)) + f" {i % 50}" for i in range(documents))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text(text_of(60, 150, seed=i))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class StopsAfter(type(gpt2_tokenizer())):  # type: ignore[misc]
    """GPT-2's tokenizer, which fails after it has encoded some texts."""

    def __init__(self, texts: int) -> None:
        self.__dict__.update(gpt2_tokenizer().__dict__)
        self.left = texts

    def copy(self) -> "StopsAfter":
        return self

    def encode_to_numpy(self, text: str) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode_to_numpy(text)

    def encode_each(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode_to_numpy(text) for text in texts]


@pytest.fixture
def eager_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the journal after every text, and hand texts to the encoder one by one."""
    monkeypatch.setattr(MODULE, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr("gpt2spec.tokenizer.parallel.BATCH_CHARACTERS", 1)


# Stopped and gone on with


@pytest.mark.usefixtures("eager_journal")
@pytest.mark.parametrize("stops", [[20], [9, 60, 61], [150], [30, 10]])
def test_going_on_gives_the_same_bytes(corpus: Path, tmp_path: Path, stops: list[int]) -> None:
    prepare([corpus], tmp_path / "whole", OPTIONS)
    for texts in stops:
        with pytest.raises(KeyboardInterrupt):
            prepare([corpus], tmp_path / "out", OPTIONS, tokenizer=StopsAfter(texts))
        assert not (tmp_path / "out").exists()
        for split in ("train", "val"):  # tokens that were written after the journal
            *_, last = [None, *sorted((tmp_path / ".out.preparing").glob(f"{split}_*"))]
            if last is not None and last.stat().st_size < 1024 + 2 * OPTIONS.shard_tokens:
                last.write_bytes(last.read_bytes() + b"\1\0" * 7)
    rest = StopsAfter(100_000)
    prepare([corpus], tmp_path / "out", OPTIONS, tokenizer=rest)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert 100_000 - rest.left < 170 - stops[-1] + 20, "what was encoded is not encoded again"
    assert {path.name for path in tmp_path.iterdir()} == {"texts", "out", "whole"}


@pytest.mark.usefixtures("eager_journal")
def test_going_on_with_a_single_document_cuts_validation_off_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("".join(f"line {i} of some\n" for i in range(60_000)))
    options = PrepareOptions(shard_tokens=50_000)
    prepare([path], tmp_path / "whole", options)
    with pytest.raises(KeyboardInterrupt):
        prepare([path], tmp_path / "out", options, tokenizer=StopsAfter(5))
    prepare([path], tmp_path / "out", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert open_prepared(tmp_path / "out").val.shards


@pytest.mark.usefixtures("eager_journal")
@pytest.mark.parametrize(
    "change",
    ["text", "same size and time", "options", "shard", "unfinished shard", "shorter shard", "journal", "no shard"],
)
def test_what_cannot_be_gone_on_with_begins_again(corpus: Path, tmp_path: Path, change: str) -> None:
    options = OPTIONS
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "out", options, tokenizer=StopsAfter(70))
    folder = tmp_path / ".out.preparing"
    shard = folder / "train_000000.bin"
    match change:
        case "text":
            (corpus / "0.txt").write_text(text_of(50, 100, seed=9))
        case "same size and time":  # as `cp --preserve` of another file makes it
            before = (corpus / "0.txt").stat()
            (corpus / "0.txt").write_text((corpus / "0.txt").read_text().replace("fox", "cat"))
            os.utime(corpus / "0.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
        case "unfinished shard":
            last = sorted(folder.glob("train_*"))[-1]
            data = bytearray(last.read_bytes())
            assert last != shard and len(data) > 1040
            data[1030] ^= 1
            last.write_bytes(data)
        case "options":
            options = PrepareOptions(shard_tokens=2000)
        case "shard":
            shard.write_bytes(shard.read_bytes()[:-2] + b"\1\0")
        case "shorter shard":
            os.truncate(sorted(folder.glob("train_*"))[-1], 1100)
        case "journal":
            (folder / "journal.json").write_text("{")
        case "no shard":
            shard.unlink()
    (folder / "train_000099.bin").write_bytes(b"left over")
    prepare([corpus], tmp_path / "out", options)
    prepare([corpus], tmp_path / "whole", options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.usefixtures("eager_journal")
def test_after_a_bad_row_the_work_goes_on_with_skip_bad(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = ['{"text": "line %d"}' % i for i in range(300)]  # noqa: UP031
    path.write_text("\n".join([*lines[:200], "broken", *lines[200:]]))
    with pytest.raises(DataError, match="line 201"):
        prepare([path], tmp_path / "out", PrepareOptions())
    assert (tmp_path / ".out.preparing" / "journal.json").exists()
    rest = StopsAfter(1000)
    manifest = prepare([path], tmp_path / "out", PrepareOptions(skip_bad=True), tokenizer=rest)
    assert 1000 - rest.left < 120
    assert (manifest.documents.bad, manifest.documents.train + manifest.documents.val) == (1, 300)


def prepare_slowly(corpus: str, out: str) -> None:
    """Prepare text in its own process, one text at a time, writing the journal often."""
    MODULE.JOURNAL_SECONDS = 0.02
    parallel.BATCH_CHARACTERS = 1
    prepare([Path(corpus)], Path(out), OPTIONS)


def test_killed_at_random_moments_it_ends_with_the_same_bytes(corpus: Path, tmp_path: Path) -> None:
    """An older preparation stays complete until the new one replaces it."""
    out, slowly = tmp_path / "out", ("test_data_faults", "prepare_slowly", corpus)
    choose, kills, ends = random.Random(time.time_ns()), 0, 0
    with victims(tmp_path, "test_data_faults") as processes:
        life = timed(processes, *slowly, tmp_path / "whole")
        while kills < KILLS or not ends:
            prepare([corpus / "0.txt"], out, OPTIONS)
            states = [contents(out), contents(tmp_path / "whole")]
            while contents(out) != states[1]:
                moment = choose.uniform(0.0, life) if kills < KILLS else None
                code = processes.run(*slowly, out, until=moment)
                assert code in (0, -signal.SIGKILL), processes.errors
                kills += code != 0
                assert contents(out) in states
            ends += 1
    prepare([corpus], out, OPTIONS)
    assert {path.name for path in tmp_path.iterdir()} == {"texts", "out", "whole", "errors"}


def test_a_folder_is_prepared_by_one_process_at_a_time(corpus: Path, tmp_path: Path) -> None:
    with journal.workplace(tmp_path / "out"), pytest.raises(DataError, match="another process is preparing out"):
        prepare([corpus], tmp_path / "out", OPTIONS)
    prepare([corpus], tmp_path / "out", OPTIONS)


# Disks and folders


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Limit files to 100 kB."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_disk")
def test_a_full_disk_is_an_error_and_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a b c d e\n" * 8000)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"cannot write .*train_000000\.bin: the file would be larger"):
            prepare([tmp_path / "x.txt"], tmp_path / "out", tokenizer=byte_tokenizer())
        assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can mount")
def test_what_a_full_disk_stopped_goes_on_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        monkeypatch.setattr(MODULE, "JOURNAL_SECONDS", 0.0)
        path = tmp_path / "x.txt"
        path.write_text("".join(f"line {i} of some\n" for i in range(60_000)))
        with pytest.raises(StorageError, match=r"no space left on the disk.*make room and run the same command again"):
            prepare([path], disk / "out")
        subprocess.run(["mount", "-o", "remount,size=16m", "none", disk], check=True)
        rest, everything = StopsAfter(1000), StopsAfter(1000)
        prepare([path], disk / "out", tokenizer=rest)
        prepare([path], tmp_path / "whole", tokenizer=everything)
        assert rest.left > everything.left, "what was encoded is not encoded again"
        assert contents(disk / "out") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("some text")
    if os.geteuid() == 0:
        target = Path("/proc/out")  # the superuser may write nearly everywhere
    else:
        (tmp_path / "closed").mkdir(mode=0o500)
        target = tmp_path / "closed" / "out"
    with pytest.raises(StorageError, match="cannot write"):
        prepare([tmp_path / "x.txt"], target)


# Shards


def test_a_flipped_byte_anywhere_is_found(corpus: Path, tmp_path: Path) -> None:
    """`verify` or something earlier finds it in a shard; reading the manifest finds it there, except in white space."""
    out = tmp_path / "out"
    prepare([corpus], out, OPTIONS)
    good, choose = contents(out), random.Random(0)
    manifest = read_manifest(out)
    for name in ("train_000001.bin", "val_000000.bin"):
        for place in [*range(12), *(choose.randrange(len(good[name])) for _ in range(60))]:
            flipped = bytes([good[name][place] ^ (1 << choose.randrange(8))])
            (out / name).write_bytes(good[name][:place] + flipped + good[name][place + 1 :])
            with pytest.raises(DataError, match=name):
                open_dataset(out).verify()
        (out / name).write_bytes(good[name])
    for place in (choose.randrange(len(good["manifest.json"])) for _ in range(200)):
        flipped = bytes([good["manifest.json"][place] ^ (1 << choose.randrange(8))])
        (out / "manifest.json").write_bytes(
            good["manifest.json"][:place] + flipped + good["manifest.json"][place + 1 :]
        )
        try:
            found = read_manifest(out)
        except DataError:
            continue
        assert found == manifest


def test_a_shard_cut_off_anywhere_is_found_when_it_is_opened(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([corpus], out, OPTIONS)
    data = (out / "train_000001.bin").read_bytes()
    for length in (0, 11, 1023, 1024, len(data) // 2, len(data) - 1):
        (out / "train_000001.bin").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"train_000001\.bin"):
            open_dataset(out)


# Memory


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    """A line of 28 MB is never held whole: reading, encoding and dividing it take less memory than that."""
    (tmp_path / "x.txt").write_bytes(b"a word and " * 2_500_000)
    program = (
        "import sys, resource\nfrom pathlib import Path\nfrom gpt2spec.data import prepare, PrepareOptions\n"
        "from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer\ngpt2_tokenizer().encode_to_numpy('a')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "prepare([Path(sys.argv[1])], Path(sys.argv[2]), PrepareOptions(drop_duplicates=sys.argv[3] == 'yes'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    for drop in ("no", "yes"):
        command = [sys.executable, "-c", program, str(tmp_path / "x.txt"), str(tmp_path / drop), drop]
        grown = int(subprocess.run(command, check=True, capture_output=True).stdout)
        assert grown < 45_000 if drop == "no" else grown < 90_000, "kilobytes"
    assert contents(tmp_path / "no") == contents(tmp_path / "yes")
    shutil.rmtree(tmp_path / "no")
