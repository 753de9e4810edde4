"""Networks in C: each is converted once, and compiled where a test needs it."""

import functools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.quantize import Budget, QuantizeConfig, quantize
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.blocks import INT8_SHAPE, SHAPE
from lstm_edge_runtime.manifest import Signal, Task

DATA = Path(__file__).parents[3] / "runtime" / "data"
LABELS = ("Badminton", "Running", "Standing", "Walking")


class Demo(nn.Module):
    """The network of ``lstm-edge demo``: normalization, LSTM, two linear layers."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 32, batch_first=True)
        self.fc_1 = nn.Linear(32, 128)
        self.fc = nn.Linear(128, 4)

    def forward(self, x):
        _, (h_n, _) = self.lstm((x - 0.5) / 3.0)
        return self.fc(self.fc_1(h_n[-1].relu()).relu())


class Tagger(nn.Module):
    """Tokens to a GRU with a learned start, and an output for every step beside the
    last one."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 5)
        self.norm = nn.LayerNorm(5)
        self.gru = nn.GRU(5, 6, 2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, 6))

    def forward(self, state):
        start = self.start.expand(2, state.shape[0], 6).contiguous()
        output, h_n = self.gru(self.norm(self.embedding(state)), start)
        return output, h_n[-1]


class Cell(nn.Module):
    """One step at a time, of a cell."""

    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(6, 5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.cell(x)[0])


class SmallGru(nn.Module):
    """A GRU with a linear head on its last step."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.gru(x)[1][-1])


class Sparse(nn.Module):
    """A GRU of which one block of weights in five is not zero; ``shape`` is that of a
    block."""

    shape = SHAPE
    density = 0.2

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(8, 48, batch_first=True)
        self.head = nn.Linear(48, 4)
        rows, columns = self.shape
        for weight in (self.gru.weight_ih_l0, self.gru.weight_hh_l0):
            size = len(weight) // rows, weight.shape[1] // columns
            mask = torch.rand(size) < self.density
            weight.data *= torch.kron(mask, torch.ones(rows, columns))

    def forward(self, x):
        return self.head(self.gru(x)[1][-1])


class SparseInt8(Sparse):
    """The same with blocks of quantized inputs."""

    shape = INT8_SHAPE


class Dense(Sparse):
    """The same with all weights."""

    density = 1.0


class Means(nn.Module):
    """The mean since the start, which a counter divides by, before a strided
    convolution."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(3, 5, 3, stride=3)
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x):
        steps = torch.arange(1, x.shape[1] + 1).to(x.dtype)
        means = x.cumsum(1) / steps[None, :, None]
        return self.gru(self.down(means.transpose(1, 2)).transpose(1, 2))[0]


