"""Sessions of the conformance suite: their verdicts, reports, command and pytest plugin."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpt2spec_conformance.case import Case, Nonconformance, NotApplicable, nothing_wrong
from gpt2spec_conformance.cases import all_cases
from gpt2spec_conformance.diagnosis import Diagnosis, Suspect
from gpt2spec_conformance.expected import ExpectedFailure, read_expected
from gpt2spec_conformance.findings import CaseReport, SessionReport
from gpt2spec_conformance.judge import JudgedTensor
from gpt2spec_conformance.level import LEVELS, Level
from gpt2spec_conformance.mutants import MutatedSubject, catalogue
from gpt2spec_conformance.pytest_plugin import check
from gpt2spec_conformance.report import badge, junit, markdown, plot, terminal
from gpt2spec_conformance.report import html as html_report
from gpt2spec_conformance.report.folder import write_reports
from gpt2spec_conformance.report.progress import Progress
from gpt2spec_conformance.report.results import ResultsError, dump_results, parse_results, read_results
from gpt2spec_conformance.runner import run_case
from gpt2spec_conformance.selection import applies, select_cases
from gpt2spec_conformance.session import make_header, run_session
from gpt2spec_conformance.subject import BackendSubject, Subject

from gpt2spec.cli.main import main
from gpt2spec.errors import ConfigError
from gpt2spec.plugins import default_registry, load_backend

pytest_plugins = ["pytester"]
INSTALLED = "gpt2spec_conformance" in entry_points(group="pytest11").names
PLUGIN = [] if INSTALLED else ["-p", "gpt2spec_conformance.pytest_plugin"]
"""The option that names the plugin where its entry point is not installed."""
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LEVEL = {"inference": 2, "gradient": 1, "train": 0, "decode": 0, "int8": 0}
"""Sizes of the made-up suite below."""
QUICK = "model.logits.probe.T1"


def fake_case(id: str, status: str = "passed", level: Any = "inference", **values: Any) -> CaseReport:
    numbers = {"error": 2.0, "budget": 8.0} if status == "passed" else {}
    return CaseReport(**{"id": id, "level": level, "summary": "it holds", "status": status, **numbers, **values})


def session(*cases: CaseReport, **values: Any) -> SessionReport:
    header = make_header(Subject(), len(cases), "gpt2spec conform --backend fake")
    return SessionReport(dataclasses.replace(header, suite=LEVEL), cases, **values)


def taps_case(**values: Any) -> CaseReport:
    names = [f"h.{layer}.{tap}" for layer in range(3) for tap in ("attn", "mlp", "residual")]
    tensors = tuple(
        JudgedTensor(name, 10.0**i, (0, i), 1.5, float("nan") if i == 8 else 1.0) for i, name in enumerate(names)
    )
    return fake_case(
        "model.taps.x", "failed", error=1e8, budget=20.0, message="h.2 <is> off | by far", tensors=tensors, **values
    )


def wrong_session() -> SessionReport:
    """Everything that reports have to show, markup in it, infinities and characters that XML lacks."""
    crashed = fake_case("loss.mean.x", "error", "gradient", message="ValueError: \x00 <b>&")
    known = fake_case(
        "model.logits.x", "xfailed", reason="bug <7>", link="https://example.org/7", error=float("inf"), budget=0.0
    )
    diagnosis = Diagnosis((Suspect("gelu-erf", "GELU by <erf>", "tanh", 3, 4, float("inf")),), "MLP output of block 0")
    return session(known, taps_case(), crashed, diagnosis=diagnosis, seconds=1.25)


class OneOperation(Subject):
    """Has nothing but logits, and those from the NumPy backend."""

    name = "one operation"

    def logits(self, config: Any, params: Any, tokens: np.ndarray) -> np.ndarray:
        return BackendSubject(load_backend("numpy")).logits(config, params, tokens)


def asking(id: str, ask: Callable[[Subject], Any], operation: str = "logits") -> Case:
    return Case(id, "inference", operation, "a test", ask, metric="exact", truth=lambda answer: answer)


# ---------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("statuses", "level", "verdict"),
    [
        (["passed", "passed"], "passed", "passed"),
        (["passed"], "partial", "passed"),
        (["passed", "failed"], "failed", "failed"),
        (["passed", "error"], "failed", "failed"),
        (["passed", "xpassed"], "failed", "failed"),
        (["passed", "unsupported"], "failed", "failed"),
        (["passed", "xfailed"], "excepted", "passed"),
        (["passed", "inapplicable"], "passed", "passed"),
        (["failed", "inapplicable"], "failed", "failed"),
        (["inapplicable", "inapplicable"], "not claimed", "failed"),
        (["inapplicable", "unsupported"], "not claimed", "failed"),
        (["xfailed", "xfailed"], "not claimed", "failed"),
        (["unsupported", "unsupported"], "not claimed", "failed"),
    ],
)
def test_verdict_follows_from_the_cases(statuses: list[str], level: str, verdict: str) -> None:
    report = session(*(fake_case(f"model.{i}", status) for i, status in enumerate(statuses)))
    assert [(one.level, one.status) for one in report.levels] == [("inference", level)]
    assert report.verdict == verdict


def test_nothing_run_is_not_passed() -> None:
    assert session().verdict == "failed"


def test_level_that_is_not_claimed_does_not_spoil_another() -> None:
    report = session(
        fake_case("model.a"), fake_case("model.b"), fake_case("loss.c", "unsupported", "gradient", message="no loss")
    )
    assert [level.status for level in report.levels] == ["passed", "not claimed"]
    assert report.verdict == "passed"


def test_session_records_wrong_answers_crashes_and_what_is_not_supported() -> None:
    def wrong(subject: Subject) -> Any:
        raise Nonconformance("it is wrong")

    cases = [
        asking("a.right", lambda subject: nothing_wrong()),
        asking("a.wrong", wrong),
        asking("a.crash", lambda subject: {"x": np.zeros(1) / np.zeros((2, 2)) @ np.zeros(3)}),
        asking("a.unsupported", lambda subject: nothing_wrong(), "generate"),
        asking("a.backends-only", lambda subject: nothing_wrong(), "backend"),
    ]
    report = run_session(OneOperation(), cases)
    assert [case.status for case in report.cases] == ["passed", "failed", "error", "unsupported"]
    assert [case.message for case in report.cases][1::2] == ["it is wrong", "no generate"]
    assert report.complete and report.header.planned == 4


def test_expected_failures_are_strict() -> None:
    known = {"a.wrong": ExpectedFailure("bug", "link"), "a.right": ExpectedFailure("was a bug", "link")}

    def wrong(subject: Subject) -> Any:
        raise Nonconformance("it is wrong")

    cases = [asking("a.right", lambda subject: nothing_wrong()), asking("a.wrong", wrong)]
    report = run_session(OneOperation(), cases, expected=known)
    assert [case.status for case in report.cases] == ["xpassed", "xfailed"]
    assert "was a bug" in report.cases[0].message
    assert report.verdict == "failed"
    assert run_session(OneOperation(), cases[1:], expected=known).cases[0].reason == "bug"


def test_case_that_cannot_be_asked_is_told_in_every_report_and_counts_neither_way() -> None:
    def ask(subject: Subject) -> Any:
        raise NotApplicable("it has a kernel | of its own")

    def run(*cases: Case, **expected: ExpectedFailure) -> SessionReport:
        return read_back(run_session(OneOperation(), cases, expected=expected))

    right, other = asking("a.right", lambda subject: nothing_wrong()), asking("a.other", ask)
    report = run(right, other)
    assert [case.status for case in report.cases] == ["passed", "inapplicable"]
    assert report.verdict == "passed"
    assert "a.other: not applicable: it has a kernel | of its own\n\nPASSED" in terminal.render(report)
    assert ", 1 not applicable\n" in terminal.render(report)
    assert r"- a.other: not applicable: it has a kernel \| of its own" in markdown.render([report])
    assert '<skipped message="not applicable: it has a kernel | of its own"' in junit.render([report])
    assert "a.other: not applicable" in html_report.render([report])
    assert run(other).verdict == "failed"  # nothing was asked
    assert '<td class="inapplicable">' in html_report.render([run(other)])
    known = {"a.other": ExpectedFailure("a bug", "link")}
    assert run_session(OneOperation(), [right, other], expected=known).cases[1].status == "inapplicable"


def test_interrupt_keeps_what_was_found() -> None:
    def interrupted(subject: Subject) -> Any:
        raise KeyboardInterrupt

    report = run_session(
        OneOperation(), [asking("a.right", lambda subject: nothing_wrong()), asking("a.long", interrupted)]
    )
    assert (report.complete, report.verdict, len(report.cases)) == (False, "incomplete", 1)
    assert "INCOMPLETE: interrupted after 1 of 2 cases" in terminal.render(report)
    assert read_back(report).verdict == "incomplete"
    assert "<error" in junit.render([report])


def test_cases_for_backends_are_not_for_others() -> None:
    case = asking("a.b", lambda subject: nothing_wrong(), "backend")
    assert applies(case, BackendSubject(load_backend("numpy")))
    assert not applies(case, OneOperation())
    assert make_header(OneOperation(), 0).suite["inference"] == sum(
        case.level == "inference" and case.operation != "backend" for case in all_cases()
    )


def test_a_level_is_one_entry_and_the_cases_that_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subjects, sessions, reports and the pytest plugin know the level by its entry alone."""
    entry = Level("int4", {}, lambda subject: subject.decoding_weights == "int4", "backends that decode in int4")
    monkeypatch.setitem(LEVELS, "int4", entry)  # type: ignore[index]
    case = dataclasses.replace(asking("int4.a", lambda subject: nothing_wrong(), "int4"), level="int4")
    exact, rounded = BackendSubject(load_backend("numpy")), BackendSubject(load_backend("numpy"))
    rounded.decoding_weights = "int4"
    report = run_session(rounded, [*all_cases(), case])
    assert [(case.id, case.status) for case in report.cases] == [("int4.a", "passed")]
    assert list(badge.render([report])) == ["badge-int4.json"]
    assert "PASSED: int4" in terminal.render(read_back(report))
    assert not applies(case, exact)
    with pytest.raises(pytest.skip.Exception, match="only for backends that decode in int4, and numpy is none"):
        check(case, exact, {})


