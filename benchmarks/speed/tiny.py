"""A step of a tiny LSTM of a fixed size: the generated C and the native engine beside libraries for sound.

    taskset -c 1 python -m benchmarks.speed.tiny --peers DIR [--hidden 16 20 40] [--repeats N] [--march ARCH]

The network is an LSTM of one input and a linear head. ``DIR`` holds checkouts of the peers: RTNeural with its
module Eigen (github.com/jatinchowdhury18/RTNeural), NeuralAudio (github.com/mikeoliphant/NeuralAudio) and
math_approx (github.com/Chowdhury-DSP/math_approx); xsimd comes from the system (Debian: libxsimd-dev). A peer
that is missing is left out. All are compiled with ``-O3 -march=ARCH`` by ``$CC`` and ``$CXX``, get the same
weights, and are compared with PyTorch's outputs. ``LSTM_EDGE_ISA`` chooses the native engine's kernels.
"""

import ctypes
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.common import Call, Times, interleave, parser, print_machine, run, table
from benchmarks.networks import Layers
from benchmarks.speed.step import build_tools, steps_from_c
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_runtime import load
from lstm_edge_runtime.native.library import library

PEERS = {
    "RTNeural, Eigen": (
        ("RTNeural", "RTNeural/modules/Eigen"),
        ("-DRTNEURAL_USE_EIGEN=1", "-DRTNEURAL_DEFAULT_ALIGNMENT=32"),
    ),
    "RTNeural, xsimd": (("RTNeural",), ("-DRTNEURAL_USE_XSIMD=1", "-DRTNEURAL_DEFAULT_ALIGNMENT=64")),
    "NeuralAudio": (
        ("NeuralAudio", "RTNeural/modules/Eigen", "math_approx/include"),
        ("-DNEURAL_AUDIO",),
    ),
}
"""Of each peer the folders of its headers, and what it is compiled with."""
GENERATED, NATIVE = "generated C", "native engine"
STEPS = """
#include <stddef.h>
#include "net.c"
static net_state state;
void begin(void) { net_reset(&state); }
void steps(const float *x, float *y, size_t count)
{
    for (size_t i = 0; i < count; i++) net_step(&state, x + i, y + i);
}
"""
LENGTH = 500
"""Samples of the signal, over and over."""
WORST = {"NeuralAudio": 0.01}
"""The largest difference from PyTorch that passes where it is not 1e-5: a coarser tanh."""


def build_peers(folder: Path, peers: Path | None, hidden: int, march: str) -> dict[str, ctypes.CDLL]:
    """Build the peers that are there."""
    made = {}
    for name, (headers, options) in PEERS.items():
        places = [peers / header for header in headers] if peers is not None else []
        if not places or not all(place.is_dir() for place in places):
            print(f"{name}: left out, no checkout in --peers")
            continue
        target = folder / f"{len(made)}.so"
        words = (*options, f"-DHIDDEN={hidden}", "-std=c++20", *(f"-I{place}" for place in places))
        source = Path(__file__).with_suffix(".cpp")
        made[name] = _compile(os.environ.get("CXX", "c++"), source, target, march, *words)
    return made


def _compile(compiler: str, source: Path, target: Path, march: str, *words: str) -> ctypes.CDLL:
    run(compiler, "-O3", f"-march={march}", "-shared", "-fPIC", source, "-o", target, *words)
    return ctypes.CDLL(str(target))


def build_generated(folder: Path, onnx: Path, march: str) -> ctypes.CDLL:
    """Build the network in C."""
    made = to_c(onnx, name="net").save(folder / "c")
    source, target = made / "src" / "steps.c", folder / "generated.so"
    source.write_text(STEPS, encoding="utf-8")
    return _compile(os.environ.get("CC", "cc"), source, target, march, "-std=c99", "-lm")


def _begin(opened: ctypes.CDLL, network: Layers) -> None:
    """Set a peer's weights and reset its state."""
    tensors = network.state_dict()
    parts = [tensors[f"layer.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih")]
    parts[2] = parts[2] + tensors["layer.bias_hh_l0"]
    arrays = [part.contiguous().numpy() for part in (*parts, tensors["after.weight"])]
    opened.begin(
        *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
        ctypes.c_float(float(tensors["after.bias"])),
    )


def _calls(opened: ctypes.CDLL, x: np.ndarray, y: np.ndarray) -> Call:
    def steps(count: int) -> None:
        for _ in range(count // len(x)):
            opened.steps(*(ctypes.c_void_p(array.ctypes.data) for array in (x, y)), ctypes.c_size_t(len(x)))

    return steps


def measure(folder: Path, hidden: int, peers: Path | None, repeats: int, march: str) -> Times:
    """Time a step of each.

    Raises:
        SystemExit: outputs differ from PyTorch's.
    """
    torch.manual_seed(0)
    network = Layers(nn.LSTM(1, hidden, batch_first=True), after=nn.Linear(hidden, 1)).eval()
    signal = torch.randn(1, LENGTH, 1)
    with torch.no_grad():
        expected = network(signal).reshape(-1).numpy()
    path = folder / "net.onnx"
    export(network, signal, ExportConfig()).save(path)
    x, calls = signal.reshape(-1).numpy(), {}
    built = {GENERATED: build_generated(folder, path, march), **build_peers(folder, peers, hidden, march)}
    for name, opened in built.items():
        if name == GENERATED:
            opened.begin()
        else:
            _begin(opened, network)
        y = np.zeros_like(x)
        calls[name] = _calls(opened, x, y)
        calls[name](len(x))
        if (apart := np.abs(y - expected).max()) > WORST.get(name, 1e-5):
            raise SystemExit(f"{name}: differs by {apart:.2g} from PyTorch")
    with load(path, engine="native", threads=1) as model:
        calls[NATIVE] = steps_from_c(build_tools(folder), model, x[:1])
        return interleave(calls, 20 * LENGTH, repeats)


def main() -> None:
    """Print nanoseconds of a step, and the fraction of the fastest peer's."""
    arguments = parser(__doc__)
    arguments.add_argument("--peers", type=Path, metavar="DIR")
    arguments.add_argument("--hidden", type=int, nargs="+", default=[16, 20, 40])
    arguments.add_argument("--repeats", type=int, default=101)
    arguments.add_argument("--march", default="native")
    options = arguments.parse_args()
    rows: dict[str, list[str]] = {}
    for hidden in options.hidden:
        with tempfile.TemporaryDirectory() as name:
            times = measure(Path(name), hidden, options.peers, options.repeats, options.march)
        fastest = min((name for name in PEERS if name in times), key=times.us, default=GENERATED)
        for name in times:
            cell = f"{times.us(name) * 1e3:.0f} ({times.ratio(name, fastest):.2f})"
            rows.setdefault(name, []).append(cell)
    print(f"\n-march={options.march}, native kernels: {library().lstm_edge_isa().decode()}\n")
    head = ["ns a step (fraction of the fastest peer's)", *options.hidden]
    print(table(head, ([name, *row] for name, row in rows.items())))
    print_machine("lstm-edge", "torch")


if __name__ == "__main__":
    main()
