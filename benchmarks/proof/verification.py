"""How long verification takes: ``validate --quick`` beside ``export``, and the share of it inside ``export``.

    python -m benchmarks.proof.verification                # needs the [export] extra

For an LSTM(6, 32) and an LSTM(40, 256) of two layers, each with a head at every step: the commands as a
user types them, in turn, each in a process of its own, for a module's factory and for a checkpoint of LSTM1;
and in one process the time of an export after its graph is there, as a fraction of the whole. Medians of
``--rounds``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, save
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.pipeline import convert
from lstm_edge_exporters.export.request import make_request

SIZES = ((6, 32, 1), (40, 256, 2))
_NETWORK = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.LSTM({0}, {1}, {2}, batch_first=True)
        self.head = nn.Linear({1}, 4)
    def forward(self, x):
        return self.head(self.rnn(x)[0])
"""


def main() -> None:
    """Print a line a network."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    torch.set_num_threads(1)
    print("| network | export, s | validate --quick, s | ratio | verification inside export |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "net.py").write_text(_NETWORK.format(*size))
            torch.manual_seed(0)
            save(Run(LSTM1(4, size[0], size[1], size[2], 20).eval()), folder / "run")
            for source, how in (("net:Net", ["--input", f"x=N,L,{size[0]}"]), ("run", [])):
                commands = (
                    ["export", source, *how, "-o", "model.onnx"],
                    ["validate", "model.onnx", "--against", source, "--quick"],
                )
                times = [[_command(each, folder) for each in commands] for _ in range(rounds)]
                made, checked = (statistics.median(each) for each in zip(*times, strict=True))
                share = _share(size, rounds) if source != "run" else ""
                print(f"| {source} {size} | {made:.2f} | {checked:.2f} | {checked / made:.2f} | {share} |")


def _command(arguments: list[str], folder: Path) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("lstm-edge")), *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


class _Net(nn.Module):
    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0])


def _share(size: tuple[int, int, int], rounds: int) -> str:
    module, example = _Net(*size).eval(), torch.randn(3, 5, size[0])
    config = ExportConfig()
    whole, graph = (
        statistics.median(_time(call) for _ in range(rounds))
        for call in (lambda: export(module, example), lambda: convert(make_request(module, example, config)))
    )
    return f"{(whole - graph) / whole:.2f}"


def _time(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