# ---------------------------------------------------------------------- what is asked, and what is expected


def test_cases_are_selected_by_level_and_pattern() -> None:
    assert select_cases() == all_cases()
    assert {case.level for case in select_cases(["train", "decode"])} == {"train", "decode"}
    assert [case.id for case in select_cases(patterns=[QUICK])] == [QUICK]
    found = select_cases(["inference"], ["*.init.L?", QUICK])
    assert QUICK in [case.id for case in found] and {case.level for case in found} == {"inference"}


@pytest.mark.parametrize(
    ("levels", "patterns", "message"),
    [
        (["infer"], [], "there is no level 'infer' (did you mean 'inference'?)"),
        ([], ["model.logits.probe.T2"], "no case is called 'model.logits.probe.T2' (did you mean "),
        (["train"], [QUICK], f"no case is called '{QUICK}'"),
    ],
)
def test_selection_of_nothing_is_refused(levels: list[str], patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        select_cases(levels, patterns)


def expected_file(folder: Path, text: str) -> Path:
    path = folder / "expected.toml"
    path.write_text(text)
    return path


def test_expected_failures_are_read(tmp_path: Path) -> None:
    path = expected_file(tmp_path, f"[[expected]]\nid = '{QUICK}'\nreason = 'a bug'\nlink = 'https://example.org/1'\n")
    assert read_expected(path) == {QUICK: ExpectedFailure("a bug", "https://example.org/1")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a table [[expected]]"),
        ("[[expected]]\nid = 'x'\n[other]\n", "must hold a table [[expected]]"),
        ("[[expected", "cannot read the expected failures"),
        (f"[[expected]]\nid = '{QUICK}'\nlink = 'x'\n", "entry 1 of .* has no reason"),
        (f"[[expected]]\nid = '{QUICK}'\nreason = ' '\nlink = 'x'\n", "entry 1 of .* has no reason"),
        (f"[[expected]]\nid = '{QUICK}'\nreason = 'x'\n", "entry 1 of .* has no link"),
        ("[[expected]]\nid = 'model.logit'\nreason = 'x'\nlink = 'x'\n", "there is no case 'model.logit' "),
        (f"[[expected]]\nid = '{QUICK}'\nreason = 'x'\nlink = 'x'\nstrict = false\n", "and nothing else"),
        (f"[[expected]]\nid = '{QUICK}'\nreason = 'x'\nlink = 'x'\n" * 2, "twice"),
    ],
)
def test_expected_failures_that_say_too_little_are_refused(tmp_path: Path, text: str, message: str) -> None:
    pattern = message if ".*" in message else re.escape(message)
    with pytest.raises(ConfigError, match=pattern):
        read_expected(expected_file(tmp_path, text))


