"""A report as JUnit XML: a test suite a group, a test case a check."""

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lstm_edge_runtime.errors import CheckFailedError

from .report import Check, Group, Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> bytes:
    """Return ``report`` as a JUnit document in UTF-8."""
    return _document(report.groups, "failure", CheckFailedError.__name__)


def error_to_junit(model: str, error: Exception) -> bytes:
    """Return a JUnit document that says why ``model`` could not be checked at all.

    Without it a CI system would read the document of an earlier run.
    """
    check = Check(model, "failed", str(error) or type(error).__name__)
    return _document([Group("validation", "Validation", (check,))], "error", type(error).__name__)


def _document(groups: Sequence[Group], tag: str, kind: str) -> bytes:
    """Return the document, with a replacement character where XML 1.0 allows none."""
    root = Element("testsuites")
    for group in groups:
        counts = {"failures": 0, "errors": 0, f"{tag}s": group.count("failed")}
        counts |= {"tests": len(group.checks), "skipped": group.count("skipped")}
        texts = {name: str(count) for name, count in counts.items()}
        suite = SubElement(root, "testsuite", {"name": group.title, **texts})
        for check in group.checks:
            place = {"classname": f"lstm-edge.{group.key}", "name": check.name}
            case = SubElement(suite, "testcase", place)
            if check.status == "failed":
                SubElement(case, tag, message=check.message, type=kind)
            elif check.status == "skipped":
                SubElement(case, "skipped", message=check.message)
    indent(root)
    text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", tostring(root, encoding="unicode"))
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n".encode()
