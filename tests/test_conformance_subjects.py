"""Other people's GPT-2 as subjects: Hugging Face's, right modules of our own, and modules with one mistake each."""

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import deviant_models
import numpy as np
import pytest
import torch
from gpt2spec_conformance.case import Case
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.cases.inputs import L1, L2, tokens_and_targets
from gpt2spec_conformance.diagnosis import diagnose
from gpt2spec_conformance.runner import Result, run_cases
from gpt2spec_conformance.subject import Subject, load_subject
from gpt2spec_conformance.subjects.torch_module import (
    ABSENT,
    Layout,
    TorchModuleSubject,
    as_it_is,
    separate_qkv,
    transposed,
    untied,
)
from gpt2spec_conformance.weights import weight_set

from gpt2spec.cli.main import main
from gpt2spec.errors import ConfigError

DOCUMENT = Path(__file__).parents[1] / "docs" / "is-my-gpt2-right.md"


@cache
def hugging_face() -> Subject:
    return load_subject("gpt2spec_conformance.subjects.huggingface:subject")


def cases(*prefixes: str) -> list[Case]:
    """The cases with ids that begin so, without those that only a backend can answer."""
    return [case for case in all_cases() if case.id.startswith(prefixes) and case.operation != "backend"]


def level(*names: str) -> list[Case]:
    return [case for case in all_cases() if case.level in names and case.operation != "backend"]


def wrong(results: Sequence[Result]) -> dict[str, str]:
    return {result.id: f"{result.status}: {result.message}" for result in results if result.status != "passed"}


# Right ones


@pytest.mark.parametrize(
    "make",
    [hugging_face, deviant_models.subject, deviant_models.plain_subject],
    ids=["transformers", "linear", "plain"],
)
def test_right_model_conforms_in_inference_and_gradient(make: Callable[[], Subject]) -> None:
    subject = make()
    asked = [case for case in level("inference", "gradient") if subject.supports(case.operation)]
    assert {case.operation for case in asked} >= {"logits", "loss", "loss_and_gradients"}
    assert wrong(list(run_cases(asked, subject))) == {}


def test_hugging_face_offers_taps_and_the_plain_model_has_none() -> None:
    assert hugging_face().supports("taps")
    assert not deviant_models.plain_subject().supports("taps")


