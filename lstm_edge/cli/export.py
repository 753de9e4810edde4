"""``lstm-edge export``: a trained network becomes one verified ONNX file."""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge.results import is_classification, pace
from lstm_edge_exporters.export.config import ExportConfig
from lstm_edge_exporters.modules import is_factory, refuse_module
from lstm_edge_exporters.options import option, option_fields
from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Signal, Task

from ..data.config import parse_rate
from ._options import SCALE, SOURCE, options_of, outputs_option, verb
from ._output import Output, Show, equality, relabel

if TYPE_CHECKING:
    from lstm_edge.checkpoint import Run
    from lstm_edge_exporters import Artifact


@dataclass(frozen=True)
class SourceOptions:
    """Facts that neither a bare checkpoint nor a module has."""

    weights: Path | None = option(None, "Checkpoint to load into a factory's module.")
    input: Mapping[str, str] = option(
        dict,
        "Shape of one input of forward: x=N,L,8, tokens=N,L:int64, or x=N,L:500,8 for"
        " 500 steps.",
        metavar="x=N,L,8[:DTYPE]",
    )
    state: Mapping[str, str] = option(
        dict, "All states, if they are ambiguous.", metavar="INPUT=OUTPUT"
    )
    labels: tuple[str, ...] = option(
        (), "Classes, or with --units names of values.", metavar="NAMES"
    )
    units: tuple[str, ...] = option(
        (), "Units of predicted values, in order.", metavar="NAMES"
    )
    features: tuple[str, ...] = option((), "Feature names, in order.", metavar="NAMES")
    rate: float | None = option(
        None, "Sampling rate, such as 50Hz.", metavar="RATE", parse=parse_rate
    )
    window: int | None = option(None, "Time steps of a training window.", low=1)
    scale: Path | None = option(None, SCALE, metavar="FILE")
    lengths: bool = option(
        False, "Add an input lengths, int64 (N,): valid steps of each row."
    )

    @property
    def signal(self) -> Signal:
        """The signal that the options describe."""
        return Signal(self.features, self.rate, self.window)

    @property
    def task(self) -> Task | None:
        """The task that the options describe; None if they don't."""
        if not self.units and not self.labels:
            return None
        kind = "regression" if self.units else "classification"
        return Task(kind, labels=self.labels, units=self.units)


@verb("export", extra="export")
@click.argument("source", type=SOURCE)
@outputs_option
@options_of(options=SourceOptions, config=ExportConfig)
def command(
    source: str,
    outputs: tuple[Path, ...],
    options: SourceOptions,
    config: ExportConfig,
    show: Show,
) -> Output:
    """Export SOURCE, a run folder, a checkpoint file, or package.module:factory, to an
    .onnx or .lep file.

    A file is only written after it has been verified: it computes the same as PyTorch
    at other batch sizes and lengths. A checkpoint file is a state_dict of the
    tutorials' LSTM1 class. A factory is a function or class without arguments that
    gives a torch.nn.Module; describe each of its inputs with --input: a number for a
    fixed axis, a name for a dynamic one. Code that trains must be under if __name__ ==
    "__main__".

    \b
    Example:
      lstm-edge export runs/har -o har.onnx -o har.lep
      lstm-edge export lstm1.pth -o price.onnx --features open,high,low \\
          --units USD --scale scale.json
      lstm-edge export nets.amp:build -o amp.onnx --weights amp.pt \\
          --input x=N,L,1 --rate 48kHz
    """  # noqa: D301
    from lstm_edge_exporters import export
    from lstm_edge_exporters.targets.native import to_native

    _check_source(source, options)
    with contextlib.redirect_stdout(
        sys.stderr
    ):  # output printed by a user's code is not the result
        if is_factory(source):
            module, example, described = _from_factory(source, options)
        else:
            from lstm_edge.checkpoint import deployable

            module, example, described = deployable(
                _described(Path(source), options), lengths=options.lengths
            )
        export_options = {name: getattr(config, name) for name in option_fields(config)}
        artifact = export(
            module, example, replace(described, **export_options), on_progress=show
        )
    model = artifact.model
    contents = {
        path: model if path.suffix == ".onnx" else to_native(model) for path in outputs
    }
    for path, content in contents.items():
        write_bytes(path, content)
    files = {"--weights": options.weights, "--scale": options.scale}
    again = [text for pair in files.items() if pair[1] for text in pair]
    exported = [path for path in outputs if path.suffix == ".onnx"]
    following = [
        ("validate", path, "--against", source, *again) for path in exported[:1]
    ]
    sizes = {path: len(content) for path, content in contents.items()}
    document = {"files": sizes, **_facts(artifact)}
    verified = artifact.verified
    equal = equality(
        float64=verified.largest,
        cases=len(verified.cases),
        max_abs=verified.max_abs,
        ratio=verified.worst.ratio,
    )
    return Output(
        document,
        lines=relabel(document, "verification", {"equal to PyTorch": equal}),
        next=[("inspect", outputs[0]), *following],
    )


