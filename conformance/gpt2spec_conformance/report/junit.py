"""The JUnit report is XML with a test suite for each session."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from gpt2spec_conformance.findings import CaseReport, SessionReport
from gpt2spec_conformance.report import summary

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""


def render(sessions: Sequence[SessionReport]) -> str:
    """The text of junit.xml, in which a test is red if its case counts against the verdict."""
    root = ET.Element("testsuites", name="gpt2spec conform")
    for session, name in zip(sessions, summary.subject_names(sessions), strict=True):
        root.append(_suite(session, name))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(session: SessionReport, name: str) -> ET.Element:
    tests = [_test(session, case, name) for case in session.cases]
    if session.verdict != "passed" and not summary.failures(session):
        tests.append(_whole_session(session, name))
    suite = ET.Element("testsuite", name=_text(name), timestamp=session.header.started.rstrip("Z"))
    for attribute, tag in [("failures", "failure"), ("errors", "error"), ("skipped", "skipped")]:
        suite.set(attribute, str(sum(test.find(tag) is not None for test in tests)))
    suite.set("tests", str(len(tests)))
    suite.set("time", f"{session.seconds:.3f}")
    suite.extend(tests)
    return suite


def _test(session: SessionReport, case: CaseReport, suite: str) -> ET.Element:
    test = ET.Element("testcase", name=case.id, classname=_text(f"{suite}.{case.level}"), time=f"{case.seconds:.3f}")
    message = _text(summary.what_is_wrong(case))
    if session.is_wrong(case):
        tag = "error" if case.status == "error" else "failure"
        details = ET.SubElement(test, tag, message=message, type=case.status)
        details.text = _text("\n".join(filter(None, [case.summary, summary.reproduce(session, case)])))
    elif case.status == "xfailed":
        ET.SubElement(test, "skipped", message=_text(f"expected failure: {case.reason} ({case.link})"))
    elif case.status in ("unsupported", "inapplicable"):
        ET.SubElement(test, "skipped", message=message)
    return test


def _whole_session(session: SessionReport, suite: str) -> ET.Element:
    """A red test for a session that failed though none of its cases did."""
    test = ET.Element("testcase", name="session", classname=_text(suite), time="0.000")
    ET.SubElement(test, "error", message=summary.verdict_line(session), type=session.verdict)
    return test


def _text(text: str) -> str:
    return NOT_XML.sub("\ufffd", text)