# ---------------------------------------------------------------------- reports


def read_back(report: SessionReport) -> SessionReport:
    return parse_results(dump_results([report]), "test")[0]


def test_results_come_back_as_they_were() -> None:
    before = wrong_session()
    text = dump_results([before, session(fake_case("model.a"))])
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    after, second = parse_results(text, "test")
    assert str(after) == str(before)  # text, as nan is unlike itself
    assert second.verdict == "passed"


def test_results_without_a_footer_are_refused(tmp_path: Path) -> None:
    lines = dump_results([wrong_session()]).splitlines(keepends=True)
    path = tmp_path / "results.jsonl"
    for kept in range(len(lines)):
        path.write_text("".join(lines[:kept]))
        with pytest.raises(ResultsError, match="has no footer"):
            read_results(path)
    path.write_text("".join(lines))
    assert read_results(path)[0].verdict == "failed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [lines[0], *lines[2:]], "2 cases before a footer that counts 3"),
        (lambda lines: lines[1:], "line 1 .* a case line out of place"),
        (lambda lines: [*lines[:2], lines[2][:40], *lines[3:]], "line 3 "),
        (lambda lines: [*lines[:-1], lines[-1].replace('"failed"', '"passed"', 1)], "the footer says passed"),
    ],
)
def test_damaged_results_are_refused(change: Callable[[list[str]], list[str]], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        parse_results("\n".join(change(dump_results([wrong_session()]).splitlines())), "test")


def test_terminal_text_has_failures_how_to_repeat_them_and_the_diagnosis() -> None:
    text = terminal.render(wrong_session())
    assert "model.taps.x: h.2 <is> off | by far\n    gpt2spec conform --backend fake --case model.taps.x\n" in text
    assert "loss.mean.x: crashed: ValueError" in text
    assert "model.logits.x:" not in text  # expected
    assert "first divergence: MLP output of block 0\nmatches gelu-erf: GELU by <erf>; explains 3 of 4; " in text
    assert re.search(r"^model +2 +0 +1 +0 +1 +inf +model.logits.x$", text, re.MULTILINE)
    assert text.endswith("FAILED: 2 of 3 cases did not pass (1.2 s)\n")


def test_text_of_two_runs_differs_only_in_time() -> None:
    def run() -> str:
        report = run_session(BackendSubject(load_backend("numpy")), select_cases(patterns=["model.l*"]))
        return terminal.render(dataclasses.replace(report, seconds=0.0))

    assert run() == run()


def test_junit_is_red_where_the_verdict_is() -> None:
    suite = ET.fromstring(junit.render([wrong_session()]).partition("?>")[2])[0]
    found = {test.get("name"): [child.tag for child in test] for test in suite}
    assert found == {"model.logits.x": ["skipped"], "model.taps.x": ["failure"], "loss.mean.x": ["error"]}
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "1", "1"]
    nothing = junit.render([session(fake_case("model.a", "unsupported", message="no logits"))])
    assert "<skipped" in nothing and "<error" in nothing  # nothing ran: not green


