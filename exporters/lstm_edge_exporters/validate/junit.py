"""A report as JUnit XML: a test suite a group, a test case a check.

Written so that both schemas in use accept it: the Ant one (every suite has ``timestamp``, ``hostname``,
``package``, ``id``, ``properties``, ``system-out`` and ``system-err``, in that order) and the Jenkins one.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from .report import Check, Group, Report

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def to_junit(report: Report) -> bytes:
    """Return ``report`` as a JUnit document in UTF-8, of now."""
    return _document([_suite(report, group, number) for number, group in enumerate(report.groups)])


def error_to_junit(model: str, error: Exception) -> bytes:
    """Return a JUnit document that says why ``model`` could not be checked at all.

    Without it a CI system would read the document of an earlier run.
    """
    suite = _empty_suite(0, "Validation", tests=1, errors=1)
    SubElement(suite, "properties")
    case = SubElement(suite, "testcase", {"classname": "lstm-edge", "name": _clean(model), "time": "0.000"})
    about = _clean(str(error) or type(error).__name__)
    SubElement(case, "error", {"message": about, "type": type(error).__name__}).text = about
    SubElement(suite, "system-out")
    SubElement(suite, "system-err")
    return _document([suite])


def _document(suites: Sequence[Element]) -> bytes:
    root = Element("testsuites")
    root.extend(suites)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _empty_suite(number: int, name: str, **counts: int) -> Element:
    numbers = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0} | counts
    return Element(
        "testsuite",
        {
            "id": str(number),
            "package": "lstm-edge",
            "name": _clean(name),
            **{key: str(value) for key, value in numbers.items()},
            "time": "0.000",
            "timestamp": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"),
            "hostname": "localhost",
        },
    )


def _suite(report: Report, group: Group, number: int) -> Element:
    suite = _empty_suite(
        number,
        group.title,
        tests=len(group.checks),
        failures=group.count("failed"),
        skipped=group.count("skipped"),
    )
    suite.set("time", f"{sum(check.seconds for check in group.checks):.3f}")
    properties = SubElement(suite, "properties")
    facts = {"model": report.model, "sha256": report.sha256, "reference": report.reference}
    facts |= {"seed": str(report.seed), "policy": report.policy}
    if worst := group.worst:
        facts |= {"floor": f"{worst.floor:.3g}", "error": f"{worst.error:.3g}", "ratio": f"{worst.ratio:.3g}"}
    for name, value in facts.items():
        SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for check in group.checks:
        suite.append(_case(group, check))
    SubElement(suite, "system-out").text = _clean("\n".join(map(_line, group.checks)))
    SubElement(suite, "system-err")
    return suite


def _case(group: Group, check: Check) -> Element:
    case = Element(
        "testcase",
        {"classname": f"lstm-edge.{group.key}", "name": _clean(check.name), "time": f"{check.seconds:.3f}"},
    )
    if check.status == "failed":
        failure = SubElement(case, "failure", {"message": _clean(check.message), "type": "CheckFailedError"})
        failure.text = _clean(_line(check))
    elif check.status == "skipped":
        SubElement(case, "skipped", {"message": _clean(check.message)})
    return case


def _line(check: Check) -> str:
    worst = f" [{check.worst}; ratio {check.worst.ratio:.3g}]" if check.worst else ""
    return f"{check.status} {check.name}{worst}{': ' if check.message else ''}{check.message}"


def _clean(text: str) -> str:
    """Put a replacement character where XML 1.0 allows none."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
