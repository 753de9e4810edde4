"""What people and CI systems read: JUnit, HTML, the terminal, JSON."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from lstm_edge.cli._output import print_output
from lstm_edge.cli.validate import output_of
from lstm_edge_exporters.validate.html import to_html
from lstm_edge_exporters.validate.junit import to_junit
from lstm_edge_exporters.validate.report import Check, Group, Report
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.selftest import Comparison

NASTY = "<script>alert('x')</script> & \"q\" [red]\x00\x1b[31m\ud800"


def comparison(error=1e-8, limit=1e-7):
    return Comparison("logits", error, error / limit, (1, 3), limit)


@pytest.fixture
def report():
    return Report(
        model=f"{NASTY}.onnx",
        sha256="ab" * 32,
        reference=NASTY,
        precision="fp32",
        policy="limit = 8 x floor",
        seed=7,
        quick=True,
        groups=(
            Group(
                "sizes",
                "Sizes",
                (
                    Check("N=1, L=1", "passed", worst=comparison()),
                    Check(NASTY, "failed", f"logits differs {NASTY}", comparison(1e-3)),
                    Check("N=3", "skipped", "the reference refuses"),
                ),
            ),
            Group(
                "lengths",
                "Lengths",
                (Check("lengths", "skipped", "the file takes no lengths"),),
            ),
            Group(
                "inputs",
                "Inputs",
                (Check("zeros", "passed", worst=comparison(0.0, 1e-7)),),
            ),
        ),
        versions={"onnx": "1.23"},
    )


def test_junit_tells_each_check_apart_and_is_well_formed_whatever_a_name_holds(report):
    text = to_junit(report).decode()
    assert "\ufffd" in text
    assert not {"\x00", "\x1b"} & {*text}
    root = ET.fromstring(text)
    assert (root.tag, [suite.tag for suite in root]) == (
        "testsuites",
        ["testsuite"] * 3,
    )
    for suite in root:
        for count, path in (
            ("tests", ""),
            ("failures", "/failure"),
            ("skipped", "/skipped"),
        ):
            assert int(suite.attrib[count]) == len(suite.findall(f"testcase{path}"))
    first, second, third = root[0].findall("testcase")
    assert first.attrib["name"] == "N=1, L=1"
    assert (
        second.find("failure").attrib["message"].startswith("logits differs <script>")
    )
    assert third.find("skipped").attrib["message"] == "the reference refuses"


def test_html_says_why_groups_were_skipped_escapes_names_and_fetches_nothing(report):
    page = to_html(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert "default-src 'none'" in page
    assert "the file takes no lengths" in page
    assert not re.search(
        r"(src|href)\s*=\s*\"(?!data:|#)|url\((?!#)|@import|https?:", page
    )


def test_json_is_strict_json_and_says_whether_it_passed(report):
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["ok"] is False
    assert (document["passed"], document["failed"], document["skipped"]) == (2, 1, 2)
    assert document["groups"][0]["checks"][1]["worst"]["max_abs"] == 1e-3


def test_a_report_with_nothing_checked_has_not_passed(report):
    assert not replace(report, groups=report.groups[1:2]).ok
    assert replace(report, groups=report.groups[2:]).ok


def test_the_terminal_takes_names_as_text(report, capsys):
    with pytest.raises(CheckFailedError, match="1 checks failed"):
        print_output(output_of(report), as_json=False)
    text = capsys.readouterr().out
    assert "[red]" in text
    assert "FAILED Sizes" in text
    assert re.search(r"1e-07\W+0.001\W+failed", text)  # limit and error
    assert "skipped checks Lengths: the file takes no lengths" in text
    assert "2 passed, 1 failed, 2 skipped" in text