def test_markdown_escapes_what_would_be_markup() -> None:
    text = markdown.render([wrong_session()])
    assert r"| model.taps.x | h.2 &lt;is> off \| by far |" in text
    assert "**FAILED: 2 of 3 cases did not pass**" in text


@pytest.mark.parametrize(
    ("cases", "message", "colour"),
    [
        ([fake_case("model.a"), fake_case("model.b")], "passing", "brightgreen"),
        ([fake_case("model.a")], "partly tested", "lightgrey"),
        ([fake_case("model.a"), fake_case("model.b", "failed")], "failing", "red"),
        ([fake_case("model.a"), fake_case("model.b", "xfailed")], "passing but for expected failures", "yellow"),
    ],
)
def test_badge_of_one_subject(cases: Sequence[CaseReport], message: str, colour: str) -> None:
    found = badge.render([session(*cases)])
    assert list(found) == ["badge-inference.json"]
    assert json.loads(found["badge-inference.json"]) == {
        "schemaVersion": 1,
        "label": "GPT-2 inference",
        "message": message,
        "color": colour,
    }


def test_badge_of_several_subjects_and_of_an_interrupted_one() -> None:
    right, wrong = session(fake_case("model.a"), fake_case("model.b")), session(fake_case("model.a", "failed"))
    found = json.loads(badge.render([right, wrong])["badge-inference.json"])
    assert (found["message"], found["color"]) == ("1 of 2 passing", "red")
    found = json.loads(badge.render([dataclasses.replace(right, complete=False)])["badge-inference.json"])
    assert found["message"] == "partly tested"


