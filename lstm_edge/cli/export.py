"""``lstm-edge export``: a trained network becomes one verified ONNX file."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge.results import pace
from lstm_edge_exporters.export.config import ExportConfig
from lstm_edge_exporters.options import check_options, option, option_fields
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Signal, Task

from ..data.config import parse_rate
from ._options import SCALE, is_factory, options_of, output_option, verb
from ._output import Report

if TYPE_CHECKING:
    from lstm_edge.checkpoint import Run
    from lstm_edge_exporters import Artifact


@dataclass(frozen=True)
class FactoryOptions:
    """What only a factory needs."""

    weights: Path | None = option(None, "Checkpoint to load into a factory's module.")
    input: Mapping[str, str] = option(
        dict,
        "Shape of one input of forward: x=N,L,8, tokens=N,L:int64:0..9999, or x=N,L:16..4096:4,8 with the "
        "range of an axis.",
        metavar="x=N,L,8[:DTYPE[:LOW..HIGH]]",
    )
    step: bool = option(False, "One step per call: the axis L of every --input is 1.")
    state: Mapping[str, str] = option(
        dict,
        "State input and output of a factory's module, if they are ambiguous; then list all pairs.",
        metavar="INPUT=OUTPUT",
    )
    output_names: tuple[str, ...] = option(
        (), "Output names of a factory's module, in order, such as logits,h_n,c_n.", metavar="NAMES"
    )


@dataclass(frozen=True)
class Description:
    """Facts that neither a bare checkpoint nor a module has."""

    task: str | None = option(
        None,
        "Task of the first output.",
        choices=("classification", "regression"),
        shown="from --labels or --units",
    )
    labels: str | None = option(
        None,
        "Classes (or names of predicted values), in order: a text file with one per line, or a,b,c.",
        metavar="FILE|NAMES",
    )
    units: tuple[str, ...] = option((), "Units of predicted values, in order.", metavar="NAMES")
    features: tuple[str, ...] = option((), "Feature names, in order.", metavar="NAMES")
    rate: float | None = option(
        None, "Sampling rate of the input, such as 50Hz.", metavar="RATE", parse=parse_rate
    )
    window: int | None = option(None, "Time steps of a training window.", low=1)
    scale: Path | None = option(None, SCALE, metavar="FILE")

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)

    @property
    def signal(self) -> Signal:
        """The signal that the options describe."""
        return Signal(self.features, self.rate, self.window)

    @property
    def meaning(self) -> Task | None:
        """The task that the options describe; None if they don't."""
        by_options = "regression" if self.units else "classification" if self.labels else None
        kind = self.task or by_options
        if self.units and kind == "classification":
            raise InputError("--units requires a regression; remove --task classification")
        return (
            None
            if kind is None
            else Task(kind, "", _read_labels(self.labels) if self.labels else (), self.units)
        )


@verb("export", extra="export")
@click.argument("source")
@output_option(".onnx", ".lep", several=True, text="File to write. Repeatable.")
@options_of(factory=FactoryOptions, description=Description)
@click.option(
    "--lengths", is_flag=True, help="Add an input lengths, int64 (N,): number of valid steps of each row."
)
@options_of(config=ExportConfig)
def command(
    source: str,
    outputs: tuple[Path, ...],
    factory: FactoryOptions,
    description: Description,
    lengths: bool,
    config: ExportConfig,
    show: Callable[[float, str], None],
) -> Report:
    """Export SOURCE, a run folder, a checkpoint file, or package.module:factory, to one .onnx file.

    The file is only written after it has been verified: it loads in onnxruntime and computes the same as
    PyTorch, at other batch sizes and lengths than it was traced at, from zero and from random states.

    A checkpoint file is a state_dict of the tutorials' LSTM1 class; --features, --labels, --units, --window,
    --rate and --scale describe it.

    A factory is a function or class that takes no arguments and returns a torch.nn.Module; describe each of
    its inputs with --input: a number for a fixed axis, a name for a dynamic one. A script that trains when
    it is imported must do so only under if __name__ == "__main__".

    \b
    Example:
      lstm-edge export runs/har -o har.onnx
      lstm-edge export runs/har -o har.onnx --lengths
      lstm-edge export runs/har -o har.onnx -o har.lep
      lstm-edge export lstm1.pth --features open,high,low --units USD --window 20 \\
          --scale scale.json -o price.onnx
      lstm-edge export nets.amp:build --weights amp.pt --input x=N,L,1 --rate 48kHz -o amp.onnx
      lstm-edge export nets.denoise:build --input x=N,L,1 --stream -o denoise.stream.onnx
      lstm-edge export nets.tagger:build --weights tagger.pt -o tagger.onnx \\
          --input tokens=N,L:int64:0..9999
      lstm-edge export nets.audio:build --input wave=N,L:320..:320 -o audio.onnx
    """  # noqa: D301
    if len(set(outputs)) < len(outputs):
        raise InputError("an output is given twice; give each file once")
    from lstm_edge_exporters import export

    _check_source(source, factory, description)
    with contextlib.redirect_stdout(sys.stderr):  # output printed by a user's code is not the result
        if is_factory(source):
            module, example, found = _from_factory(source, lengths, factory, description)
        else:
            from lstm_edge.checkpoint import deployable

            module, example, found = deployable(_described(Path(source), description), lengths=lengths)
        own = {name: getattr(config, name) for name in option_fields(config)}
        artifact = export(module, example, replace(found, **own), on_progress=show)
    contents = dict(_contents(artifact, outputs))
    for path, content in contents.items():
        write_bytes(path, content)
    onnx = next((path for path in outputs if path.suffix == ".onnx"), None)
    given = (("weights", factory.weights), ("scale", description.scale))
    files = "".join(f" --{name} {path}" for name, path in given if path)
    validate = [f"lstm-edge validate {onnx} --against {source}{files}"] if onnx else []
    return Report(
        _document(artifact, contents),
        ", ".join(map(str, outputs)),
        hidden=("equivalence", "ir_version", "unit", "delays"),
        next=[f"lstm-edge inspect {outputs[0]}", *validate],
    )


