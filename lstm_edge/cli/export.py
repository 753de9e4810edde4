"""``lstm-edge export``: a trained network becomes one verified ONNX file."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, counted, first_line
from lstm_edge_runtime.files import check_target, write_bytes
from lstm_edge_runtime.manifest import Signal, Task

from ._extras import needing
from ._options import (
    PATH,
    is_factory,
    json_option,
    names,
    parse_pair,
    rate,
    scale_option,
    seed_option,
    stream_option,
)
from ._output import echo, echo_json, print_interface, progress

if TYPE_CHECKING:
    from lstm_edge.checkpoint import Run
    from lstm_edge_exporters import Artifact, ExportConfig


_OF_FACTORY = ("weights", "input", "step", "state", "output_names")
"""Options that require a factory."""
_OF_CONFIG = ("stateless", "stream", "seed")
"""Options of every source: fields of ``ExportConfig``."""


@click.command("export")
@click.argument("source")
@click.option(
    "-o", "--output", "outputs", type=PATH, required=True, multiple=True, help="File to write. Repeatable."
)
@click.option("--weights", type=PATH, help="Checkpoint to load into a factory's module.")
@click.option(
    "--input",
    multiple=True,
    metavar="NAME=AXES[:DTYPE[:LOW..HIGH]]",
    help="An input of a factory's module: x=N,L,8 or tokens=N,L:int64:0..9999; x=N,L:16..4096:4,8 sets the "
    "range of an axis, wave=N,4*L an axis derived from another. Repeatable.",
)
@click.option("--step", is_flag=True, help="One step per call: the axis L of every --input is 1.")
@click.option(
    "--lengths", is_flag=True, help="Add an input lengths, int64 (N,): number of valid steps of each row."
)
@click.option(
    "--state",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="State input and output of a factory's module, if they are ambiguous; then list all pairs. "
    "Repeatable.",
)
@click.option(
    "--output-names",
    type=names,
    default=(),
    help="Output names of a factory's module, in order, such as logits,h_n,c_n.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="Task of the first output of a factory's module.  [default: from --labels or --units]",
)
@click.option(
    "--labels",
    metavar="FILE|NAMES",
    help="Classes (or names of predicted values), in order: a text file with one per line, or a,b,c.",
)
@click.option("--units", type=names, default=(), help="Units of predicted values, in order.")
@click.option("--features", type=names, default=(), help="Feature names, in order.")
@click.option("--rate", type=rate, help="Sampling rate of the input, such as 50Hz.")
@click.option("--window", type=click.IntRange(min=1), help="Time steps of a training window.")
@scale_option
@click.option(
    "--stateless", is_flag=True, help="Keep absent, zero and learned initial states inside the graph."
)
@stream_option
@seed_option
@json_option
def command(
    source: str,
    outputs: tuple[Path, ...],
    lengths: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Export SOURCE, a run folder, a checkpoint file, or package.module:factory, to one .onnx file.

    The file is only written after it has been verified: it loads in onnxruntime and computes the same as
    PyTorch, at other batch sizes and lengths than it was traced at, from zero and from random states.

    A checkpoint file is a state_dict of the tutorials' LSTM1 class; --features, --labels, --units, --window,
    --rate and --scale describe it.

    A factory is a function or class that takes no arguments and returns a torch.nn.Module; describe each of
    its inputs with --input: a number for a fixed axis, a name for a dynamic one.

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
    _check_outputs(outputs)
    with needing("export", "export"):
        from lstm_edge_exporters import export
    of_config = {name: options.pop(name) for name in _OF_CONFIG}
    factory = is_factory(source)
    _check_source(source, [name for name, value in options.items() if value], factory=factory)
    # output printed by a user's code is not the result
    with needing("export", "export"), contextlib.redirect_stdout(sys.stderr):
        if factory:
            module, example, config = _from_factory(source, lengths, **_without(options, "scale"))
        else:
            from lstm_edge.checkpoint import deployable

            run = _described(Path(source), **_without(options, *_OF_FACTORY))
            module, example, config = deployable(run, lengths=lengths)
        with progress(quiet=as_json) as show:
            artifact = export(module, example, replace(config, **of_config), on_progress=show)
    contents = dict(_contents(artifact, outputs))
    for path, content in contents.items():
        write_bytes(path, content)
    if as_json:
        echo_json(_document(artifact, {str(path): len(content) for path, content in contents.items()}))
    else:
        _print(artifact, source, contents, options)


def _contents(artifact: "Artifact", outputs: Sequence[Path]) -> Iterator[tuple[Path, bytes]]:
    """Yield the content of each file, after it was verified."""
    for path in outputs:
        if path.suffix == ".lep":
            from lstm_edge_exporters.targets.native import to_native

            yield path, to_native(artifact.model)
        else:
            yield path, artifact.model


def _check_outputs(outputs: Sequence[Path]) -> None:
    for path in outputs:
        check_target(path)
        if path.suffix not in (".onnx", ".lep"):
            raise InputError(f"{path} is not named .onnx or .lep; use -o {path.with_suffix('.onnx')}")
    if len(set(outputs)) < len(outputs):
        raise InputError("an output is given twice; give each file once")


def _without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


def _check_source(source: str, given: Sequence[str], *, factory: bool) -> None:
    """Refuse a file that is exported already, and options that do not fit the source."""
    if Path(source).suffix in (".onnx", ".lep"):
        raise InputError(
            f"{source} is already exported; run lstm-edge lift to add states, lstm-edge inspect to see its "
            "contents"
        )
    wrong = [name for name in given if name in (("scale",) if factory else _OF_FACTORY)]
    if wrong:
        option = "--" + wrong[0].replace("_", "-")
        kind = "an LSTM1 checkpoint" if factory else "a package.module:factory"
        raise InputError(f"{source} is not {kind}, but {option} requires one")
    if given and Path(source).is_dir():
        raise InputError(f"{source} is a run, which describes itself; remove --{given[0]}")


def _described(
    path: Path,
    *,
    task: str | None,
    labels: str | None,
    units: tuple[str, ...],
    features: tuple[str, ...],
    rate: float | None,
    window: int | None,
    scale: Path | None,
) -> "Run":
    """Return a run, or a bare checkpoint with the description that the options give."""
    from lstm_edge.checkpoint import describe_run, load
    from lstm_edge.scales import with_scales

    run = load(path)
    if scale is not None:
        with_scales(run.model, scale)
    meaning = _task(task, labels, units)
    if not (meaning or features or rate or window):
        return run
    return describe_run(run, meaning and meaning._replace(output="logits"), Signal(features, rate, window))


def _from_factory(
    source: str,
    lengths: bool,
    *,
    weights: Path | None,
    input: tuple[str, ...],  # noqa: A002  the name of the option
    step: bool,
    state: tuple[str, ...],
    output_names: tuple[str, ...],
    task: str | None,
    labels: str | None,
    units: tuple[str, ...],
    features: tuple[str, ...],
    rate: float | None,
    window: int | None,
) -> tuple[Any, Any, "ExportConfig"]:
    from lstm_edge_exporters import ExportConfig

    from ._factory import InputOption, build_module, make_example, parse_input

    options = [parse_input(entry) for entry in input]
    if step:
        options = [
            replace(each, axes=tuple(1 if axis == "L" else axis for axis in each.axes), ranges={})
            for each in options
        ]
    if not options:
        raise InputError(f"{source}: describe each input of forward, such as --input x=N,L,8")
    given = [option.name for option in options]
    if len(set(given)) < len(given):
        raise InputError(f"--input {max(given, key=given.count)} is given twice; give each input once")
    if lengths and "lengths" not in given:
        options.append(InputOption("lengths", (str(options[0].axes[0]),), "int64"))
    meaning = _task(task, labels, units)
    name = "lengths" if lengths else None
    module, sha256 = build_module(source, weights)
    config = ExportConfig(
        inputs={option.name: option.axes for option in options},
        ranges={axis: limits for option in options for axis, limits in option.ranges.items()},
        outputs=output_names,
        states=dict(parse_pair("--state", entry, "INPUT=OUTPUT") for entry in state) or None,
        task=meaning,
        signal=Signal(features, rate, window),
        checkpoint_sha256=sha256,
    )
    return module, make_example(options, name, module), config


def _task(kind: str | None, labels: str | None, units: tuple[str, ...]) -> Task | None:
    """Return the task given by the options, or None."""
    wanted = kind or ("regression" if units else "classification" if labels else None)
    if wanted is None:
        return None
    if units and wanted == "classification":
        raise InputError("--units requires a regression; remove --task classification")
    return Task(wanted, "", _read_labels(labels) if labels else (), units)


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


def _print(
    artifact: "Artifact", source: str, contents: Mapping[Path, bytes], options: Mapping[str, Any]
) -> None:
    manifest, output = artifact.manifest, next(iter(contents))
    print_interface(", ".join(map(str, contents)), manifest, manifest.states)
    nodes = ", ".join(f"{count} {name}" for name, count in sorted(artifact.nodes.items()))
    sizes = ", ".join(f"{len(content):,} bytes ({path.suffix})" for path, content in contents.items())
    echo(f"size: {sizes}, opset {manifest.provenance['opset']}")
    echo(f"nodes: {sum(artifact.nodes.values())} ({nodes})")
    cases, found = len(manifest.equivalence["cases"]), artifact.verified
    echo(
        f"equal to PyTorch in float64 to {found.largest:.1g}, in {counted(cases, 'case')}; onnxruntime in "
        f"float32 is {found.max_abs:.3g} away (at most {found.worst.ratio:.0%} of its limit)"
    )
    for axis, limits in manifest.ranges.items():
        echo(f"sizes of axis {axis}: {limits}")
    if manifest.is_buffered:
        echo(f"streams: {manifest.pace}")
    elif manifest.unstreamable:
        echo(f"can't be fed in chunks: {manifest.unstreamable}")
    for note in artifact.notes:
        echo(f"note: {note}")
    onnx = next((path for path in contents if path.suffix == ".onnx"), None)
    files = "".join(f" --{name} {options[name]}" for name in ("weights", "scale") if options[name])
    validate = f"   lstm-edge validate {onnx} --against {source}{files}" if onnx else ""
    echo(f"next: lstm-edge inspect {output}{validate}")


def _document(artifact: "Artifact", sizes: Mapping[str, int]) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "files": dict(sizes),
        "inputs": [spec._asdict() for spec in manifest.inputs],
        "outputs": [spec._asdict() for spec in manifest.outputs],
        "states": [
            {
                "name": state.input,
                "dtype": state.dtype,
                "axes": state.axes,
                "output": state.output,
                "reset": np.asarray(state.reset).tolist(),
            }
            for state in manifest.states
        ],
        "nodes": dict(sorted(artifact.nodes.items())),
        "opset": manifest.provenance["opset"],
        "ir_version": manifest.provenance["ir_version"],
        "ranges": {axis: limits._asdict() for axis, limits in manifest.ranges.items()},
        "equivalence": manifest.equivalence,
        "unstreamable": manifest.unstreamable,
        "delays": manifest.delays,
        "unit": manifest.unit,
        "notes": list(artifact.notes),
    }