class Page(html.parser.HTMLParser):
    """The elements of a page; fails where they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_has_the_matrix_the_cases_and_nothing_from_elsewhere() -> None:
    page = Page(html_report.render([wrong_session(), session(fake_case("model.a"), fake_case("contract.b"))]))
    tags = [tag for tag, _ in page.found]
    cells = [attributes["class"] for tag, attributes in page.found if tag == "td" and "class" in attributes]
    assert cells[:6] == ["failed", "failed", "none", "passed", "none", "passed"]  # model, loss, contract
    assert tags.count("svg") == 1 and tags.count("details") == 4 + 5
    assert "h.2 <is> off | by far" in page.text  # escaped, so text and not elements
    assert not [attributes for _, attributes in page.found if {"src"} & set(attributes)]
    links = [str(attributes["href"]) for _, attributes in page.found if "href" in attributes]
    assert set(links) <= {f"#{attributes['id']}" for _, attributes in page.found if "id" in attributes}


def test_plot_has_a_line_for_each_tap_and_the_budget() -> None:
    drawn = Page(plot.error_by_layer(taps_case()))
    assert [tag for tag, _ in drawn.found].count("polyline") == 4
    assert [tag for tag, _ in drawn.found].count("circle") == 9
    heights = [float(str(attributes["cy"])) for tag, attributes in drawn.found if tag == "circle"]
    assert heights[0] > heights[1] > heights[2]  # attention's errors grow
    assert plot.error_by_layer(fake_case("model.logits.x")) == ""


def test_plot_bears_zero_and_infinite_errors() -> None:
    tensors = tuple(JudgedTensor(f"h.{i}.mlp", error, (), 0.0, 0.0) for i, error in enumerate([0.0, 5.0, float("inf")]))
    assert "nan" not in plot.error_by_layer(fake_case("model.taps.x", "failed", budget=8.0, error=1.0, tensors=tensors))


def test_page_opens_in_a_browser(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    page = tmp_path / "report.html"
    page.write_text(html_report.render([wrong_session()]))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{page.as_uri()}#subject-1-loss"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0 and 'id="subject-1-loss" open' in ran.stdout.replace('open=""', "open")


def test_reports_are_written_from_the_results(tmp_path: Path) -> None:
    write_reports(tmp_path / "out", [wrong_session()])
    names = {"results.jsonl", "junit.xml", "report.md", "report.html", "badge-inference.json", "badge-gradient.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    (again,) = read_results(tmp_path / "out" / "results.jsonl")
    assert (tmp_path / "out" / "report.html").read_text() == html_report.render([again])


def test_progress_off_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpt2spec_conformance.report.progress.SECONDS_BETWEEN_LINES", 0.0)
    for quiet in (False, True):
        with Progress("numpy", 2, quiet) as progress:
            for case in all_cases()[:2]:
                progress(case)
    printed = capsys.readouterr()
    assert re.fullmatch(r"numpy: 0/2 cases  0.0 cases/s\nnumpy: 1/2 cases  [\d.]+ cases/s  ETA 00:00\n", printed.err)
    assert printed.out == ""


# ---------------------------------------------------------------------- the command


def test_conform_passes_the_numpy_backend_and_writes_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conform", "--case", "model.l*", "--report", str(tmp_path / "out"), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("gpt2spec ") and "PASSED: the selected cases of inference (" in text
    (report,) = read_results(tmp_path / "out" / "results.jsonl")
    assert report.header.backend == "numpy" and report.header.command == "gpt2spec conform --backend numpy"


def test_conform_fails_a_mutant_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "conform",
        "--backend",
        "numpy",
        "--mutant",
        "gelu-0.04715",
        "--case",
        "model.logits.probe.L1",
        "--quiet",
    ]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    repeat = "gpt2spec conform --backend numpy --mutant gelu-0.04715 --case model.logits.probe.L1"
    assert repeat in text and "matches gelu-0.04715: GELU with 0.04715 for 0.044715; explains 1 of 1" in text
    assert main([*repeat.split()[1:], "--quiet"]) == 1
    assert repeat in capsys.readouterr().out


LOWER = ["conform", "--backend", "torch", "--no-compile", "--dtype", "bfloat16", "--case", QUICK, "--quiet"]


def test_conform_judges_a_lower_precision_after_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LOWER, "--report", str(tmp_path)]) == 0
    before, after = capsys.readouterr().out.split("\n", 1)
    assert before == "torch in float32, before bfloat16: PASSED: the selected cases of inference"
    assert after.startswith("gpt2spec ") and "; bfloat16)" in after and "PASSED" in after
    assert [session.header.dtype for session in read_results(tmp_path / "results.jsonl")] == ["bfloat16"]


def test_conform_judges_no_lower_precision_of_what_does_not_conform_in_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In bfloat16, the mistake would pass."""
    mutant = catalogue()["gelu-erf"]
    (case,) = select_cases(patterns=[QUICK])
    lower = load_backend("torch", device="cpu", dtype="bfloat16", compile=False)
    assert run_case(case, MutatedSubject(lower, [mutant])).status == "passed"
    assert main([*LOWER, "--mutant", "gelu-erf", "--report", str(tmp_path)]) == 1
    outcome, refusal, command = capsys.readouterr().out.splitlines()
    assert outcome == "torch in float32, before bfloat16: FAILED: 1 of 1 cases did not pass"
    assert refusal == "torch is not judged in bfloat16 before it conforms in float32:"
    assert re.fullmatch("    gpt2spec conform --backend torch --dtype float32 .*compile.* --mutant gelu-erf", command)
    assert [session.header.dtype for session in read_results(tmp_path / "results.jsonl")] == ["float32"]


