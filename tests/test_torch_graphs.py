"""A stand-in for CUDA, which keeps memory as a graph does and runs Python, records steps of decoding as graphs."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
from decoding_models import OPTIONS, PROMPTS, SMALL, asynchronous

torch = pytest.importorskip("torch", exc_type=ImportError)

from gpt2spec_torch.backend import TorchBackend  # noqa: E402
from gpt2spec_torch.create import create  # noqa: E402
from gpt2spec_torch.decoding.graphs import RecordedStep  # noqa: E402

from gpt2spec.api import Generator  # noqa: E402
from gpt2spec.backend import Backend  # noqa: E402
from gpt2spec.tree import tree_leaves, tree_map  # noqa: E402


class StandIn:
    """Records as CUDA does: the function's results keep their memory, which every replay overwrites.

    Attributes:
        records, replays: the numbers of recordings and replays.
    """

    def __init__(self) -> None:
        self.records = self.replays = 0

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        self.records += 1
        outputs: Any = None

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(tree_leaves(outputs), tree_leaves(function()), strict=True):
                kept.copy_(new)

        outputs = tree_map(torch.zeros_like, function())
        return replay, outputs


class Recorded(RecordedStep):
    """Undoes what recording did to the state, because CUDA does not run what it records."""

    def _begin(self, state: Any, args: Any, given: Any) -> None:
        before = tree_map(torch.clone, state)
        super()._begin(state, args, given)
        for x, old in zip(tree_leaves(state), tree_leaves(before), strict=True):
            x.copy_(old)


def appending(state: dict[str, Any], weights: list[Any], at: Any, value: Any) -> tuple[Any, list[Any]]:
    """A step that writes a value and returns all values written, times a weight."""
    state["x"][at] = value
    return state, [state["x"] * weights[0]]


@pytest.fixture
def record() -> StandIn:
    return StandIn()


def number(value: float) -> Any:
    return torch.tensor([value])


def test_a_step_is_run_then_recorded_then_replayed(record: StandIn) -> None:
    step, state, weights = Recorded(appending, record), {"x": torch.zeros(4)}, [number(10.0)]
    counts, found = [], []
    for i in range(4):
        returned, (x,) = step(state, weights, torch.tensor([i]), number(i + 1.0))
        assert returned is state
        counts.append((record.records, record.replays))
        found.append(x)
    assert counts == [(0, 0), (1, 1), (1, 2), (1, 3)]
    assert state["x"].tolist() == [1, 2, 3, 4]
    assert [x.tolist() for x in found] == [[10, 0, 0, 0], [10, 20, 0, 0], [10, 20, 30, 0], [10, 20, 30, 40]]


def test_arguments_may_be_changed_or_dropped_after_the_call(record: StandIn) -> None:
    """The recording uses copies, so a caller's tensor is neither read later nor written to."""
    step, state, weights = Recorded(appending, record), {"x": torch.zeros(4)}, [number(10.0)]
    value = number(5.0)
    for i in range(3):
        step(state, weights, torch.tensor([i]), value)
        assert value.tolist() == [5.0 + i]
        value += 1.0
    step(state, weights, torch.tensor([3]), number(1.0))
    assert state["x"].tolist() == [5, 6, 7, 1]
    assert value.tolist() == [8.0]


@pytest.mark.parametrize("what", ["state", "weights", "shape", "dtype"])
def test_other_memory_or_shapes_are_recorded_anew(what: str, record: StandIn) -> None:
    step, state, weights = Recorded(appending, record), {"x": torch.zeros(4)}, [number(10.0)]
    for i in range(3):
        step(state, weights, torch.tensor([i]), number(1.0))
    at, value = torch.tensor([3]), number(7.0)
    if what == "state":
        state = {"x": torch.zeros(4)}
    elif what == "weights":
        weights = [number(2.0)]
    elif what == "shape":
        at, value = torch.tensor([2, 3]), torch.full((2,), 7.0)
    else:
        at = torch.tensor([3], dtype=torch.int32)
    for _ in range(3):
        _, (x,) = step(state, weights, at, value)
        assert (x == state["x"] * weights[0]).all()
        assert state["x"][3] == 7.0
    assert record.records == 2


def test_a_recording_does_not_keep_the_state_alive(record: StandIn) -> None:
    """Every bucket of the cache has a program, which outlives the text it was made for."""
    step, state = Recorded(appending, record), {"x": torch.zeros(4)}
    step(state, [number(1.0)], torch.tensor([0]), number(1.0))
    (ref,) = [ref for ref in step._trees if ref() is state["x"]]
    del state
    gc.collect()
    assert ref() is None


def generator() -> Generator:
    return Generator(asynchronous(create("cpu", compile=False)), SMALL.config, SMALL.params)


@pytest.mark.parametrize("options", OPTIONS)
def test_texts_by_recorded_steps_are_the_same(options: str, record: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are greedy, drawn or penalised, cross the borders of buckets, and have rows that end before others."""
    wanted = {**OPTIONS[options], "max_new_tokens": 75, "stop_tokens": [7]}
    monkeypatch.setattr(TorchBackend, "decoding_params", Backend.decoding_params)  # as on CUDA
    expected = generator().generate(PROMPTS, **wanted)
    plain = TorchBackend.jit_update
    monkeypatch.setattr(TorchBackend, "jit_step", lambda self, f: Recorded(plain(self, f), record))
    recorded = generator()
    for _ in range(2):
        assert recorded.generate(PROMPTS, **wanted) == expected
    assert record.replays > 100 > 10 * record.records / 2


def test_only_cuda_records() -> None:
    assert not isinstance(create("cpu").jit_step(appending), RecordedStep)
    backend = TorchBackend(torch.device("cuda"), "float32", "off", int8=False)
    assert isinstance(backend.jit_step(appending), RecordedStep)
    assert not isinstance(backend.jit_update(appending), RecordedStep)
