"""An update from micro-batches is that of the whole batch, however it is divided."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.weights import weight_set
from gpt2spec_numpy.create import create
from hypothesis import given
from hypothesis import strategies as st

from gpt2spec.accumulation import MicroBatch, accumulated_step, shares
from gpt2spec.checkpoints.native import checkpoint_folder, open_native
from gpt2spec.cli.main import main
from gpt2spec.config import GPT2Config
from gpt2spec.data.dataset import open_dataset
from gpt2spec.errors import ConfigError
from gpt2spec.optimizer import AdamW, initial_state, update_scalars
from gpt2spec.plugins import load_backend
from gpt2spec.processes import Processes
from gpt2spec.tokenizer import tokenizer_named
from gpt2spec.training.loop import train
from gpt2spec.training.settings import RunSettings
from gpt2spec.training.updates import Updates

CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=8, n_ctx=6, vocab_size=11, dropout=0.0)
ADAMW = AdamW(clip=0.5, epsilon=1e-3)
TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("accumulation")
    (folder / "squares.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "squares.txt"


def settings(corpus: Path, **changes: Any) -> RunSettings:
    values: dict[str, Any] = {"steps": 6, "eval_every": 6, "checkpoint_every": 3, "sample_tokens": 0, "lr": 3e-3}
    return RunSettings(data=str(corpus), preset="test", context=16, **(values | changes))


def losses(run: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()])


def updated(backend: Any, sizes: list[int], steps: int = 2) -> Any:
    """The metrics and the state after some steps on batches that are divided so."""
    step = accumulated_step(backend, CONFIG, ADAMW)
    state = initial_state(backend.ops, backend.load_params(weight_set("probe", CONFIG)))
    history = []
    for update in range(1, steps + 1):
        tokens, targets = np.random.default_rng(update).integers(0, CONFIG.vocab_size, (2, sum(sizes), CONFIG.n_ctx))
        ends = np.cumsum(sizes)
        parts = [
            MicroBatch(
                backend.put(tokens[end - size : end]),
                backend.put(targets[end - size : end]),
                backend.put(np.float64(share)),
                None,
            )
            for end, size, share in zip(ends, sizes, shares(sizes), strict=True)
        ]
        scalars = {name: backend.put(np.float64(x)) for name, x in update_scalars(ADAMW, 0.01, update).items()}
        state, metrics = step(state, parts, scalars)
        history.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(history), backend.dump_params(state["params"])


@pytest.mark.parametrize("mode", ["fast", "reference"])
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_division_gives_the_update_of_the_whole(mode: str, sizes: list[int]) -> None:
    backend = create(dtype="float64", mode=mode)
    history, weights = updated(backend, sizes)
    expected_history, expected = updated(backend, [sum(sizes)])
    np.testing.assert_allclose(history, expected_history, rtol=1e-12)
    for name, array in expected.items():
        np.testing.assert_allclose(weights[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("name", "options"), [("torch", {"compile": False}), ("jax", {})])
def test_frameworks_update_alike_too(name: str, options: dict[str, Any]) -> None:
    """tinygrad and compiled PyTorch are held to the gradients by the conformance suite."""
    pytest.importorskip(name)
    backend = load_backend(name, device="cpu", dtype="float64", **options)
    history, weights = updated(backend, [2, 2, 1])
    expected_history, expected = updated(create(dtype="float64"), [5])
    np.testing.assert_allclose(history, expected_history, rtol=1e-12)
    for key, array in expected.items():
        np.testing.assert_allclose(weights[key], array, rtol=1e-9, atol=1e-12, err_msg=key)


def test_the_old_sum_is_reused_where_the_state_may_be() -> None:
    """Otherwise a third set of gradients would be held."""
    ops = create().ops
    total, gradient = np.ones(3, np.float32), np.ones(3, np.float32)
    assert ops.accumulate([total], [gradient])[0] is not total
    ops.in_place = True  # type: ignore[attr-defined]
    assert ops.accumulate([total], [gradient])[0] is total


def test_a_run_is_the_same_however_its_batches_are_divided(corpus: Path, tmp_path: Path) -> None:
    divisions = {
        "whole": {"batch_size": 8},
        "accumulated": {"batch_size": 2, "accumulate": 4},
        "uneven": {"batch_size": 3, "tokens_per_step": 128},
    }
    for name, division in divisions.items():
        train(settings(corpus, **division), tmp_path / name, quiet=True)
        assert open_native(checkpoint_folder(tmp_path / name, 6)).progress["data_position"] == 48
    for name in ("accumulated", "uneven"):
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "whole"), rtol=1e-6)


def test_a_run_goes_on_with_another_division_but_not_with_another_batch(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    options = ["--preset", "test", "--context", "16", "--sample-tokens", "0", "--quiet", "--out", run]
    assert main(["train", str(corpus), *options, "--steps", "2", "--batch-size", "4", "--accumulate", "2"]) == 0
    again = ["train", "--out", run, "--resume", "--quiet"]
    assert main([*again, "--steps", "3", "--batch-size", "8", "--accumulate", "1"]) == 0
    assert main([*again, "--steps", "4", "--batch-size", "4"]) == 2
    assert "cannot change how many windows an update has: 8 in" in capsys.readouterr().err


def test_micro_batches_of_a_step_follow_from_its_tokens() -> None:
    def micro_batches(**changes: Any) -> list[int]:
        return RunSettings(preset="test", context=16, **changes).micro_batches()

    assert micro_batches(batch_size=5) == [5]
    assert micro_batches(batch_size=5, accumulate=3) == [5, 5, 5]
    assert micro_batches(batch_size=5, tokens_per_step=12 * 16) == [5, 5, 2]
    assert micro_batches(batch_size=5, tokens_per_step=16) == [1]
    with pytest.raises(ConfigError, match="a multiple of the context, 16 tokens, not 100"):
        micro_batches(tokens_per_step=100)
    with pytest.raises(ConfigError, match="give one of the two"):
        micro_batches(tokens_per_step=160, accumulate=2)
    with pytest.raises(ConfigError, match="accumulate is at least 1"):
        micro_batches(accumulate=0)


def test_micro_batches_do_not_share_their_dropout(corpus: Path) -> None:
    data = open_dataset(corpus, tokenizer=tokenizer_named("bytes"), progress=False)
    chosen = settings(corpus, dropout=0.1, accumulate=3, batch_size=1).with_vocabulary(data.vocab_size).resolved()
    updates = Updates(chosen.update_plan(), create(), chosen.model_config(), data.train)
    keys = {each.key for update in (1, 2) for each in updates.micro_batches(update)}
    assert len(keys) == 6
    assert updates.micro_batches(1)[0].key == create().dropout_key(chosen.seed, 1)  # as without accumulation


def test_processes_do_not_share_their_dropout(corpus: Path) -> None:
    data = open_dataset(corpus, tokenizer=tokenizer_named("bytes"), progress=False)
    chosen = settings(corpus, dropout=0.1, accumulate=2, batch_size=2).with_vocabulary(data.vocab_size).resolved()
    keys = []
    for rank in range(2):
        backend = create()
        backend.processes = Processes(rank, 2)
        updates = Updates(chosen.update_plan(), backend, chosen.model_config(), data.train)
        keys += [each.key for update in (1, 2) for each in updates.micro_batches(update)]
    assert len(set(keys)) == len(keys) == 8
