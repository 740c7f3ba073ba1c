"""The script that shows that a refactoring leaves every bit as it was notices what it is there to notice."""

import json
from pathlib import Path
from typing import Any

import fingerprints
import numpy as np
import pytest

from gpt2spec.ops import Tensor, TensorOps

GROUP = "numpy-reference-float64"


def recording(entries: dict[str, str], **environment: str) -> dict[str, Any]:
    return {"environment": {"numpy": "2.0", **environment}, "entries": entries}


def write(path: Path, entries: dict[str, str]) -> str:
    path.write_text(json.dumps(recording(entries)))
    return str(path)


def test_two_processes_record_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / name) for name in ("before.json", "after.json")]
    for path in paths:
        assert fingerprints.main(["record", path, "--only", f"^{GROUP}$|^schedule$|^words-help$"]) == 0
    assert fingerprints.main(["compare", *paths]) == 0
    assert capsys.readouterr().out.endswith("The same.\n")
    names = json.loads(Path(paths[0]).read_text())["entries"]
    assert {name.partition("/")[0] for name in names} == {GROUP, "schedule", "words-help"}
    assert {f"{GROUP}/logits", f"{GROUP}/greedy.1.0.tokens", "words-help/train"} <= names.keys()


def test_a_gelu_of_another_kind_changes_what_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes a bit in a few places, but not the schedule or the place of the embedding in the table."""
    before = fingerprints.entries(GROUP, tmp_path)
    right = TensorOps.gelu_tanh

    def off_by_one_bit(self: TensorOps, x: Tensor) -> Tensor:
        return right(self, x) * (1.0 + 2.0**-52)

    monkeypatch.setattr(TensorOps, "gelu_tanh", off_by_one_bit)
    after = fingerprints.entries(GROUP, tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert {"logits", "loss", "gradient.wte.weight", "taps.0.mlp", "train.everywhere.params.ln_f.bias"} <= changed
    assert "taps.0.attn" not in changed and "train.everywhere.1.rate" not in changed
    assert before.keys() == after.keys()


def test_one_bit_of_an_array_counts() -> None:
    array = np.linspace(0.0, 1.0, 7, dtype=np.float32)
    other = array.copy()
    other.view(np.uint32)[3] ^= 1
    different = [array, other, array.astype(np.float64), array.reshape(7, 1), -0.0 * array, 0.0 * array]
    assert len({fingerprints.printed(x) for x in different}) == len(different)
    assert fingerprints.printed(array) == fingerprints.printed(array[::-1][::-1])


def test_every_difference_is_a_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write(tmp_path / "before.json", {"a/same": "1", "a/bits": "x 1", "a/gone": "2", "b/words": "one\ntwo"})
    after = write(tmp_path / "after.json", {"a/same": "1", "a/bits": "x 2", "a/new": "2", "b/words": "one\ntoo"})
    assert fingerprints.main(["compare", before, after]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "a/bits: line 1 was 'x 1' and is 'x 2'",
        "a/gone: missing after",
        "b/words: line 2 was 'two' and is 'too'",
        "a/new: missing before",
    ]
    assert fingerprints.main(["compare", before, after, "--only", "^b"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert fingerprints.main(["compare", before, before]) == 0


def test_another_machine_is_a_difference() -> None:
    before, after = recording({"a/x": "1"}), recording({"a/x": "1"}, numpy="2.1")
    (line,) = fingerprints.differences(before, after)
    assert line == "environment: numpy was 2.0 and is 2.1: bits may differ for that"


def test_texts_that_differ_only_at_their_end_differ() -> None:
    assert fingerprints.first_difference("one\n", "one") == r"line 2 was 'one\n' and is 'one'"


def test_a_group_that_fails_is_told_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fingerprints, "GROUPS", {"schedule": None, "nothing": None})
    assert fingerprints.main(["record", str(tmp_path / "out.json")]) == 1
    assert capsys.readouterr().out.endswith("failed: nothing\n")
    found = json.loads((tmp_path / "out.json").read_text())["entries"]
    assert "nothing" in found["nothing/failed"] and "schedule/update.1" in found