def _contents(artifact: "Artifact", outputs: Sequence[Path]) -> Iterator[tuple[Path, bytes]]:
    """Yield the content of each file, after it was verified."""
    for path in outputs:
        if path.suffix == ".lep":
            from lstm_edge_exporters.targets.native import to_native

            yield path, to_native(artifact.model)
        else:
            yield path, artifact.model


def _check_source(source: str, factory: FactoryOptions, description: Description) -> None:
    """Refuse a file that is exported already, and options that do not fit the source."""
    if Path(source).suffix in (".onnx", ".lep"):
        raise InputError(
            f"{source} is already exported; run lstm-edge lift to add states, lstm-edge inspect to see its "
            "contents"
        )
    of_factory, described = _given(factory), _given(description)
    wrong = [name for name in described if name == "scale"] if is_factory(source) else of_factory
    if wrong:
        kind = "an LSTM1 checkpoint" if is_factory(source) else "a package.module:factory"
        raise InputError(f"{source} is not {kind}, but --{wrong[0].replace('_', '-')} requires one")
    if described and Path(source).is_dir():
        raise InputError(f"{source} is a run, which describes itself; remove --{described[0]}")


def _given(options: Any) -> list[str]:
    return [each.name for each in fields(options) if getattr(options, each.name)]


def _described(path: Path, description: Description) -> "Run":
    """Return a run, or a bare checkpoint with the description that the options give."""
    from lstm_edge.checkpoint import describe_run, load
    from lstm_edge.results import is_classification
    from lstm_edge.scales import with_scales

    run = load(path)
    if description.scale is not None:
        with_scales(run.model, description.scale)
    meaning, signal = description.meaning, description.signal
    if not meaning and signal == Signal():
        return run
    output = "logits" if is_classification(meaning) else "value"
    return describe_run(run, meaning and meaning._replace(output=output), signal)


def _from_factory(
    source: str, lengths: bool, factory: FactoryOptions, description: Description
) -> tuple[Any, Any, ExportConfig]:
    from ._factory import InputOption, build_module, make_example, parse_input

    options = [parse_input(f"{name}={text}") for name, text in factory.input.items()]
    if factory.step:
        options = [
            replace(each, axes=tuple(1 if axis == "L" else axis for axis in each.axes), ranges={})
            for each in options
        ]
    if not options:
        raise InputError(f"{source}: describe each input of forward, such as --input x=N,L,8")
    if lengths and "lengths" not in factory.input:
        options.append(InputOption("lengths", (str(options[0].axes[0]),), "int64"))
    name = "lengths" if lengths else None
    module, sha256 = build_module(source, factory.weights)
    config = ExportConfig(
        inputs={option.name: option.axes for option in options},
        ranges={axis: limits for option in options for axis, limits in option.ranges.items()},
        outputs=factory.output_names,
        states=dict(factory.state) or None,
        task=description.meaning,
        signal=description.signal,
        checkpoint_sha256=sha256,
    )
    return module, make_example(options, name, module), config


def _read_labels(given: str) -> tuple[str, ...]:
    """Read one class per line from a file, or from ``a,b,c``."""
    path = Path(given)
    if not path.is_file():
        if path.suffix == ".txt" or len(path.parts) > 1:
            raise NotFoundError(
                f"no labels at {path}; expected a text file with one class per line, or a,b,c"
            )
        names = [name.strip() for name in given.split(",")]
    else:
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{path} is not a UTF-8 text file ({first_line(error)})") from error
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--labels {given}: a class is empty or listed twice; give each class once")
    return tuple(names)


def _document(artifact: "Artifact", contents: Mapping[Path, bytes]) -> dict[str, Any]:
    manifest, found = artifact.manifest, artifact.verified
    return {
        "files": {str(path): len(content) for path, content in contents.items()},
        "inputs": manifest.inputs,
        "outputs": manifest.outputs,
        "states": manifest.states,
        "nodes": dict(sorted(artifact.nodes.items())),
        "opset": manifest.provenance["opset"],
        "ir_version": manifest.provenance["ir_version"],
        "ranges": manifest.ranges,
        "equal to PyTorch": {
            "in float64 to": found.largest,
            "cases": len(manifest.equivalence["cases"]),
            "onnxruntime differs by": found.max_abs,
            "share of its limit": found.worst.ratio,
        },
        "equivalence": manifest.equivalence,
        "unstreamable": manifest.unstreamable,
        "streams": pace(manifest) if manifest.is_buffered else None,
        "delays": manifest.delays,
        "unit": manifest.unit,
        "notes": artifact.notes,
    }
