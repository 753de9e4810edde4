"""Every command and snippet of the README and the manual runs as printed, in order, and
prints what it shows.

A page starts in a folder of its own with what ``world`` puts there, and one namespace
for its Python. What a reader does not see stands in HTML comments of the page:

- ``<!-- setup`` ... ``-->``: Python that runs before the next block;
- ``<!-- file: NAME -->``: the next block is that file;
- ``<!-- not run: REASON -->``: the next block can't run here;
- ``<!-- figures: COMMAND -->``: where the figures come from;
- ``<!-- page: slow -->``;
- ``<!-- page: empty -->``: the page starts in a folder that only has the examples of
  the clone, and ``lstm-edge demo`` runs for ``make demo``;
- ``<!-- on: device -->``: the next block runs on the device; here it runs as well;
- ``<!-- page needs: NAME -->``: a module or program, or the page is skipped; it fails
  where ``LSTM_EDGE_REQUIRE`` names it.

In the output that is shown, a line ``...`` stands for any lines and ``...`` in a line
for any words. Numbers may differ by ``TOLERANCE``, as machines round differently;
times, rounding errors and hashes by any amount. The width of a table is not compared.
Lines that install something are not run.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from lstm_edge.cli import main

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "api"),
]
_PART = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$|^<!-- setup\n(?P<setup>.*?)^-->$|^<!--"
    r" (?P<mark>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_INSTALLS = (
    "pip install",
    "npm install",
    "apt-get",
    "git clone",
    "python -m venv",
    "source ",
    ". .venv",
)
_SHELL = set("|<>;&$`")
_TIME = r"[-+]?\d[\d,.]*(?:e[-+]\d+| (?:us|µs|ms|s|h)\b)"
_NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?"
TOLERANCE = 0.1


@dataclass(frozen=True)
class Part:
    kind: str
    """``console``, ``python``, ``setup``, or ``file:NAME``."""
    text: str
    line: int


def _parts(page: Path) -> tuple[list[Part], list[str]]:
    """Return the parts of a page that run, in order, and the marks of the page."""
    text = page.read_text(encoding="utf-8")
    parts = []
    marks = []
    mark = ""
    for match in _PART.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        if match["mark"] is not None:
            mark = match["mark"]
            marks += [mark] if mark.startswith("page") else []
        elif match["setup"] is not None:
            parts.append(Part("setup", match["setup"], line))
        else:
            language = match["language"]
            code = match["code"]
            kind = {"": "console" if code.startswith("$ ") else "text"}.get(
                language, language
            )
            if mark.startswith("file: "):
                parts.append(Part(f"file:{mark.removeprefix('file: ')}", code, line))
            elif kind in ("console", "python") and not mark.startswith("not run: "):
                parts.append(Part(kind, code, line))
            mark = ""
    return parts, marks


def _cases() -> list:
    cases = []
    for page in PAGES:
        parts, marks = _parts(page)
        if any(part.kind in ("console", "python") for part in parts):
            slow = [pytest.mark.slow] if "page: slow" in marks else []
            cases.append(pytest.param(page, id=page.stem, marks=slow))
    return cases


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Data of a watch, a run of a few epochs, its file and an int8 file; tables; a
    program that prints."""
    from lstm_edge import TrainConfig, deployable, train
    from lstm_edge_exporters import export
    from lstm_edge_exporters.quantize import QuantizeConfig, quantize

    folder = tmp_path_factory.mktemp("world")
    with (files("lstm_edge") / "data" / "basic_motions.npz").open("rb") as file:
        (folder / "har.npz").write_bytes(file.read())
    run = train(
        folder / "har.npz",
        folder / "runs" / "har",
        config=TrainConfig(epochs=40, learning_rate=0.02),
    )
    export(*deployable(run)).save(folder / "har.onnx")
    quantize(folder / "har.onnx", QuantizeConfig()).save(folder / "har-int8.onnx")
    with np.load(folder / "har.npz") as arrays:
        x = arrays["x"]
        features = [str(name) for name in arrays["features"]]
    rows = [f"recording,{','.join(features)}"]
    rows += [
        f"r{index},{','.join(map(str, sample))}"
        for index in range(6)
        for sample in x[index]
    ]
    (folder / "recordings.csv").write_text("\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    rows = ["ride,ax,ay,surface"]
    for ride in range(18):
        for ax, ay in rng.normal(ride % 3, 1, (200, 2)):
            rows.append(
                f"{ride},{ax:.3f},{ay:.3f},{('road', 'gravel', 'mud')[ride % 3]}"
            )
    (folder / "log.csv").write_text("\n".join(rows) + "\n")
    load = 50 + 10 * np.sin(np.arange(600) / 8) + rng.normal(0, 1, 600)
    (folder / "load.csv").write_text(
        "megawatt\n" + "".join(f"{value:.2f}\n" for value in load)
    )
    for part in ("examples", "native"):
        shutil.copytree(
            ROOT / part,
            folder / part,
            ignore=shutil.ignore_patterns("build", "__pycache__"),
        )
    (folder / "bin").mkdir()
    sensor = folder / "bin" / "read-sensor"
    sensor.write_text(
        "#!/bin/sh\n"
        + "".join(f"echo {','.join(map(str, sample))}\n" for sample in x[0][:20])
    )
    sensor.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", _cases())
def test_a_page_runs_as_printed(page, request, tmp_path, monkeypatch):
    parts, marks = _parts(page)
    for name in (
        mark.removeprefix("page needs: ")
        for mark in marks
        if mark.startswith("page needs: ")
    ):
        if shutil.which(name) is None and find_spec(name) is None:
            stop = (
                pytest.fail
                if name in os.environ.get("LSTM_EDGE_REQUIRE", "").split()
                else pytest.skip
            )
            stop(f"{name} is not installed")
    folder = tmp_path / "work"
    if "page: empty" in marks:
        shutil.copytree(ROOT / "examples", folder / "examples")
    else:
        shutil.copytree(request.getfixturevalue("world"), folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    path = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    others = str(tmp_path.parent)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(
            others
        ):  # a module of another test
            monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    names = {"__name__": "page"}
    try:
        for part in parts:
            where = f"{page.relative_to(ROOT)}:{part.line}"
            if part.kind == "console":
                for command, shown in _commands(part.text):
                    _check_command(where, command, shown, monkeypatch)
            elif part.kind.startswith("file:"):
                (folder / part.kind.removeprefix("file:")).write_text(part.text)
            else:
                _run_python(where, part.text, names)
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(
                str(folder)
            ):
                del sys.modules[name]


def _run_python(where: str, code: str, names: dict) -> None:
    before = dict(names)
    exec(compile(code, where, "exec"), names)
    for name in names.keys() - before.keys():
        if name.startswith("test_"):
            names[name]()


def _commands(block: str) -> list[tuple[str, list[str]]]:
    commands: list[tuple[str, list[str]]] = []
    open_line = False
    for line in block.splitlines():
        if open_line:
            commands[-1] = (f"{commands[-1][0]}\n{line}", [])
        elif line.startswith("$ "):
            commands.append((line[2:], []))
        else:
            commands[-1][1].append(line)
        open_line = line.endswith("\\")
    kept = [
        (command, shown)
        for command, shown in commands
        if not command.startswith(_INSTALLS)
    ]
    return [
        (re.sub(r"^make demo\b", "lstm-edge demo", command), shown)
        for command, shown in kept
    ]


def _check_command(
    where: str, command: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    if words[0] == "lstm-edge" and not _SHELL & set(" ".join(words)):
        code, out, err = _run_here(words, monkeypatch)
    else:
        ran = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        code = ran.returncode
        out = ran.stdout
        err = ran.stderr
    assert code == 0, f"{where}: {command} ended with {code}\n{out}{err}"
    if shown:
        assert _fits(out, shown), (
            f"{where}: {command} printed\n{out}\nand the page shows\n"
            + "\n".join(shown)
        )


def _run_here(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    out = io.StringIO()
    err = io.StringIO()
    monkeypatch.setattr(sys, "argv", words)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def _bare(line: str) -> str:
    """Return a line without times, rounding errors, hashes and the width of tables."""
    line = re.sub(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", "HASH", line)
    line = re.sub(_TIME, "TIME", line)
    return " ".join(re.sub(r"[━┃┏┓┗┛┡┩╇┳│─└┘┴┼├┤]+", "|", line).split())


def _pattern(line: str) -> str:
    """Return a regular expression for a line in which each number is a group."""
    parts = [
        re.escape(part).replace(re.escape("..."), ".*")
        for part in re.split(_NUMBER, _bare(line))
    ]
    return f"({_NUMBER})".join(parts)


def _fits(out: str, shown: list[str]) -> bool:
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else rf"{_pattern(line)}\n"
        for line in shown
    )
    match = re.fullmatch(
        pattern, "".join(f"{_bare(line)}\n" for line in out.splitlines())
    )
    expected = [number for line in shown for number in re.findall(_NUMBER, _bare(line))]
    return match is not None and all(map(_near, match.groups(), expected))


def _near(got: str, expected: str) -> bool:
    a, b = (float(number.replace(",", "")) for number in (got, expected))
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


@pytest.mark.parametrize(
    ("out", "shown", "fits"),
    [
        ("a 1.5 us\nmore\nend\n", ["a 2.7 us", "...", "end"], True),
        ("a 1.5 us\nend\n", ["b 2.7 us", "end"], False),
        ("a\nmore\n", ["a"], False),
        ("48,810 bytes, at most 9e-07\n", ["48,768 bytes, at most 1.2e-06"], True),
        ("48,810 bytes\n", ["38,768 bytes"], False),
        ("12 rows\n", ["... rows"], True),
        (
            "sha256 48f3beacc0c63bf3 (3 inputs)\n",
            ["sha256 a8f3beacc0c63bf3 (3 inputs)"],
            True,
        ),
        ("3 inputs\n", ["4 inputs"], False),
    ],
)
def test_output_fits_if_the_words_are_the_same_and_the_numbers_near(out, shown, fits):
    assert _fits(out, shown) == fits


def test_every_mark_of_a_page_is_one_that_is_known_and_says_why():
    allowed = re.compile(
        r"not run: .{10,}|file: \S+|on: device|page: slow|page: empty|page needs:"
        r" [\w-]+|figures: .+"
    )
    for page in PAGES:
        marks = [
            match["mark"]
            for match in _PART.finditer(page.read_text(encoding="utf-8"))
            if match["mark"]
        ]
        assert [mark for mark in marks if not allowed.fullmatch(mark)] == []
