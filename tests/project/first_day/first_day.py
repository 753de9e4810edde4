"""Replay the first day of four new users, each from an empty folder and with the
README's commands, timed.

    python tests/project/first_day/first_day.py             # installs a clone first, as
    the README says python tests/project/first_day/first_day.py --here      # with the
    lstm-edge on the path python tests/project/first_day/first_day.py --here maintenance
    firmware

They come with a maintenance CSV, with modules of their own, for a microcontroller, and
for a web page and a back end. A step is a command, the exit code it ends with, and
words that it prints; slips are steps, too. Exit status 1: a step went otherwise, which
is printed with its output.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Step:
    """What a user types, and what must come of it."""

    command: str
    says: str
    """A pattern in what it prints."""
    code: int = 0
    needs: str = ""
    """A program without which the step is left out."""


MODULE = """
import torch
from torch import nn

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3)
        self.gru = nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, 3)
    def forward(self, x):
        padded = nn.functional.pad(x.transpose(1, 2), (2, 0))
        return self.head(self.gru(torch.relu(self.conv(padded)).transpose(1, 2))[0])

class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 16)
    def forward(self, x, h=None):
        h = x.new_zeros(len(x), 16) if h is None else h
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return h, h

def build():
    torch.manual_seed(0)
    return Tagger()
"""
BACK_END = """
import numpy as np
from lstm_edge_runtime import load

with load("har.onnx") as model:
    sources = model.streams(100)
    ids = [sources.add() for _ in range(100)]
    for _ in range(10):
        logits = sources.step(np.zeros((100, 6), np.float32), ids)
    print(logits.shape)
"""
HAR = (
    Step("lstm-edge demo -o demo", "next"),
    Step("cp demo/basic_motions.onnx har.onnx", ""),
)
PEOPLE: Mapping[str, tuple[Step, ...]] = {
    "maintenance": (
        Step("lstm-edge train pumps.csv -o run", "no column 'label'", 2),
        Step(
            "lstm-edge train pumps.csv -o run --label state --order tiem",
            "did you mean 'time'",
            2,
        ),
        Step(
            "lstm-edge train pumps.csv -o run --series pump --order time --label state"
            " --window 30",
            "accuracy, streams",
        ),
        Step("lstm-edge export run -o pump.onnx", "equal to PyTorch"),
        Step("lstm-edge validate pump.onnx --against run --quick", "passed"),
        Step("lstm-edge predict pump.onnx pumps.csv -o states.csv", ""),
        Step(
            "tail -n 200 pumps.csv | cut -d, -f3,4 | lstm-edge stream pump.onnx"
            " --hold 5",
            "worn|new",
        ),
    ),
    "modules": (
        Step("lstm-edge export mine:build -o m.onnx", "--input x=N,L,8", 2),
        Step(
            "lstm-edge export mine:Loop --input x=N,L,4 -o loop.onnx",
            "h_0.*GRU 1.*equal to PyTorch",
        ),
        Step(
            "lstm-edge export mine:Loop --input x=N,1,4 --input h=N,16 -o loop.onnx",
            "equal to PyTorch",
        ),
        Step(
            "lstm-edge export mine:build --input x=N,L,4 -o m.onnx", "equal to PyTorch"
        ),
        Step("lstm-edge validate m.onnx --against mine:build --quick", "passed"),
        Step("lstm-edge selftest m.onnx", r"ok: yes.* 2 +│ h_n"),
        Step("lstm-edge inspect m.onnx", "h_0.*past_0.*provenance"),
    ),
    "firmware": (
        *HAR,
        Step(
            "lstm-edge quantize har.onnx --data demo/basic_motions.npz -o har8.onnx",
            "judgement agreement",
        ),  # faster on the board, not on every PC
        Step(
            "lstm-edge convert har8.onnx --to c --name har -o har_c",
            "flash",
            needs="cc",
        ),
        Step(
            "cmake -S har_c -B build && cmake --build build",
            "Built target har",
            needs="cmake",
        ),
    ),
    "web": (
        *HAR,
        Step("python back_end.py", r"\(100, 4\)"),
        Step("lstm-edge convert har.onnx --to web -o site", "http.server"),
    ),
}


def main() -> None:
    """Replay the days that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "people", nargs="*", choices=[[], *PEOPLE], help="Who; all by default."
    )
    parser.add_argument(
        "--here",
        action="store_true",
        help="Use the lstm-edge on the path, install nothing.",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = (
            os.environ["PATH"]
            if options.here
            else f"{_install(Path(folder))}{os.pathsep}{os.environ['PATH']}"
        )
        failed = [
            name
            for name in options.people or PEOPLE
            if not _day(name, Path(folder) / name, path)
        ]
    sys.exit(f"otherwise than expected: {', '.join(failed)}" if failed else 0)


def _install(folder: Path) -> Path:
    """Install a clone as the README says; return where its programs are."""
    started = time.perf_counter()
    subprocess.run(["git", "clone", "-q", ROOT, folder / "clone"], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [
        folder / "venv/bin/python",
        "-m",
        "pip",
        "install",
        "-q",
        "./runtime[cpu]",
        ".[export,report]",
    ]
    subprocess.run(pip, check=True, cwd=folder / "clone")
    print(f"installed in {time.perf_counter() - started:.0f} s")
    return folder / "venv/bin"


def _day(name: str, folder: Path, path: str) -> bool:
    """Take one user's steps in an empty folder; tell whether all went as expected."""
    folder.mkdir()
    for file, content in _brought():
        (folder / file).write_text(content)
    started = time.perf_counter()
    print(f"{name}:")
    for step in PEOPLE[name]:
        if step.needs and not shutil.which(step.needs):
            print(f"        left out, no {step.needs}: {step.command}")
            continue
        begun = time.perf_counter()
        ran = subprocess.run(
            step.command,
            shell=True,  # as typed, with pipes
            cwd=folder,
            env=os.environ | {"PATH": path, "PYTHONPATH": "", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        output = f"{ran.stdout}\n{ran.stderr}"
        print(f"{time.perf_counter() - begun:6.1f} s {step.command}")
        if ran.returncode != step.code or not re.search(step.says, output, re.DOTALL):
            print(
                f"expected exit code {step.code} and {step.says!r}; got"
                f" {ran.returncode} and:\n{output}"
            )
            return False
    print(f"{time.perf_counter() - started:6.1f} s in all")
    return True


def _brought() -> Iterator[tuple[str, str]]:
    """Yield the files that people come with."""
    yield "mine.py", MODULE
    yield "back_end.py", BACK_END
    rng = np.random.default_rng(0)
    rows = ["pump,time,pressure,vibration,state"]
    for pump in range(12):
        worn = pump % 2
        for second in range(200):
            pressure = 5 + np.sin(second / (4 + 3 * worn)) + rng.normal(0, 0.2)
            vibration = rng.normal(0, 0.4 + 0.3 * worn)
            rows.append(
                f"p{pump},{second},{pressure:.3f},{vibration:.3f},{'worn' if worn else 'new'}"
            )
    yield "pumps.csv", "\n".join([*rows, ""])


if __name__ == "__main__":
    main()
