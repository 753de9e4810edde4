"""Streams beside tract's pulse: which networks, how far behind, and the time of a step.

    pip install tract pytorch-tcn
    python -m benchmarks.speed.pulse [--only NAME ...]
    taskset -c 1 python -m benchmarks.speed.pulse --time [--only NAME ...]

The networks are those of ``benchmarks.proof.streaming`` and of public packages that are installed. tract
gets each from PyTorch's two exporters, and the better outcome counts; a pulse is a unit of ours, or the
least of ``PULSES``. Its ``pulse.delay`` and our delay are both in frames of the output. Each stream is
compared with the network on the whole sequence. Delays are only listed where both stream.

With ``--time`` a call takes one unit, from an array to an array, in Python on one thread: ``State.run`` and
``Tensor.to_numpy`` of tract, ``Stream.step`` of ours, or ``process`` where a unit has several steps. They are
timed alternately, in processor time.
"""

import importlib
import logging
import multiprocessing
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.common import interleave, parser, print_machine, ratio, table
from benchmarks.proof.streaming_networks import NETWORKS
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.artifact import Artifact
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

__all__ = ["main"]

Array = npt.NDArray[np.float32]
PULSES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CLOSE = 1e-4
"""Largest difference from the whole, as a fraction of the largest value."""


_DEMUCS = {"hidden": 8, "depth": 2, "resample": 1, "normalize": False}
_MASKER = {"n_blocks": 3, "n_repeats": 1, "bn_chan": 6, "hid_chan": 12, "skip_chan": 6}
_TCN = {"num_inputs": 4, "num_channels": [16, 16, 16], "kernel_size": 3}
_TDNN = {
    "in_channels": 8,
    "out_channels": 8,
    "kernel_size": 5,
    "skip_transpose": True,
    "padding_mode": "zeros",
}
PACKAGES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "pytorch-tcn TCN": ("pytorch_tcn.tcn.TCN", 4, _TCN),
    "pytorch-tcn TCN, not causal": ("pytorch_tcn.tcn.TCN", 4, {**_TCN, "causal": False}),
    "pytorch-tcn TCN, 6 layers of 64": ("pytorch_tcn.tcn.TCN", 4, {**_TCN, "num_channels": [64] * 6}),
    "torchaudio Wav2Letter": (
        "torchaudio.models.Wav2Letter",
        8,
        {"num_classes": 6, "input_type": "mfcc", "num_features": 8},
    ),
    "denoiser Demucs": ("denoiser.demucs.Demucs", 1, _DEMUCS),
    "denoiser Demucs, not causal": ("denoiser.demucs.Demucs", 1, {**_DEMUCS, "causal": False}),
    "asteroid TDConvNet, cgLN": (
        "asteroid.masknn.convolutional.TDConvNet",
        8,
        {**_MASKER, "in_chan": 8, "n_src": 1, "norm_type": "cgLN", "causal": True},
    ),
    "asteroid TDConvNet, cLN": (
        "asteroid.masknn.convolutional.TDConvNet",
        8,
        {**_MASKER, "in_chan": 8, "n_src": 1, "norm_type": "cLN"},
    ),
    "speechbrain Conv1d, causal": ("speechbrain.nnet.CNN.Conv1d", 8, {**_TDNN, "padding": "causal"}),
    "speechbrain Conv1d, valid": ("speechbrain.nnet.CNN.Conv1d", 8, {**_TDNN, "padding": "valid"}),
}
"""By name: the class, which takes ``(N, channels, L)``, its channels and its options."""


