"""Networks in C: each is converted once, and compiled where a test needs it."""

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_runtime.manifest import Signal, Task

DATA = Path(__file__).parents[3] / "runtime" / "data"
LABELS = ("Badminton", "Running", "Standing", "Walking")


class Demo(nn.Module):
    """The network of ``lstm-edge demo``: normalization, LSTM, two linear layers."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 32, batch_first=True)
        self.fc_1, self.fc = nn.Linear(32, 128), nn.Linear(128, 4)

    def forward(self, x):
        _, (h_n, _) = self.lstm((x - 0.5) / 3.0)
        return self.fc(self.fc_1(h_n[-1].relu()).relu())


class Projected(nn.Module):
    """A projected LSTM over packed sequences."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, proj_size=4, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0][-1]


class Tagger(nn.Module):
    """Tokens to a GRU with a learned start, and an output for every step beside the last one."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(30, 5), nn.LayerNorm(5)
        self.gru = nn.GRU(5, 6, 2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, 6))

    def forward(self, state):
        start = self.start.expand(2, state.shape[0], 6).contiguous()
        output, h_n = self.gru(self.norm(self.embedding(state)), start)
        return output, h_n[-1]


class Wearable(nn.Module):
    """Causal convolutions, one of them dilated and one depthwise, and a GRU."""

    def __init__(self):
        super().__init__()
        self.conv, self.dilated = nn.Conv1d(3, 12, 5), nn.Conv1d(12, 10, 3, dilation=4)
        self.depthwise, self.gru = nn.Conv1d(10, 10, 3, groups=10), nn.GRU(10, 8, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.conv(F.pad(x.transpose(1, 2), (4, 0))))
        y = torch.relu(self.dilated(F.pad(y, (8, 0))))
        return self.gru(self.depthwise(F.pad(y, (2, 0))).transpose(1, 2))[0]


class Strided(nn.Module):
    """A convolution with a stride that looks ahead: a frame for two samples, one of them late."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 12, 5, stride=2, padding=2)
        self.gru, self.head = nn.GRU(12, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.gru(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0])


def slow(*parameters):
    """Parameters that only the slow tests run."""
    return [pytest.param(each, marks=pytest.mark.slow) for each in parameters]


def _export(module, example, **config):
    return export(module.eval(), example, ExportConfig(**config))


def _demo():
    task, signal = Task("classification", "logits", LABELS), Signal(tuple("abcdef"), 10.0, 100)
    return _export(Demo(), torch.randn(2, 5, 6), outputs=("logits",), task=task, signal=signal)


def _projected():
    inputs = {"x": ("N", "L", 3), "lengths": ("N",)}
    return _export(Projected(), (torch.randn(2, 5, 3), torch.tensor([5, 3])), inputs=inputs)


def _tagger():
    return _export(Tagger(), torch.randint(0, 30, (2, 5)), outputs=("next", "last"))


def _wearable():
    return _export(Wearable(), torch.randn(2, 20, 3), inputs={"x": ("N", "L", 3)})


def _strided():
    return _export(Strided(), torch.randn(2, 40, 3), inputs={"x": ("N", "L", 3)})


BUILT = {"demo": _demo, "projected": _projected, "tagger": _tagger, "wearable": _wearable}
STORED = {"int8": "motions-int8", "gru": "gru", "unbatched": "unbatched", "layers": "lstm"}
NETWORKS = [*BUILT, *STORED]
BUILT["strided"] = _strided  # takes two steps a call


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A function that gives the .onnx file of a network by name."""
    folder = tmp_path_factory.mktemp("networks")

    @functools.cache
    def build(name: str) -> Path:
        if name in STORED:
            return DATA / f"{STORED[name]}.onnx"
        torch.manual_seed(0)
        path = folder / f"{name}.onnx"
        BUILT[name]().save(path)
        return path

    return build


@pytest.fixture(scope="session")
def folder_of(network, find_program, tmp_path_factory):
    """A function that gives the folder of C of a network; its functions are called ``net_...``."""
    find_program("cc", "gcc", "clang")
    parent = tmp_path_factory.mktemp("c")

    @functools.cache
    def convert(name: str, chunk: int = 1) -> Path:
        return to_c(network(name), name="net", chunk=chunk).save(parent / f"{name}-{chunk}")

    return convert


@pytest.fixture(scope="session")
def run():
    """A function that runs a command, which must succeed, and gives what it printed."""

    def execute(*command: object, given: str = "", code: int = 0) -> str:
        ran = subprocess.run(
            list(map(str, command)), input=given, capture_output=True, text=True, check=False, timeout=300
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    return execute


@pytest.fixture
def samples():
    """30 samples of the demo's network."""
    return np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
