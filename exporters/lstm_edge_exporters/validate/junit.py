"""A report as JUnit XML: a test suite a group, a test case a check."""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lstm_edge_runtime.errors import CheckFailedError

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
    indent(root)
    text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", tostring(root, encoding="unicode"))
    return f"<?xml version='1.0' encoding='utf-8'?>\n{text}\n".encode()