def _check_source(source: str, options: SourceOptions) -> None:
    """Refuse a file that is exported already, and options that do not fit the
    source.
    """
    if Path(source).suffix in (".onnx", ".lep"):
        raise InputError(
            f"{source} is already exported; see lstm-edge inspect, or lstm-edge lift"
            " for states"
        )
    refuse_module(source)
    if not is_factory(source) and not Path(source).exists():
        module = Path(source.partition(":")[0]).stem or "network"
        raise NotFoundError(
            f"{source} does not exist; expected a run folder, a checkpoint file, or the"
            f" factory of a module, such as {module}:build"
        )
    description = "checkpoint"
    unfit = ["weights", "input", "state"]
    if is_factory(source):
        description = "factory, which scales in forward"
        unfit = ["scale"]
    elif Path(source).is_dir():
        description = "run, which describes itself"
        unfit = [name for name in option_fields(options) if name != "lengths"]
    if wrong := [name for name in unfit if getattr(options, name)]:
        raise InputError(f"{source} is a {description}; remove --{wrong[0]}")


def _described(path: Path, options: SourceOptions) -> "Run":
    """Return a run, or a bare checkpoint with the description that the options give."""
    from lstm_edge.checkpoint import load, with_scales

    run = load(path)
    task = options.task
    if options.scale is not None:
        with_scales(run.model, options.scale)
    if not task and options.signal == Signal():
        return run
    output = "logits" if is_classification(task) else "value"
    described = (task and task._replace(output=output)) or run.task
    return replace(run, task=described, signal=options.signal)


def _from_factory(source: str, options: SourceOptions) -> tuple[Any, Any, ExportConfig]:
    """Return module, example and options of ``package.module:factory``."""
    from lstm_edge_exporters.source import load_source

    inputs = dict(options.input)
    if options.lengths and inputs:
        inputs.setdefault("lengths", "N:int64")
    loaded = load_source(source, inputs, options.weights)
    config = replace(
        loaded.config,
        states=dict(options.state) or None,
        task=options.task,
        signal=options.signal,
    )
    return loaded.module, loaded.example, config


def _facts(artifact: "Artifact[Any]") -> dict[str, Any]:
    """Return the lines of the report."""
    manifest = artifact.manifest
    verified = artifact.verified
    return {
        "inputs": manifest.inputs,
        "outputs": manifest.outputs,
        "states": manifest.states,
        "ranges": manifest.ranges,
        "nodes": dict(sorted(artifact.nodes.items())),
        "opset": manifest.provenance["opset"],
        "verification": {
            "float64": verified.largest,
            "cases": verified.cases,
            "onnxruntime_max_abs": verified.max_abs,
            "onnxruntime_limit_ratio": verified.worst.ratio,
        },
        "unstreamable": manifest.unstreamable,
        "streams": pace(manifest) if manifest.is_buffered else None,
        "notes": artifact.notes,
    }