INT8 = ["conform", "--backend", "torch", "--no-compile", "--backend-option", "int8=true", "--quiet"]


def test_conform_judges_int8_after_exact_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*INT8, "--case", QUICK, "--case", "int8.*"]
    assert main([*arguments, "--report", str(tmp_path)]) == 0
    before, after = capsys.readouterr().out.split("\n", 1)
    assert before == "torch in float32, before int8: PASSED: the selected cases of inference"
    assert ": torch int8 (" in after and "PASSED: int8" in after
    (report,) = read_results(tmp_path / "results.jsonl")
    assert [case.level for case in report.cases] == ["int8"] * len(report.cases) != []


def test_conform_judges_no_int8_of_what_does_not_conform_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*INT8, "--case", QUICK, "--case", "int8.*", "--mutant", "gelu-erf"]) == 1
    outcome, refusal, command = capsys.readouterr().out.splitlines()
    assert outcome == "torch in float32, before int8: FAILED: 1 of 1 cases did not pass"
    assert refusal == "torch is not judged in int8 before it conforms in float32:"
    assert "compile=false" in command and "int8=true" not in command


def test_conform_fails_wrong_int8_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--mutant", "int8-per-tensor", "--quiet"]) == 1
    text = capsys.readouterr().out
    assert "int8.weights.row" in text and "matches int8-per-tensor" in text


