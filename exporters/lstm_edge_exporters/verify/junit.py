"""A report as JUnit XML: a test suite a group, a test case a check.

Written so that both schemas in use accept it: the Ant one (every suite has ``timestamp``, ``hostname``,
``package``, ``id``, ``properties``, ``system-out`` and ``system-err``, in that order) and the Jenkins one.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lstm_edge_runtime.errors import CheckFailedError

from .report import Check, Group, Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> bytes:
    """Return ``report`` as a JUnit document in UTF-8, of now."""
    facts = {name: getattr(report, name) for name in ("model", "sha256", "reference", "seed", "policy")}
    return _document([_suite(number, group, facts) for number, group in enumerate(report.groups)])


def error_to_junit(model: str, error: Exception) -> bytes:
    """Return a JUnit document that says why ``model`` could not be checked at all.

    Without it a CI system would read the document of an earlier run.
    """
    check = Check(model, "failed", str(error) or type(error).__name__)
    return _document([_suite(0, Group("validation", "Validation", (check,)), {}, type(error))])


def _document(suites: Sequence[Element]) -> bytes:
    """Return the document, with a replacement character where XML 1.0 allows none."""
    root = Element("testsuites")
    root.extend(suites)
    indent(root)
    text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", tostring(root, encoding="unicode"))
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n".encode()


def _suite(
    number: int, group: Group, facts: Mapping[str, object], error: type[Exception] | None = None
) -> Element:
    """Return the test suite of a group; what failed is an ``error`` where there is one."""
    failed = group.count("failed")
    about: dict[str, object] = {
        "id": number,
        "package": "lstm-edge",
        "name": group.title,
        "tests": len(group.checks),
        "failures": 0 if error else failed,
        "errors": failed if error else 0,
        "skipped": group.count("skipped"),
        "time": f"{sum(check.seconds for check in group.checks):.3f}",
        "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"),
        "hostname": "localhost",
    }
    suite = Element("testsuite", {name: str(value) for name, value in about.items()})
    properties = SubElement(suite, "properties")
    if worst := group.worst:
        facts = {**facts, **{name: f"{getattr(worst, name):.3g}" for name in ("floor", "error", "ratio")}}
    for name, value in facts.items():
        SubElement(properties, "property", name=name, value=str(value))
    for check in group.checks:
        place = {"classname": f"lstm-edge.{group.key}", "name": check.name}
        case = SubElement(suite, "testcase", place, time=f"{check.seconds:.3f}")
        if check.status == "failed":
            kind = (error or CheckFailedError).__name__
            tag = "error" if error else "failure"
            SubElement(case, tag, message=check.message, type=kind).text = _line(check)
        elif check.status == "skipped":
            SubElement(case, "skipped", message=check.message)
    SubElement(suite, "system-out").text = "\n".join(map(_line, group.checks))
    SubElement(suite, "system-err")
    return suite


def _line(check: Check) -> str:
    worst = f" [{check.worst}; ratio {check.worst.ratio:.3g}]" if check.worst else ""
    return f"{check.status} {check.name}{worst}{': ' if check.message else ''}{check.message}"