def test_what_hugging_face_does_differently_is_what_the_document_says() -> None:
    subject = hugging_face()
    asked = [case for case in level("train", "decode") if subject.supports(case.operation)]
    assert {case.family for case in asked} == {"initial", "decode"}
    failed = wrong(list(run_cases(asked, subject)))
    told = set(re.findall(r"^\| `([\w.-]+)` \|", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(failed) == told
    assert told > {"decode.filter.top-k.ties", "decode.generate.sampled"}


# Wrong ones

ASKED = (
    "model.logits.init.L1",
    "model.taps.probe.L2",
    "model.laws.causality",
    "gradient.weights.init.L1",
    "gradient.weights.probe.L1",
)
LOGITS, TAPS, CAUSALITY, *GRADIENTS = ASKED


@pytest.mark.parametrize(
    ("deviation", "failing", "mutant", "divergence"),
    [
        ("gelu-erf", [LOGITS, TAPS, *GRADIENTS], "gelu-erf", "MLP output of block 0"),
        ("ln-epsilon-1e-6", [LOGITS, TAPS, *GRADIENTS], "ln-epsilon-1e-6", "attention output of block 0"),
        ("mask-off-by-one", [LOGITS, TAPS, CAUSALITY, *GRADIENTS], "mask-shifted", "attention output of block 0"),
        ("untied-head", GRADIENTS, "head-gradient-missing", "the backward pass"),
    ],
)
def test_deviant_model_fails_and_its_mistake_is_named_first(
    deviation: str, failing: list[str], mutant: str, divergence: str
) -> None:
    results = list(run_cases(cases(*ASKED), deviant_models.subject(deviation)))
    assert set(wrong(results)) == set(failing)
    assert {result.status for result in results} <= {"passed", "failed"}
    diagnosis = diagnose(results, "float32")
    first, *others = diagnosis.suspects
    assert first.mutant == mutant
    assert first.explains > max([1, *(other.explains for other in others)])
    assert diagnosis.first_divergence.startswith(divergence)


def test_biases_that_are_absent_show_where_they_are_not_zero_and_in_their_gradients() -> None:
    results = {result.id: result for result in run_cases(cases(*ASKED), deviant_models.subject("no-biases"))}
    assert set(wrong(list(results.values()))) == {TAPS, *GRADIENTS}
    found = {
        p.name.partition("[")[0] for p in results["gradient.weights.init.L1"].tensors if p.found == 0 != p.expected
    }
    assert found == {f"h.0.{name}.bias" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}


RESIDUAL = {f"h.{i}.{name}.c_proj.weight" for i in range(6) for name in ("attn", "mlp")}


@pytest.mark.parametrize(
    ("deviation", "weights"),
    [
        (None, set()),
        ("no-residual-scale", RESIDUAL),
        ("wte-std-0.01", {"wte.weight"}),
        ("wpe-std-0.01", {"wpe.weight"}),
    ],
)
def test_deviant_initial_weights_are_named_one_by_one(deviation: str | None, weights: set[str]) -> None:
    subject = deviant_models.subject(deviation)
    results = list(run_cases(cases("initial."), subject))
    assert {tensor.name for result in results for tensor in result.tensors if tensor.error} == weights
    assert bool(wrong(results)) == bool(weights)
    assert wrong(list(run_cases(cases("model.logits"), subject))) == {}  # the suite's own weights are loaded


# The adapter


def test_initial_weights_follow_their_seed_and_leave_the_generator_alone() -> None:
    subject = deviant_models.subject()
    before = torch.random.get_rng_state()
    first, again, other = (subject.initial_parameters(L1, seed)["wte.weight"] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (torch.random.get_rng_state() == before).all()


@pytest.mark.parametrize(
    "layout",
    [as_it_is("a"), transposed("a"), separate_qkv("a", "b", "c"), untied("a", "b")],
    ids=lambda x: len(x.names),
)
def test_layout_reads_what_it_stores(layout: Layout) -> None:
    for shape in ((4, 12), (12,)):
        x = np.random.default_rng(0).standard_normal(shape)
        stored = layout.store(x)
        assert len(stored) == len(layout.names)
        assert (layout.read(stored) == x).all()


@pytest.mark.parametrize("form", ["tensor", "tuple", "object"])
def test_logits_may_come_first_in_a_tuple_or_as_an_attribute(form: str) -> None:
    forms: dict[str, Callable[[torch.Tensor], Any]] = {
        "tensor": lambda x: x,
        "tuple": lambda x: (x, None),
        "object": lambda x: type("Output", (), {"logits": x}),
    }
    subject = TorchModuleSubject(
        deviant_models.GPT2, deviant_models.NAMES, forward=lambda module, tokens: forms[form](module(tokens))
    )
    tokens, _ = tokens_and_targets(L2)
    params = weight_set("probe", L2)
    assert (subject.logits(L2, params, tokens) == deviant_models.subject().logits(L2, params, tokens)).all()


def test_dropout_is_off_in_logits_and_gradients() -> None:
    class WithDropout(deviant_models.GPT2):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(super().forward(tokens), 0.5, self.training)

    subject = TorchModuleSubject(WithDropout, deviant_models.NAMES)
    assert wrong(list(run_cases(cases("model.logits.probe.L1", "gradient.weights.probe.L1"), subject))) == {}


NAMES = deviant_models.NAMES
QKV = "h.{i}.attn.c_attn"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES | {"h.{i}.attn.qkv": "x"}, r"names has 'h.\{i\}.attn.qkv': GPT-2 has no such weight or module"),
        (NAMES | {"wte": "token"}, r"names has wte.weight in token.weight: the module has no such parameter"),
        (NAMES | {QKV: "blocks.{i}.attn.qkv"}, r"shape \[72, 24\]; \[24, 72\] is expected .*; is it transposed\?"),
        (NAMES | {"wpe": ABSENT}, r"has a parameter pos.weight \[16, 24\] that names does not mention"),
        ({"wte": "tok"}, r"names does not say where the module has wpe.weight; ABSENT means that it has none"),
    ],
)
def test_names_that_do_not_fit_are_refused_at_once(names: dict[str, str | Layout], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchModuleSubject(deviant_models.GPT2, names)


def test_head_of_its_own_is_pointed_out() -> None:
    with pytest.raises(ConfigError, match=r'parameter head.weight \[61, 24\] .*: untied\("EMBEDDING", "HEAD"\)'):
        TorchModuleSubject(lambda config: deviant_models.GPT2(config, tied=False), NAMES)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"attn": "blocks.{i}.attn"}, "parts has attn; it needs attn, mlp and residual"),
        (
            deviant_models.PARTS | {"mlp": "blocks.{i}.ffn"},
            "parts has mlp in blocks.0.ffn: the module has no such part",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_at_once(parts: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TorchModuleSubject(deviant_models.GPT2, NAMES, parts=parts)


# The document

MY_GPT2 = """
import deviant_models
from torch import nn
from gpt2spec.config import GPT2Config

class GPT2(deviant_models.GPT2):
    def __init__(self, layers, heads, width, context, vocabulary):
        config = GPT2Config(layers, heads, width, context, vocabulary)
        super().__init__(config, gelu=nn.functional.gelu)
"""


def test_the_document_finds_the_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(# judged.py\n.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    command, *_ = re.findall(r"^```sh\n(gpt2spec conform --subject judged:subject.*)\n```", text, flags=re.MULTILINE)
    (transcript,) = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "judged.py").write_text(program)
    (tmp_path / "my_gpt2.py").write_text(MY_GPT2)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert main([*shlex.split(command)[1:], "--quiet"]) == 1
    shown = [shape_of(line) for line in capsys.readouterr().out.splitlines()]
    told = [shape_of(line) for line in transcript.splitlines() if line.startswith(STABLE)]
    assert len(told) == len(STABLE)
    assert [line for line in told if line not in shown] == []
    suspects = [line for line in shown if line.startswith("matches ")]
    assert suspects[0].startswith("matches gelu-erf:")


STABLE = ("gpt2spec ", "FAMILY", "first divergence: ", "matches gelu-erf: ", "FAILED: ")
"""The beginnings of those lines of the output that, apart from figures, are the same on every machine."""


def shape_of(line: str) -> str:
    return re.sub(r"\d+(\.\d+)*", "#", line)