def test_conform_of_all_without_compilation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(default_registry), "backends", tuple(map(default_registry.find, ("numpy", "torch"))))
    assert main(["conform", "--backend", "all", "--no-compile", "--case", QUICK, "--quiet"]) == 0
    assert capsys.readouterr().out.count("PASSED: ") == 2


def test_conform_lists_cases_and_mutants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conform", "--list", "--level", "inference"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == [case.id for case in all_cases() if case.level == "inference"]
    assert main(["conform", "--list-mutants"]) == 0
    assert "gelu-0.04715" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mutant", "gelu-0.0471"], "there is no mutant 'gelu-0.0471' (did you mean 'gelu-0.04715'?)"),
        (["--backend", "nunpy"], "there is no backend 'nunpy' (did you mean 'numpy'?)"),
        (
            ["--backend", "numpy", "--subject", "a:b"],
            "--subject is by itself: it cannot be given with --backend and its options, or with --mutant",
        ),
        (["--subject", "nowhere:f"], "No module named 'nowhere'"),
        (["--level", "all"], "there is no level 'all'"),
        (["--expected", "nowhere.toml"], "cannot read the expected failures in nowhere.toml"),
    ],
)
def test_conform_refuses_mistakes_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conform", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_conform_of_all_reports_each_and_fails_where_one_cannot_be_judged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = default_registry.find("numpy")
    broken = dataclasses.replace(numpy, name="broken", plugin=dataclasses.replace(numpy.plugin, fault="it fell"))
    missing = dataclasses.replace(numpy, name="missing", missing=("nothing",))
    arguments = ["conform", "--backend", "all", "--case", QUICK, "--quiet"]
    monkeypatch.setitem(vars(default_registry), "backends", (missing, numpy))
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "missing: left out: missing nothing" in printed.err and "PASSED" in printed.out
    monkeypatch.setitem(vars(default_registry), "backends", (broken, numpy))
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "broken: FAILED: it cannot be judged" in printed.out and "PASSED" in printed.out


def test_conform_ends_with_130_when_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: BackendSubject, *arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(BackendSubject, "logits", interrupted)
    assert main(["conform", "--case", QUICK, "--quiet", "--report", str(tmp_path)]) == 130
    assert "INCOMPLETE: interrupted after 0 of 1 cases" in capsys.readouterr().out
    assert not read_results(tmp_path / "results.jsonl")[0].complete


def test_interrupt_between_backends_keeps_the_sessions_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(args: Any) -> Any:
        if args.backend != "numpy":
            raise KeyboardInterrupt
        return load_backend("numpy")

    numpy = default_registry.find("numpy")
    monkeypatch.setitem(vars(default_registry), "backends", (numpy, dataclasses.replace(numpy, name="other")))
    monkeypatch.setattr("gpt2spec.cli.conform.backend_from", load)
    assert main(["conform", "--backend", "all", "--case", QUICK, "--quiet", "--report", str(tmp_path)]) == 130
    assert capsys.readouterr().err.startswith("interrupted")
    assert [session.header.subject for session in read_results(tmp_path / "results.jsonl")] == ["numpy"]


# ---------------------------------------------------------------------- the pytest plugin

MINE = """
from gpt2spec.plugins import load_backend
from gpt2spec_conformance.subject import BackendSubject, Subject

class Mine(Subject):
    name = "mine"

    def logits(self, config, params, tokens):
        return BackendSubject(load_backend("numpy")).logits(config, params, tokens)

    def taps(self, config, params, tokens):
        return {}
"""


@pytest.fixture
def run_pytest(pytester: pytest.Pytester) -> Callable[..., tuple[int, dict[str, int], str]]:
    """Runs pytest in a process and a folder of its own: exit code, number of tests by outcome, and the output."""

    def run(*arguments: str) -> tuple[int, dict[str, int], str]:
        ran = pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", "-rA", *arguments, timeout=120)
        counts = ran.parseoutcomes()
        counts.pop("deselected", None)
        return ran.ret, counts, ran.stdout.str()

    return run


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    """The folder in which `run_pytest` runs."""
    return pytester.path


