"""The HTML report in a real browser: it opens, complains of nothing, fetches nothing and shows its plots."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lstm_edge_exporters.quantization import Samples
from lstm_edge_exporters.validate.html import to_html

pytestmark = pytest.mark.system

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
KEPT = "LSTM_EDGE_SCREENSHOTS"
"""An environment variable: a folder in which the screenshots are kept."""


@pytest.fixture(autouse=True, scope="module")
def _browser(find_program):
    find_program("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def page(made, examine, tmp_path_factory):
    """A report of a file with a bias spoilt, on data, so that every plot has something to show."""
    one, folder = made("stacked"), tmp_path_factory.mktemp("page")
    model = onnx.load(one.path)
    head = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    bias = next(each for each in model.graph.initializer if each.name == head.input[2])
    bias.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([0.01, 0, 0, 0]), bias.name)
    )
    onnx.save(model, folder / "har.onnx")
    x = np.random.default_rng(1).normal(size=(80, 20, 6)).astype(np.float32)
    with torch.no_grad():
        logits = one.run.model(torch.from_numpy(x))[-80:]
    report = examine(
        one, folder / "har.onnx", data=Samples({"x": x}, logits.argmax(-1).numpy()), steps=20_000
    )
    assert report.figures.disagreements
    path = folder / "report.html"
    path.write_text(to_html(report), encoding="utf-8")
    return path


def browse(page, folder, *options):
    """Open the page in a browser of its own, without network, and give what it printed."""
    ran = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={folder / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


def test_the_report_opens_without_a_word_on_the_console_and_every_plot_is_there(page, tmp_path):
    dom, console = browse(page, tmp_path, "--dump-dom")
    assert console == []
    for key in ("ratios", "steps", "histogram", "drift", "disagreements"):
        plot = re.search(rf'<figure class="card" id="plot-{key}">.*?</figure>', dom, re.DOTALL)
        assert plot, key
        assert re.search(r"<(path|circle|rect) ", plot[0]), key
    assert dom.count('id="disagreements"') == 1


def test_the_console_is_really_watched(page, tmp_path):
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.read_text().replace("</main>", "<script>console.error('seen')</script></main>"))
    assert browse(spoilt, tmp_path, "--dump-dom")[1]


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("validate-report", "960,1800", []),
        ("validate-report-dark", "1100,1500", ["--blink-settings=preferredColorScheme=0"]),
        ("validate-report-phone", "500,1500", []),
    ],
)
def test_a_screenshot_shows_a_page_that_fills_its_window(page, tmp_path, name, size, options):
    shot = tmp_path / f"{name}.png"
    browse(page, tmp_path, f"--window-size={size}", f"--screenshot={shot}", *options)
    width, height = (int.from_bytes(shot.read_bytes()[at : at + 4], "big") for at in (16, 20))
    assert f"{width},{height}" == size
    assert shot.stat().st_size > 40_000
    if folder := os.environ.get(KEPT):
        shutil.copy(shot, Path(folder) / shot.name)
