"""Several data sets are read as one, and so are token files of other programs."""

import json
import pickle
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.cli.main import main
from gpt2spec.data import Batches, Tokens, open_dataset, prepare, validation_batches, write_shard
from gpt2spec.data.mixed_dataset import open_mixture
from gpt2spec.data.mixture import PERIOD, mixed, scheduled, shares
from gpt2spec.data.shards import HEADER_BYTES, header
from gpt2spec.data.token_files import Vocabulary
from gpt2spec.errors import ConfigError, DataError
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer


def numbered(*sizes: int) -> list[Tokens]:
    """Data sets whose tokens are their places: those of set i count from 1000 i."""
    return [Tokens((np.arange(1000 * i, 1000 * i + size, dtype=np.uint16),), 1 << 16) for i, size in enumerate(sizes)]


weights = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6)

# Mixtures


@given(weights, st.integers(6, PERIOD))
def test_shares_are_whole_and_as_near_to_the_weights_as_can_be(given_weights: list[float], total: int) -> None:
    found = shares(given_weights, total)
    exact = np.array(given_weights) / sum(given_weights) * total
    assert found.sum() == total
    assert (found >= 1).all()
    if (exact >= 1).all():
        assert (np.abs(found - exact) < 1).all()


@given(weights, st.integers(0, 3), st.integers(0, 5))
def test_every_period_has_every_window_of_its_share_once(given_weights: list[float], period: int, seed: int) -> None:
    share = shares(given_weights, PERIOD)
    sets, places = scheduled(np.arange(period * PERIOD, (period + 1) * PERIOD), share, seed)
    for number, count in enumerate(share):
        mine = np.sort(places[sets == number])
        assert (mine == np.arange(period * count, (period + 1) * count)).all()


def test_sets_are_mixed_evenly_within_a_period() -> None:
    share = shares([3, 1], PERIOD)
    sets, _ = scheduled(np.arange(PERIOD), share, seed=0)
    parts = sets.reshape(64, -1).mean(axis=1)
    assert np.abs(parts - 0.25).max() < 0.06


