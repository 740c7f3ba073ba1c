"""The suite as files: what is exported, what is refused, and an implementation in C that is judged by it."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpt2spec_conformance import vectors
from gpt2spec_conformance.runner import Result, run_case, run_cases
from gpt2spec_conformance.session import run_session
from safetensors.numpy import load_file, save_file

from gpt2spec.cli.main import main

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "conformance" / "c" / "gpt2.c"
COMPILE = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
DOCUMENTS = (ROOT / "docs" / "any-language.md", SOURCE.with_name("README.md"))
MISTAKES = {
    "gelu-erf": "model.logits.probe.L1",
    "ln-epsilon-1e-6": "model.logits.init.L2",
    "attention-no-scale": "model.logits.probe.L1",
    "mask-shifted": "model.logits.probe.L1",
    "positions-off-by-one": "model.logits.probe.L1",
    "embedding-gradient-missing": "gradient.weights.probe.L1",
    "decay-l2": "optimizer.decay.all",
}
"""Mutants that `gpt2.c` can be compiled into, and a case that each must fail."""
LARGEST = 10e6
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler called cc")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "deeper" / "vectors"
    vectors.export(folder)
    return folder


@pytest.fixture
def questions(exported: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(exported, tmp_path / "vectors")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build")


def compiled(build: Path, *options: str) -> Path:
    program = build / "-".join(["gpt2", *options])
    if not program.exists():
        subprocess.run(["cc", *COMPILE, *options, SOURCE, "-lm", "-o", program], check=True, timeout=120)
    return program


def answers_of(program: Path, questions: Path, outputs: Path) -> Path:
    outputs.mkdir()
    ran = subprocess.run([program, questions, outputs], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return outputs


@pytest.fixture(scope="module")
def answered(build: Path, exported: Path) -> Path:
    return answers_of(compiled(build), exported, build / "outputs")


@pytest.fixture
def outputs(answered: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(answered, tmp_path / "outputs")


def results_of(questions: Path, outputs: Path) -> dict[str, Result]:
    subject = vectors.read_subject(questions, outputs)
    return {result.id: result for result in run_cases(subject.cases(), subject)}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which `gpt2spec vectors` refuses."""
    assert main(["vectors", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpt2spec: error: ")
    assert err.count("\n") == 1
    return err


# ---------------------------------------------------------------------- export


def test_export_is_small_and_its_checksums_are_right(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    written = {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
    assert set(written) == {"manifest.json", *manifest["files"]}
    assert sum(path.stat().st_size for path in written.values()) < LARGEST
    for name, described in manifest["files"].items():
        data = written[name].read_bytes()
        assert described == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_every_family_and_operation_is_exported() -> None:
    cases = vectors.exportable_cases()
    assert {case.family for case in cases} == set(vectors.FAMILIES)
    assert {case.operation for case in cases} == set(vectors.OPERATIONS)
    asked = {case.id for case in cases}
    assert {"model.logits.probe.T1", "model.taps.init.L2", "model.laws.causality", "optimizer.clip.active"} <= asked
    assert "model.laws.repeated" not in asked


def test_questions_are_the_same_in_the_list_and_in_the_manifest(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    lines = (exported / "questions.txt").read_text().splitlines()
    listed = [dict(word.split("=", 1) for word in line.split(" ")) for line in lines]
    in_manifest = [{**question, **question["settings"]} for question in manifest["questions"]]
    described = [{k: str(v) for k, v in q.items() if k not in ("settings", "returns", "sha256")} for q in in_manifest]
    assert listed == described


def test_no_right_answer_is_exported(exported: Path) -> None:
    for question in json.loads((exported / "manifest.json").read_text())["questions"]:
        given = set(load_file(exported / question["inputs"]))
        if question["operation"] == "adamw_steps":
            assert given == {"rates", *question["returns"]}  # gradients have the names of the updated weights
        else:
            assert given <= {"tokens", "targets"}


def test_questions_that_are_alike_are_asked_once() -> None:
    questionnaire = vectors.questionnaire()
    assert len(questionnaire.names) == len(questionnaire.questions)
    assert questionnaire.asked_by["loss.same.probe.L2"] == ("gradient.weights.probe.L2",)
    assert questionnaire.asked_by["model.laws.causality"] == ("model.logits.probe.L2", "model.laws.causality")


def test_question_is_known_by_everything_it_asks() -> None:
    question = vectors.questionnaire().questions["loss.mean.probe.L2"]
    changed = [
        dataclasses.replace(question, operation="loss_and_gradients"),
        dataclasses.replace(question, settings={**question.settings, "n_head": 4}),
        dataclasses.replace(question, weights={n: x + np.float32(1) for n, x in question.weights.items()}),
        dataclasses.replace(question, inputs={**question.inputs, "tokens": question.inputs["targets"]}),
    ]
    assert len({q.key for q in [question, *changed]}) == 5


def test_export_overwrites_nothing(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (questions / "manifest.json").read_bytes()
    assert "cannot write" in refusal(capsys, "export", questions)
    assert (questions / "manifest.json").read_bytes() == before


# ---------------------------------------------------------------------- vectors and outputs that are refused


def test_damaged_vectors_are_refused(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = questions / "weights" / "probe.L2.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "probe.L2.safetensors is damaged" in refusal(capsys, "judge", questions, questions)
    weights.unlink()
    assert "probe.L2.safetensors is missing" in refusal(capsys, "judge", questions, questions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a manifest"),
        ('{"format": 0}', "has format 0, not 1"),
        ('{"format": 1, "questions": [], "files": {}}', "is not of this version of the suite"),
        ('{"format": 1}', "is not of this version of the suite"),
    ],
)
def test_other_manifest_is_refused(
    questions: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (questions / "manifest.json").write_text(text)
    assert message in refusal(capsys, "judge", questions, questions)


def test_question_of_another_suite_is_refused(questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = json.loads((questions / "manifest.json").read_text())
    manifest["questions"][3]["sha256"] = "0" * 64
    (questions / "manifest.json").write_text(json.dumps(manifest))
    assert "is not of this version of the suite" in refusal(capsys, "judge", questions, questions)


def test_folder_without_manifest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read" in refusal(capsys, "judge", tmp_path, tmp_path)


def test_outputs_that_cannot_be_judged_are_refused(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = tmp_path / "outputs"
    assert "is not a folder" in refusal(capsys, "judge", exported, outputs)
    outputs.mkdir()
    assert "has no .safetensors file" in refusal(capsys, "judge", exported, outputs)
    file = outputs / "model.logits.init.L1.safetensors"
    file.write_bytes(b"\xff" * 20)
    assert f"{file.name} is not a safetensors file" in refusal(capsys, "judge", exported, outputs)
    save_file({"logits": np.zeros((2, 16, 61), np.int32)}, file)
    assert "'logits' is int32" in refusal(capsys, "judge", exported, outputs)
    file.rename(outputs / "model.logits.init.l1.safetensors")
    assert "(did you mean 'model.logits.init.L1'?)" in refusal(capsys, "judge", exported, outputs)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"logits": np.full((2, 16, 61), np.nan)}, "has 1952 of 1952 values that are NaN or infinite"),
        (
            {"logits": np.zeros((32, 61))},
            "logits of model.logits.init.L1.safetensors has shape [32, 61]; [2, 16, 61] is expected",
        ),
        ({"logit": np.zeros((2, 16, 61))}, "has no tensor 'logits' (did you mean 'logit'?)"),
        ({"logits": np.zeros((2, 16, 61)), "more": np.zeros(1)}, "has 'more', which was not asked for"),
        ({"logits": np.zeros((2, 16, 61))}, "logits is off by"),
    ],
)
def test_wrong_answer_fails_its_case_in_one_line(tensors: dict[str, np.ndarray], message: str) -> None:
    subject = vectors.VectorSubject({"model.logits.init.L1": tensors})
    (case,) = [case for case in subject.cases() if case.id == "model.logits.init.L1"]
    result = run_case(case, subject)
    assert result.status == "failed"
    assert message in result.message
    assert "\n" not in result.message


# ---------------------------------------------------------------------- the implementation in C


@needs_compiler
def test_c_passes_every_case(exported: Path, answered: Path) -> None:
    results = results_of(exported, answered)
    assert {id: r.message for id, r in results.items() if r.status != "passed"} == {}
    assert {result.level for result in results.values()} == {"inference", "gradient", "train"}


@needs_compiler
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_of_the_documents_work(document: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "conformance").symlink_to(ROOT / "conformance")
    shutil.copy(SOURCE, tmp_path)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in block.splitlines():
        ran = subprocess.run(
            line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"
    assert "PASSED: the selected cases of inference, gradient, train" in ran.stdout


def test_the_page_shows_a_line_of_the_list_and_every_operation(exported: Path) -> None:
    page = DOCUMENTS[0].read_text()
    assert [line for line in (exported / "questions.txt").read_text().splitlines() if f"\n{line}\n" in page]
    assert [operation for operation in vectors.OPERATIONS if f"| `{operation}` |" not in page] == []


def test_the_readme_lists_every_mistake_of_the_program() -> None:
    switches = {f"MISTAKE_{name.upper().replace('-', '_')}" for name in MISTAKES}
    assert set(re.findall(r"#ifn?def (MISTAKE_\w+)", SOURCE.read_text())) == switches
    assert set(re.findall(r"`-D(MISTAKE_\w+)`", DOCUMENTS[1].read_text())) == switches


@needs_compiler
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_c_is_found_and_named(mistake: str, build: Path, exported: Path, tmp_path: Path) -> None:
    program = compiled(build, f"-DMISTAKE_{mistake.upper().replace('-', '_')}")
    outputs = answers_of(program, exported, tmp_path / "outputs")
    assert results_of(exported, outputs)[MISTAKES[mistake]].status == "failed"
    for path in outputs.iterdir():  # a few answers are enough for the diagnosis
        if path.stem not in MISTAKES.values():
            path.unlink()
    subject = vectors.read_subject(exported, outputs)
    session = run_session(subject, subject.cases())
    assert session.verdict == "failed"
    assert session.diagnosis is not None
    assert session.diagnosis.suspects[0].mutant == mistake


@needs_compiler
def test_unanswered_question_counts_only_within_a_claimed_level(exported: Path, outputs: Path) -> None:
    for path in outputs.iterdir():
        if not path.name.startswith("model."):
            path.unlink()
    arguments = ["vectors", "judge", str(exported), str(outputs)]
    assert main(arguments) == 0
    (outputs / "model.laws.prefix.safetensors").unlink()
    assert results_of(exported, outputs)["model.laws.prefix"].message == "no output file"
    assert main(arguments) == 1


@needs_compiler
@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (4, "is too short"),
        (40, "its header is longer than the file"),
        (9000, "are not where its header says"),
    ],
)
def test_c_refuses_a_truncated_file(keep: int, message: str, build: Path, questions: Path, tmp_path: Path) -> None:
    weights = questions / "weights" / "init.L1.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    (tmp_path / "outputs").mkdir()
    ran = subprocess.run([compiled(build), questions, tmp_path / "outputs"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert "init.L1.safetensors" in ran.stderr
    assert message in ran.stderr
