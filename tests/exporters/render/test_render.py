"""Plots and pages: the same bytes for the same data, every text escaped, no torch."""

import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from lstm_edge_exporters.render import Axis, Plot, Series, draw_plot, render_page

NASTY = "<script>alert('x')</script> & $x^2$ \"q\""
PROGRAM = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None
from lstm_edge_exporters.render import Axis, Plot, Series, draw_plot
series = Series("a", [1, 2, 3], [1e-8, 0.0, float("inf")]), Series("b", [2, 3], [1e-3, 1e-4], "points")
print(draw_plot(Plot("p", "title", series, y=Axis("error", "log"))))
"""


def run_in_a_process(**environment):
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, capture_output=True, check=True, env={**os.environ, **environment}).stdout


def test_a_plot_has_the_same_bytes_in_every_process_and_needs_no_torch():
    first = run_in_a_process()
    assert first == run_in_a_process()
    assert not re.search(rb"20\d\d-\d\d|matplotlib", first)


def test_drawing_writes_nothing_into_the_home_folder(tmp_path):
    folders = {"HOME": "", "XDG_CONFIG_HOME": ".config", "XDG_CACHE_HOME": ".cache"}
    run_in_a_process(**{name: str(tmp_path / folder) for name, folder in folders.items()})
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("standalone", [False, True])
def test_every_text_of_a_plot_is_escaped_and_stays_text(standalone):
    plot = Plot(
        "p",
        NASTY,
        (Series(NASTY, [1, 2], [0, 1], "points"), Series("limit", [2, 2], [0, 1], "marks")),
        Axis(NASTY, ticks=((1, NASTY), (2, "two"))),
        Axis(rows=(NASTY, "b")),
        NASTY,
    )
    text = draw_plot(plot, standalone=standalone)
    assert "<script" not in text
    root = ET.fromstring(text.replace("xlink:href", "href"))
    found = ["".join(each.itertext()) for each in root.iter() if each.tag.rpartition("}")[2] == "text"]
    assert found.count(NASTY) == (5 if standalone else 3)


def test_colors_follow_the_page_and_a_standalone_file_brings_its_own():
    plot = Plot("p", "t", (Series("a", [1, 2], [3, 4]), Series("b", [1, 2, 3], [3, 4], "bars", "pale")))
    inline, alone = draw_plot(plot), draw_plot(plot, standalone=True)
    assert "var(--blue)" in inline
    assert not re.search(r"#[0-9a-f]{6}", inline)
    assert "prefers-color-scheme: dark" in alone
    assert ET.fromstring(alone).tag == "{http://www.w3.org/2000/svg}svg"


def test_two_plots_of_one_page_share_no_id():
    series = (Series("a", [1, 2], [3, 4], "points"),)
    ids = [re.findall(r' id="([^"]*)"', draw_plot(Plot(key, "t", series))) for key in ("one", "two")]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])


@pytest.mark.parametrize("kind", ["line", "points", "marks"])
def test_what_a_logarithmic_axis_cannot_show_stands_at_its_end(kind):
    values = [0.0, float("inf"), float("nan"), 1e-3]
    text = draw_plot(Plot("p", "t", (Series("a", range(4), values, kind),), y=Axis(scale="log")))
    assert "nan" not in text.lower()
    assert "inf" not in text.lower()


def test_a_page_escapes_what_it_shows_and_fetches_nothing(tmp_path, monkeypatch):
    package = tmp_path / "some_pages"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "page.html.j2").write_text(
        '{% extends "base.html.j2" %}{% import "parts.html.j2" as parts %}'
        "{% block title %}{{ name }}{% endblock %}"
        "{% block content %}{{ parts.table(['a', 'b'], [[name, 1.5 | figure]]) }}{{ parts.figures(plots) }}"
        "{% endblock %}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plot = Plot("p", NASTY, (Series("a", [1, 2], [3, 4]), Series("b", [1], [3])))
    page = render_page("some_pages", "page.html.j2", name=NASTY, plots=[plot])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 3
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=\s*\"(?!data:|#)|url\((?!#)|@import|https?:", page)