class _OfSteps(nn.Module):
    """A module that takes ``(N, channels, L)``, on ``(N, L, channels)``."""

    def __init__(self, path: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        package, _, kind = path.rpartition(".")
        self.module = getattr(importlib.import_module(package), kind)(**options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x.transpose(1, 2))
        return y.flatten(1, -2).transpose(1, 2)


def networks() -> dict[str, tuple[Callable[[], nn.Module], int]]:
    """Return by name what makes each network, ``(N, L, width)`` to frames, and the width."""
    packages = {
        name: (partial(_OfSteps, path, options), width) for name, (path, width, options) in PACKAGES.items()
    }
    return {**dict(NETWORKS), **packages}


def whole(module: nn.Module, x: Array) -> Array:
    """Return the frames of the whole sequence ``(L, width)``."""
    with torch.no_grad():
        result: Array = module(torch.from_numpy(x)[None])[0].numpy()
    return result


def distance(frames: Array, expected: Array) -> float:
    """Return the largest difference as a fraction of the largest value; infinity for no frame."""
    count = min(len(frames), len(expected))
    if not count or frames.shape[1:] != expected.shape[1:]:
        return float("inf")
    return float(np.abs(frames[:count] - expected[:count]).max() / np.abs(expected).max())


def ours(module: nn.Module, width: int) -> Artifact:
    """Export; raises ``LstmEdgeError`` if there is no file."""
    return export(module, torch.randn(2, 96, width), ExportConfig(inputs={"x": ("N", "L", width)}))


def _torchscript(module: nn.Module, example: Tensor, path: str) -> None:
    axes = {"x": {1: "S"}}
    torch.onnx.export(module, (example,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)


def _dynamo(module: nn.Module, example: Tensor, path: str) -> None:
    shapes = ({1: Dim.DYNAMIC},)
    program = torch.onnx.export(module, (example,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    model = program.model_proto
    del model.graph.value_info[:]  # sizes by another symbol than the input's
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)


def pulsed(module: nn.Module, width: int, pulse: int, make: Callable[..., None]) -> tuple[int, Any]:
    """Return the delay in frames that tract says, and its runnable; raises what tract raises."""
    tract = importlib.import_module("tract")  # no types, and not among what the project installs
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        make(module, torch.randn(1, 256, width), path)
        found = tract.onnx().load(path)
    found.set_input_fact(0, f"1,S,{width},f32")
    found.analyse()
    model = found.into_model()
    model.transform(tract.Pulse(str(pulse)).symbol("S"))
    return int(np.ravel(model.property("pulse.delay").to_numpy())[0]), model.into_runnable()


def take_pulses(runnable: Any, x: Array, pulse: int) -> Array:
    """Return the frames of whole pulses."""
    state = runnable.spawn_state()
    ends = range(pulse, len(x) + 1, pulse)
    return np.concatenate([state.run([x[None, end - pulse : end]])[0].to_numpy()[0] for end in ends])


def compare(name: str) -> dict[str, Any]:
    """Stream one network with both."""
    torch.manual_seed(0)
    try:
        build, width = networks()[name]
        module = build().eval()
    except ImportError as error:
        return {"skipped": str(error)}
    row: dict[str, Any] = {}
    x = np.random.default_rng(0).standard_normal((512, width)).astype(np.float32)
    units: tuple[int, ...] = PULSES
    expected = whole(module, x)
    try:
        artifact = ours(module, width)
        stream, manifest = load(artifact.model).stream(), artifact.manifest.streaming
        row["unit"], row["delay"] = manifest.unit, max(manifest.delays.values(), default=0)
        row["ours"] = distance(np.asarray(stream.process(x)), expected)
        units = (manifest.unit,)
    except LstmEdgeError as error:
        row["refusal"] = str(error)
    for make in (_torchscript, _dynamo):
        for pulse in units:
            try:
                delay, runnable = pulsed(module, width, pulse, make)
                apart = distance(take_pulses(runnable, x, pulse)[delay:], expected)
            except Exception as error:  # noqa: BLE001  tract and the exporters raise anything
                words = str(error).split("Stack backtrace")[0].split("Torch IR graph")[0]
                row["error"] = " ".join(words.split())[-160:]
                continue
            if apart < row.get("tract", float("inf")):
                row |= {"tract": apart, "tract delay": delay, "pulse": pulse, "maker": make.__name__}
            if apart <= CLOSE:
                return row
    return row


def alone(task: Callable[[], Any]) -> Any:
    """Run ``task`` in a process of its own, which tract may abort; return its result, or how it ended."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        try:
            send.send(task())
        except Exception as error:  # noqa: BLE001
            send.send({"error": f"{type(error).__name__}: {error}"[:160]})

    process = context.Process(target=child)
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:
        process.join()
        return {"error": f"the process ended with {process.exitcode}"}


def print_comparison(names: list[str]) -> None:
    """Print a row per network."""
    rows, both, no_later = [], 0, 0
    for name in names:
        row = alone(partial(compare, name))
        if "skipped" in row:
            print(f"{name} is left out: {row['skipped']}", flush=True)
            continue
        mine = row.get("ours", float("inf")) <= CLOSE
        theirs = row.get("tract", float("inf")) <= CLOSE
        both, no_later = (
            both + (mine and theirs),
            no_later + (mine and theirs and row["delay"] <= row["tract delay"]),
        )
        wrong = f"wrong by {row['tract']:.2g}" if "tract" in row else row.get("error", "-")
        delays = [row["delay"] if mine else row.get("refusal", f"wrong by {row.get('ours')}")[:100]]
        delays += [row["tract delay"] if theirs else wrong.replace("|", "/")]
        rows.append((name, row.get("unit", "-"), *delays))
        print(rows[-1], flush=True)
    print(table(("network", "unit", "lstm-edge: frames behind", "tract: frames behind"), rows))
    print(f"\nBoth stream {both}; of these lstm-edge is no further behind in {no_later}.")


def time_step(name: str, repeats: int) -> list[object] | None:
    """Return the row of one network; None unless both stream it."""
    torch.manual_seed(0)
    build, width = networks()[name]
    module = build().eval()
    artifact = ours(module, width)
    unit = artifact.manifest.streaming.unit
    x = np.random.default_rng(0).standard_normal((unit, width)).astype(np.float32)
    block, sample = x[None].copy(), x[0].copy()
    calls: dict[str, Callable[[int], None]] = {}
    for make in (_torchscript, _dynamo):
        try:
            state = pulsed(module, width, unit, make)[1].spawn_state()
            state.run([block])[0].to_numpy()
        except Exception:  # noqa: BLE001, S112  as in ``compare``
            continue

        def tract_calls(count: int, state: Any = state) -> None:
            for _ in range(count):
                state.run([block])[0].to_numpy()

        calls["tract"] = tract_calls
        break
    else:
        return None
    for engine in ("onnxruntime", "native"):
        try:
            stream = load(artifact.model, threads=1, engine=engine).stream()
        except LstmEdgeError:
            continue

        def our_calls(count: int, stream: Any = stream) -> None:
            call, given = (stream.step, sample) if unit == 1 else (stream.process, x)
            for _ in range(count):
                call(given)

        calls[engine] = our_calls
    times = interleave(calls, 40, repeats)
    micro = {key: 1e6 * statistics.median(each) for key, each in times.items()}
    ratios = [
        f"{micro[engine]:.1f} ({ratio(times, engine, 'tract'):.2f})" if engine in calls else "-"
        for engine in ("onnxruntime", "native")
    ]
    return [name, unit, f"{micro['tract']:.1f}", *ratios]


def main() -> None:
    """Print the comparison, or the times."""
    arguments = parser(str(__doc__))
    arguments.add_argument("--only", nargs="+", choices=networks(), help="these networks alone")
    arguments.add_argument("--time", action="store_true", help="time steps of those that both stream")
    arguments.add_argument("--repeats", type=int, default=60)
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    names = options.only or list(networks())
    if not options.time:
        print_comparison(names)
    else:
        head = ("network", "unit", "tract, us", "onnxruntime, us (of tract)", "native, us (of tract)")
        found = (alone(partial(time_step, name, options.repeats)) for name in names)
        print(table(head, [row for row in found if isinstance(row, list)]))
    print_machine("onnxruntime", "tract", "torch")


if __name__ == "__main__":
    main()