def test_plugin_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'gpt2spec.model', 'jinja2', 'torch'}"
    probe = f"import sys, gpt2spec_conformance.pytest_plugin; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True).stdout.strip() == "set()"


def test_unsupported_case_of_a_claimed_level_fails() -> None:
    taps = next(case for case in all_cases() if case.operation == "taps")
    ends = (pytest.fail.Exception, pytest.skip.Exception)
    with pytest.raises(ends, match=r"model.taps.init.L2 \(unsupported\): no taps") as end:
        check(taps, OneOperation(), {})
    assert end.type is pytest.fail.Exception
    with pytest.raises(ends, match="level inference is not claimed") as end:
        check(taps, Subject(), {})
    assert end.type is pytest.skip.Exception


def test_case_that_cannot_be_asked_is_skipped_with_the_reason() -> None:
    def ask(subject: Subject) -> Any:
        raise NotApplicable("it has a kernel of its own")

    ends = (pytest.fail.Exception, pytest.skip.Exception)
    with pytest.raises(ends, match="not applicable: it has a kernel of its own") as end:
        check(asking("a.other", ask), OneOperation(), {})
    assert end.type is pytest.skip.Exception


def test_pyargs_runs_each_case_as_a_test_with_its_id(run_pytest: Callable[..., Any]) -> None:
    code, counts, output = run_pytest(
        "--pyargs", "gpt2spec_conformance", "--gpt2-backend", "numpy", "-k", "model.logits"
    )
    ids = [case.id for case in all_cases() if case.id.startswith("model.logits")]
    assert (code, counts) == (0, {"passed": len(ids)}), output
    assert all(f"test_conformance[{id}]" in output for id in ids)


def test_pyargs_skips_without_a_subject(run_pytest: Callable[..., Any]) -> None:
    code, counts, output = run_pytest("--pyargs", "gpt2spec_conformance")
    assert (code, counts) == (0, {"skipped": 1}), output
    assert "no subject: give --gpt2-backend NAME" in output


def test_pyargs_judges_a_subject_of_the_current_folder(folder: Path, run_pytest: Callable[..., Any]) -> None:
    (folder / "mine.py").write_text(MINE)
    known = "".join(
        f"[[expected]]\nid = 'model.{id}'\nreason = 'no taps'\nlink = 'x'\n\n"
        for id in ("taps.init.L2", "logits.probe.T1")
    )
    arguments = ["--gpt2-subject", "mine:Mine", "--gpt2-level", "inference", "-k", "taps or probe.T1 or schedule"]
    arguments += ["--gpt2-expected", str(expected_file(folder, known))]
    code, counts, output = run_pytest("--pyargs", "gpt2spec_conformance", *arguments)
    assert (code, counts) == (1, {"failed": 2, "xfailed": 1}), output
    assert "model.logits.probe.T1 (xpassed): this failure was expected (no taps)" in output
    assert "model.taps.probe.L2 (failed): the answer has []" in output


def test_one_line_in_a_file_of_ones_own(folder: Path, run_pytest: Callable[..., Any]) -> None:
    (folder / "mine.py").write_text(MINE)
    (folder / "test_mine.py").write_text(
        "import mine\nfrom gpt2spec_conformance.pytest_plugin import conformance_cases\n\n"
        "test_conformance = conformance_cases(lambda: mine.Mine())\n"
    )
    code, counts, output = run_pytest("test_mine.py", "-k", "model.logits.init or loss.mean.init or operations.gelu")
    assert (code, counts) == (0, {"passed": 2, "skipped": 2}), output
    assert "level gradient is not claimed" in output and "only for backends" in output


def test_plugin_tells_mistakes_once(run_pytest: Callable[..., Any]) -> None:
    code, counts, output = run_pytest("--pyargs", "gpt2spec_conformance", "--gpt2-backend", "nunpy")
    assert code == 2 and counts == {"errors": 1}, output
    assert "gpt2spec: error: there is no backend 'nunpy' (did you mean 'numpy'?)" in output
