"""A report as JUnit XML: one test suite per group, one test case per check."""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lstm_edge_runtime.errors import CheckFailedError, first_line

from .report import Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> bytes:
    """Return ``report`` as a JUnit document in UTF-8; characters that XML does not
    allow are replaced.
    """
    root = Element("testsuites")
    for group in report.groups:
        counts = {"failures": group.count("failed"), "errors": 0}
        counts |= {"tests": len(group.checks), "skipped": group.count("skipped")}
        texts = {name: str(count) for name, count in counts.items()}
        suite = SubElement(root, "testsuite", {"name": group.title, **texts})
        for check in group.checks:
            names = {"classname": f"lstm-edge.{group.key}", "name": check.name}
            case = SubElement(suite, "testcase", names)
            if check.status == "failed":
                SubElement(
                    case,
                    "failure",
                    message=check.message,
                    type=CheckFailedError.__name__,
                )
            elif check.status == "skipped":
                SubElement(case, "skipped", message=check.message)
    return _document(root)


def error_to_junit(model: str, error: Exception) -> bytes:
    """Return a JUnit document with one test case: the error that ended a validation of
    the file ``model``.
    """
    root = Element("testsuites")
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
    suite = SubElement(root, "testsuite", {"name": "Validation", **counts})
    case = SubElement(
        suite, "testcase", {"classname": "lstm-edge.validate", "name": model}
    )
    message = first_line(error)
    SubElement(case, "error", message=message, type=type(error).__name__)
    return _document(root)


def _document(root: Element) -> bytes:
    """Return an element as an indented XML document."""
    indent(root)
    text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", tostring(root, encoding="unicode"))
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n".encode()