class Strided(nn.Module):
    """A convolution with a stride that looks ahead: a frame for two samples, one of
    them late."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 12, 5, stride=2, padding=2)
        self.gru = nn.GRU(12, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(
            self.gru(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]
        )


def slow(*parameters):
    """Parameters that only the slow tests run."""
    return [pytest.param(parameter, marks=pytest.mark.slow) for parameter in parameters]


RECURRENT = {"inputs": {"x": ("N", "L", 8)}}
STREAM = {"inputs": {"x": ("N", "L", 3)}, "stream": True}
SIGNAL = Signal(tuple("abcdef"), 10.0, 100)
TASK = Task("classification", "logits", LABELS)
MADE = {
    "demo": (Demo, (2, 5, 6), {"outputs": ("logits",), "task": TASK, "signal": SIGNAL}),
    "tagger": (Tagger, (2, 5), {"outputs": ("next", "last")}),
    "strided": (Strided, (2, 40, 3), STREAM), "means": (Means, (2, 30, 3), STREAM),
    "sparse": (Sparse, (2, 20, 8), RECURRENT), "sparse_int8": (SparseInt8, (2, 20, 8), RECURRENT),
    "dense": (Dense, (2, 20, 8), RECURRENT),
    "cell": (Cell, (2, 6), {}), "small_gru": (SmallGru, (2, 20, 6), {"inputs": {"x": ("N", "L", 6)}}),
}  # fmt: skip
"""Modules, the shapes of their inputs, and how they are exported."""
STORED = {"int8": "motions-int8", "layers": "lstm"}
NETWORKS = ["demo", "tagger", "sparse", "dense", *STORED]
"""Networks that take one step per call."""


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """A function that gives the .onnx file of a network by name."""
    folder = tmp_path_factory.mktemp("networks")

    @functools.cache
    def build(name: str) -> Path:
        if name in STORED:
            return DATA / f"{STORED[name]}.onnx"
        torch.manual_seed(0)
        module, shape, config = MADE[name]
        example = (
            torch.randint(0, 30, shape) if module is Tagger else torch.randn(shape)
        )
        path = folder / f"{name}.onnx"
        export(module().eval(), example, ExportConfig(**config)).save(path)
        return path

    return build


@pytest.fixture(scope="session")
def in_int8(network, tmp_path_factory):
    """A function that quantizes a network for boards; returns the path."""
    folder = tmp_path_factory.mktemp("int8")
    budget = Budget(agreement=0, drift=1, change=1)

    @functools.cache
    def build(name: str) -> Path:
        path = folder / f"{name}.onnx"
        quantize(network(name), QuantizeConfig(target="arm", budget=budget)).save(path)
        return path

    return build


@pytest.fixture(scope="session")
def folder_of(network, find_program, tmp_path_factory):
    """A function that gives the folder of C of a network; its functions are called
    ``net_...``."""
    find_program("cc", "gcc", "clang")
    parent = tmp_path_factory.mktemp("c")
    return functools.cache(
        lambda name: to_c(network(name), name="net").save(parent / name)
    )


@pytest.fixture(scope="session")
def run():
    """A function that runs a command, which must succeed, and gives what it printed."""

    def execute(*command: object, given: bytes = b"", code: int = 0) -> bytes:
        words = list(map(str, command))
        ran = subprocess.run(
            words, input=given, capture_output=True, check=False, timeout=300
        )
        assert ran.returncode == code, (ran.stdout + ran.stderr).decode(
            errors="replace"
        )
        return ran.stdout

    return execute


def sources(folder):
    """What a compiler needs of a folder."""
    return [f"-I{folder / 'src'}", *sorted((folder / "src").glob("*.c"))]


def driver(folder):
    """Return a C program that reads the inputs of each call, binary, and writes the
    outputs."""
    declared = re.search(
        r"int net_step\(net_state \*state, (.*?)\);", (folder / "src/net.h").read_text()
    )[1]
    arrays = []
    given = []
    got = []
    for parameter in declared.split(", "):
        c_type, name = parameter.removeprefix("const ").split(" *")
        kind = "INPUTS" if parameter.startswith("const") else "OUTPUTS"
        suffix = "" if name in ("x", "y") else name[name.index("_") :]
        arrays.append(f"static {c_type} {name}[NET_{kind}{suffix}];")
        (given if kind == "INPUTS" else got).append(name)
    reads = " && ".join(
        f"fread({name}, sizeof {name}, 1, stdin) == 1" for name in given
    )
    writes = " ".join(f"fwrite({name}, sizeof {name}, 1, stdout);" for name in got)
    return (
        '#include "net.h"\n#include <stdio.h>\n'
        + "\n".join(arrays)
        + "\nstatic net_state state;\nint main(void) {\n    net_reset(&state);\n   "
        f" while ({reads}) {{\n        if (net_step(&state,"
        f" {', '.join([*given, *got])}) & 1) return 1;\n        {writes}\n    }}\n   "
        " return 0;\n}\n"
    )


def calls_of(model, steps):
    """Random inputs for ``steps`` steps of one source: as arrays by name, and as the
    driver reads them."""
    rng = np.random.default_rng(1)
    manifest = model.manifest
    inputs = {}
    parts = []
    for spec in manifest.data_inputs:
        shape = [
            {manifest.batch: 1, manifest.sequence: steps}.get(axis, axis)
            for axis in spec.axes
        ]
        whole = np.dtype(spec.dtype).kind == "i"
        array = rng.integers(0, 30, shape) if whole else rng.normal(size=shape)
        inputs[spec.name] = array.astype(spec.dtype)
        rows = np.moveaxis(array, spec.axes.index(manifest.sequence), 0).reshape(
            steps // manifest.unit, -1
        )
        parts.append(rows.astype(np.int32 if whole else np.float32))
    return inputs, b"".join(
        row.tobytes() for rows in zip(*parts, strict=True) for row in rows
    )


def streamed(model, inputs):
    """What onnxruntime gives for each step, states carried: all outputs in a row."""
    axes = {
        spec.name: spec.axes.index("L") for spec in model.inputs if spec.name in inputs
    }
    steps = inputs[next(iter(axes))].shape[next(iter(axes.values()))]
    state = None
    rows = []
    for step in range(steps):
        part = {name: array.take([step], axes[name]) for name, array in inputs.items()}
        outputs, state = model.run(part, state)
        rows.append(
            np.concatenate([outputs[spec.name].reshape(-1) for spec in model.outputs])
        )
    return np.stack(rows)
