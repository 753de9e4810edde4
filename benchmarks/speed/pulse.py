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
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from benchmarks.common import in_process, interleave, parser, print_machine, quiet, repeat, table
from benchmarks.networks import Chain, Fn, over_time
from benchmarks.proof.streaming_networks import NETWORKS
from benchmarks.strangers.calls import Build
from benchmarks.torch_exporters import dynamo, torchscript
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.artifact import Artifact
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

__all__ = ["main"]

PULSES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CLOSE = 1e-4
"""Largest difference from the whole, as a fraction of the largest value."""
_DEMUCS = partial(Build, "denoiser.demucs.Demucs", hidden=8, depth=2, resample=1, normalize=False)
_MASKER = partial(
    *(Build, "asteroid.masknn.convolutional.TDConvNet", 8, 1),
    **dict.fromkeys(("bn_chan", "skip_chan"), 6),
    n_blocks=3,
    n_repeats=1,
    hid_chan=12,
)
_TCN = partial(Build, "pytorch_tcn.tcn.TCN", num_inputs=4, num_channels=[16, 16, 16], kernel_size=3)
_CONV = partial(
    *(Build, "speechbrain.nnet.CNN.Conv1d", 8, 5), in_channels=8, skip_transpose=True, padding_mode="zeros"
)
PACKAGES: dict[str, tuple[int, Build]] = {
    "pytorch-tcn TCN": (4, _TCN()),
    "pytorch-tcn TCN, not causal": (4, _TCN(causal=False)),
    "pytorch-tcn TCN, 6 layers of 64": (4, _TCN(num_channels=[64] * 6)),
    "torchaudio Wav2Letter": (8, Build("torchaudio.models.Wav2Letter", 6, "mfcc", 8)),
    "denoiser Demucs": (1, _DEMUCS()),
    "denoiser Demucs, not causal": (1, _DEMUCS(causal=False)),
    "asteroid TDConvNet, cgLN": (8, _MASKER(norm_type="cgLN", causal=True)),
    "asteroid TDConvNet, cLN": (8, _MASKER(norm_type="cLN")),
    "speechbrain Conv1d, causal": (8, _CONV(padding="causal")),
    "speechbrain Conv1d, valid": (8, _CONV(padding="valid")),
}
"""By name the channels, and what makes a module that takes ``(N, channels, L)``."""
ENGINES = ("onnxruntime", "native")


def make_network(name: str) -> tuple[nn.Module, int]:
    """Return a network, ``(N, L, width)`` to frames, and the width; raises ``ImportError``."""
    torch.manual_seed(0)
    if name in NETWORKS:
        return NETWORKS[name].make().eval(), NETWORKS[name].width
    width, build = PACKAGES[name]
    return Chain(over_time(build(), Fn(lambda y: y.flatten(1, -2)))).eval(), width


def ours(module: nn.Module, width: int) -> Artifact:
    """Export; raises ``LstmEdgeError`` if there is no file."""
    return export(module, torch.randn(2, 96, width), ExportConfig(inputs={"x": ("N", "L", width)}))


def _of_torchscript(module: nn.Module, x: torch.Tensor) -> bytes:
    return torchscript(module, (x,), ["x"], [{1: "S"}])


def _of_dynamo(module: nn.Module, x: torch.Tensor) -> bytes:
    model = onnx.load_from_string(dynamo(module, (x,), ({1: Dim.DYNAMIC},)))
    del model.graph.value_info[:]  # sizes by another symbol than the input's
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return bytes(model.SerializeToString())


def pulsed(module: nn.Module, width: int, pulse: int, make: Callable[..., bytes]) -> tuple[int, Any]:
    """Return the delay in frames that tract says, and its state; raises what tract raises."""
    tract = importlib.import_module("tract")  # no types, and not among what the project installs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        path.write_bytes(make(module, torch.randn(1, 256, width)))
        found = tract.onnx().load(str(path))
    found.set_input_fact(0, f"1,S,{width},f32")
    found.analyse()
    model = found.into_model()
    model.transform(tract.Pulse(str(pulse)).symbol("S"))
    return int(np.ravel(model.property("pulse.delay").to_numpy())[0]), model.into_runnable().spawn_state()


def take_pulse(state: Any, x: np.ndarray) -> np.ndarray:
    """Return the frames of one pulse ``(1, pulse, width)``."""
    return state.run([x])[0].to_numpy()