@given(st.integers(0, 2 * PERIOD), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_a_mixture_is_the_same_after_a_resume_and_whatever_the_ranks(
    position: int, share: int, ranks: int, natural: bool
) -> None:
    tokens = mixed(numbered(41, 90, 25), None if natural else [1, 2, 5])
    size = share * ranks
    straight = np.concatenate([Batches(tokens, 1, 4, 3).at(position + row)[0] for row in range(size)])
    parts = [Batches(tokens, size, 4, 3, rank=rank, ranks=ranks).at(position)[0] for rank in range(ranks)]
    assert (np.concatenate(parts) == straight).all()


def test_every_set_of_a_mixture_has_its_weight_and_its_own_epochs() -> None:
    tokens = mixed(numbered(41, 401), [1, 3])
    firsts = Batches(tokens, PERIOD, 4, 0).at(0)[0][:, 0]
    small, large = Counter(firsts[firsts < 1000].tolist()), Counter(firsts[firsts >= 1000].tolist())
    assert (small.total(), large.total()) == (PERIOD // 4, 3 * PERIOD // 4)
    assert len(small) == 10 and max(small.values()) - min(small.values()) <= 1
    assert len(large) == 100 and max(large.values()) - min(large.values()) <= 1


def test_without_weights_sets_count_by_their_windows() -> None:
    firsts = Batches(mixed(numbered(41, 121), None), PERIOD, 4, 0).at(0)[0][:, 0]
    assert abs(np.mean(firsts < 1000) - 0.25) < 1e-4


def test_validation_of_a_mixture_has_windows_of_every_set() -> None:
    batches = list(validation_batches(mixed(numbered(400, 400, 0), [1, 3, 4]), 3, 4, limit=8))
    firsts = [first for inputs, _ in batches for first in inputs[:, 0].tolist()]
    assert firsts == [0, 4, 1000, 1004, 1008, 1012, 1016, 1020]
    with pytest.raises(DataError, match="no set of the mixture has a validation split"):
        validation_batches(mixed(numbered(0, 1), None), 3, 4)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Two prepared sets of bytes, and one of GPT-2's tokens."""
    for name, tokenizer in (("a", byte_tokenizer()), ("b", byte_tokenizer()), ("c", gpt2_tokenizer())):
        (tmp_path / f"{name}.txt").write_text(f"{name} text of set {name}.\n" * 400)
        prepare([tmp_path / f"{name}.txt"], tmp_path / name, tokenizer=tokenizer)
    return tmp_path


def test_sets_that_do_not_go_together_are_refused(sets: Path) -> None:
    with pytest.raises(ConfigError, match=r"a was made by the tokenizer bytes-.*c by gpt2-"):
        open_mixture([f"{sets}/a", f"{sets}/c"])
    with pytest.raises(ConfigError, match=r"b has no weight, but other sets have"):
        open_mixture([f"{sets}/a:2", f"{sets}/b"])
    for weight in ("0", "-1", "nan", "inf"):
        with pytest.raises(ConfigError, match="a weight is a number above 0"):
            open_mixture([f"{sets}/a:{weight}", f"{sets}/b:1"])
    with pytest.raises(DataError, match="does not exist"):
        open_mixture([f"{sets}/a:1", f"{sets}/gone:2"])


def test_a_run_on_a_mixture_resumes_with_the_same_bits(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets)
    how = ["--preset", "test", "--context", "16", "--batch-size", "4", "--eval-every", "2", "--checkpoint-every", "2"]
    how += ["--steps", "6", "--warmup", "1", "--sample-tokens", "0", "--quiet"]
    assert main(["train", "a:1", "b:2.5", *how, "--out", "straight"]) == 0
    assert main(["train", "a:1", "b:2.5", *how, "--out", "resumed"]) == 0
    for path in (sets / "resumed" / "checkpoints").glob("*6"):
        path.rename(sets / "gone")
    assert main(["train", "--out", "resumed", "--resume", "4", "--quiet"]) == 0
    one, other = (
        [json.loads(line)["loss"] for line in (sets / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("straight", "resumed")
    )
    assert len(one) == 6 and one == other
    assert main(["train", "a:1", "b:2", "--out", "resumed", "--resume", "--quiet"]) == 2, "other weights"


def test_a_mixture_may_stand_in_a_file(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sets)
    text = 'data = ["a:1", "b:2"]\npreset = "test"\ncontext = 16\nsteps = 1\nwarmup = 0\nsample_tokens = 0\n'
    (sets / "run.toml").write_text(text)
    assert main(["train", "--config", "run.toml", "--out", "run", "--quiet"]) == 0
    assert json.loads((sets / "run" / "data.json").read_text())["name"] == "a+b"


# Token files


def tokens_of(dataset_tokens: Tokens) -> list[int]:
    return [int(token) for block in dataset_tokens.blocks() for token in block]


def test_nanogpt_s_files_are_used_as_they_are(tmp_path: Path) -> None:
    np.arange(500, 900, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(100, dtype="<u2").tofile(tmp_path / "val.bin")
    dataset = open_dataset(tmp_path)
    assert tokens_of(dataset.train) == list(range(500, 900))
    assert tokens_of(dataset.val) == list(range(100))
    assert (dataset.tokenizer_id, dataset.vocab_size) == (gpt2_tokenizer().id, 50257)
    assert dataset.unigram_entropy == pytest.approx(np.log(400))
    before = dataset.fingerprint
    assert open_dataset(tmp_path / "train.bin").fingerprint == before
    np.arange(501, 901, dtype="<u2").tofile(tmp_path / "train.bin")
    assert open_dataset(tmp_path).fingerprint != before


@pytest.mark.parametrize("source", ["", "web_train_*.bin", "*.bin"])
def test_llm_c_s_files_are_used_as_they_are(tmp_path: Path, source: str) -> None:
    for name, start in (("web_val_000000", 0), ("web_train_000002", 20), ("web_train_000001", 10)):
        write_shard(tmp_path / f"{name}.bin", range(start, start + 10))
    dataset = open_dataset(tmp_path / source)
    assert tokens_of(dataset.train) == list(range(10, 30))
    assert tokens_of(dataset.val) == list(range(10))


def test_token_files_that_are_damaged_or_unclear_are_refused(tmp_path: Path) -> None:
    train = tmp_path / "train.bin"
    train.write_bytes(bytes(3001))
    with pytest.raises(DataError, match="an even number of bytes, but it has 3001"):
        open_dataset(tmp_path)
    write_shard(train, range(10))
    assert len(open_dataset(tmp_path).train) == 10, "a header is known whatever the name"
    good = train.read_bytes()
    for place in range(12):
        train.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DataError, match="shard"):
            open_dataset(tmp_path)
    train.write_bytes(np.array([60_000] * 10, "<u2").tobytes())
    with pytest.raises(DataError, match="a token 60000, but ids run from 0 to 50256"):
        open_dataset(tmp_path)
    train.rename(tmp_path / "words.bin")
    with pytest.raises(DataError, match="says neither train nor val"):
        open_dataset(tmp_path / "words.bin")


def test_a_pickle_is_never_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("train", "val"):
        (np.arange(2000, dtype="<u2") % 65).tofile(tmp_path / f"{name}.bin")
    with pytest.raises(DataError, match=r"meta\.pkl, so its tokens are not GPT-2's; it is a pickle"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, vocabulary=Vocabulary("unknown", 65)).vocab_size == 65
    how = ["--preset", "test", "--context", "16", "--steps", "2", "--warmup", "0", "--quiet"]
    assert main(["train", str(tmp_path), *how, "--set", "model.vocab_size=65", "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "--out", str(tmp_path / "run"), "--resume", "--steps", "3", "--quiet"]) == 0
    assert not (tmp_path / "sprung").exists()
    assert "A sample" not in capsys.readouterr().out


# Ten thousand million tokens


def test_ten_thousand_million_tokens_are_shuffled_in_no_space_and_no_time(tmp_path: Path) -> None:
    """There are five sparse files of 2 * 10^9 tokens, which take no space on the disk."""
    for i in range(5):
        with (tmp_path / f"web_train_{i:06d}.bin").open("wb") as file:
            file.write(header(2_000_000_000))
            file.truncate(HEADER_BYTES + 4_000_000_000)
    shards = sorted(tmp_path.iterdir())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    from gpt2spec.data import read_shard

    batches = Batches(Tokens(tuple(map(read_shard, shards)), 50257), 16, 1024, seed=1)
    assert batches.windows == 5 * (1_999_999_999 // 1024)
    positions = np.random.default_rng(0).integers(0, 3 * batches.windows, 200).tolist()
    times = []
    for position in positions:
        start = time.perf_counter()
        inputs, _ = batches.at(position)
        times.append(time.perf_counter() - start)
        assert inputs.shape == (16, 1024)
    assert sorted(times)[100] < 5e-3, "less than a millisecond on an idle core"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000, "kilobytes"