def compare(name: str) -> dict[str, Any]:
    """Stream one network with both."""
    try:
        module, width = make_network(name)
    except ImportError as error:
        return {"skipped": str(error)}
    row: dict[str, Any] = {"unit": "-", "ours": float("inf"), "tract": float("inf")}
    x = np.random.default_rng(0).standard_normal((512, width)).astype(np.float32)
    with torch.no_grad():
        whole: np.ndarray = module(torch.from_numpy(x)[None])[0].numpy()

    def difference(frames: np.ndarray) -> float:
        count = min(len(frames), len(whole))
        if not count or frames.shape[1:] != whole.shape[1:]:
            return float("inf")
        return float(np.abs(frames[:count] - whole[:count]).max() / np.abs(whole).max())

    units = PULSES
    try:
        artifact = ours(module, width)
        stream, manifest = load(artifact.model).stream(), artifact.manifest.streaming
        row |= {"unit": manifest.unit, "delay": max(manifest.delays.values(), default=0)}
        row["ours"] = difference(np.asarray(stream.process(x)))
        units = (manifest.unit,)
    except LstmEdgeError as error:
        row["refusal"] = str(error)
    for make in (_of_torchscript, _of_dynamo):
        for pulse in units:
            try:
                delay, state = pulsed(module, width, pulse, make)
                parts = [
                    take_pulse(state, x[None, i - pulse : i])[0] for i in range(pulse, len(x) + 1, pulse)
                ]
                found = difference(np.concatenate(parts)[delay:])
            except Exception as error:  # noqa: BLE001  tract and the exporters raise anything
                words = str(error).split("Stack backtrace")[0].split("Torch IR graph")[0]
                row["error"] = " ".join(words.split())[-160:]
                continue
            if found < row["tract"]:
                row |= {"tract": found, "tract delay": delay}
            if found <= CLOSE:
                return row
    return row


def rows_of_delays(names: list[str]) -> Iterator[tuple[object, ...]]:
    """Yield a row per network, and print the counts."""
    both = no_later = 0
    for name in names:
        found, ended = in_process(partial(compare, name))
        row = found or {"unit": "-", "ours": float("inf"), "tract": float("inf"), "error": ended}
        if "skipped" in row:
            print(f"{name} is left out: {row['skipped']}", flush=True)
            continue
        mine, theirs = row["ours"] <= CLOSE, row["tract"] <= CLOSE
        both += mine and theirs
        no_later += mine and theirs and row["delay"] <= row["tract delay"]
        wrong = f"wrong by {row['tract']:.2g}" if "tract delay" in row else row.get("error", "-")
        cells = row["delay"] if mine else row.get("refusal", f"wrong by {row['ours']}")[:100]
        line = (name, row["unit"], cells, row["tract delay"] if theirs else wrong.replace("|", "/"))
        print(line, flush=True)
        yield line
    print(f"\nBoth stream {both}; of these lstm-edge is no further behind in {no_later}.\n")


def time_step(name: str, repeats: int) -> list[object] | None:
    """Return the row of one network; None unless both stream it."""
    module, width = make_network(name)
    artifact = ours(module, width)
    unit = artifact.manifest.streaming.unit
    x = np.random.default_rng(0).standard_normal((unit, width)).astype(np.float32)
    calls = {}
    for make in (_of_dynamo, _of_torchscript):  # the last one that works counts
        try:
            state = pulsed(module, width, unit, make)[1]
            take_pulse(state, x[None].copy())
            calls["tract"] = repeat(take_pulse, state, x[None].copy())
        except Exception:  # noqa: BLE001, PERF203, S112  as in ``compare``
            continue
    for engine in ENGINES if calls else ():
        try:
            stream = load(artifact.model, threads=1, engine=engine).stream()
        except LstmEdgeError:
            continue
        calls[engine] = repeat(stream.step, x[0].copy()) if unit == 1 else repeat(stream.process, x)
    if not calls:
        return None
    times = interleave(calls, 40, repeats)
    cells = (
        f"{times.us(engine):.1f} ({times.ratio(engine, 'tract'):.2f})" if engine in calls else "-"
        for engine in ENGINES
    )
    return [name, unit, f"{times.us('tract'):.1f}", *cells]


def main() -> None:
    """Print the comparison, or the times."""
    arguments = parser(__doc__)
    known = [*NETWORKS, *PACKAGES]
    arguments.add_argument("--only", nargs="+", choices=known, default=known, help="these networks alone")
    arguments.add_argument("--time", action="store_true", help="time steps of those that both stream")
    arguments.add_argument("--repeats", type=int, default=60)
    options = arguments.parse_args()
    quiet()
    if options.time:
        head = ("network", "unit", "tract, us", "onnxruntime, us (of tract)", "native, us (of tract)")
        found = (in_process(partial(time_step, name, options.repeats))[0] for name in options.only)
        print(table(head, filter(None, found)))
    else:
        head = ("network", "unit", "lstm-edge: frames behind", "tract: frames behind")
        print(table(head, list(rows_of_delays(options.only))))
    print_machine("onnxruntime", "tract", "torch")


if __name__ == "__main__":
    main()
