"""``lstm-edge export``: a trained network becomes one verified ONNX file."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, counted, first_line
from lstm_edge_runtime.files import check_target
from lstm_edge_runtime.manifest import Signal, Task

from ._extras import needing
from ._options import NAMES, PATH, RATE, json_option, parse_pair, seed_option
from ._output import check_onnx_target, echo, echo_json, print_interface, progress

if TYPE_CHECKING:
    from lstm_edge_exporters import Artifact, ExportConfig

__all__ = ["command"]


@click.command("export")
@click.argument("source")
@click.option("-o", "--output", type=PATH, required=True, help="The .onnx file to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "ort"]),
    default="onnx",
    help="ort writes an .ort file for minimal builds, and beside it the operators that such a build needs.",
)
@click.option("--weights", type=PATH, help="Checkpoint that a factory's module loads.")
@click.option(
    "--input",
    multiple=True,
    metavar="NAME=AXES[:DTYPE[:LOW..HIGH]]",
    help="An input of a factory's module: x=N,L,8 or tokens=N,L:int64:0..9999; x=N,L:16..4096:4,8 gives the "
    "sizes of an axis, wave=N,4*L one that follows from another. Repeatable.",
)
@click.option("--step", is_flag=True, help="One step a call: the axis L of every --input is 1.")
@click.option("--lengths", is_flag=True, help="Take lengths int64 (N,), the valid steps of each row.")
@click.option(
    "--state",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="A state that forward of a factory's module takes and returns, where graph, names and shapes do not "
    "tell; then name all of them. Repeatable.",
)
@click.option(
    "--output-names",
    type=NAMES,
    default=(),
    help="Names of the outputs of a factory's module, in order: logits,h_n,c_n.",
)
@click.option(
    "--task",
    type=click.Choice(["classification", "regression"]),
    help="What the first output of a factory's module is.  [default: told by --labels or --units]",
)
@click.option(
    "--labels",
    metavar="FILE|NAMES",
    help="Classes (or names of predicted values), in order: a text file with one a line, or a,b,c.",
)
@click.option("--units", type=NAMES, default=(), help="Units of predicted values, in order.")
@click.option("--features", type=NAMES, default=(), help="Names of the features of a factory's input.")
@click.option("--rate", type=RATE, help="Sampling rate of a factory's input: 50Hz.")
@click.option("--window", type=click.IntRange(min=1), help="Time steps of a window it was trained on.")
@click.option("--stateless", is_flag=True, help="Leave absent, zero and learned initial states inside.")
@click.option("--opset", type=int, default=18, help="The ONNX opset.")
@click.option("--ir-version", type=int, default=8, help="The ONNX IR version.")
@seed_option
@json_option
def command(
    source: str,
    output: Path,
    form: str,
    lengths: bool,
    stateless: bool,
    opset: int,
    ir_version: int,
    seed: int,
    as_json: bool,
    **of_factory: Any,
) -> None:
    """Export SOURCE, a run folder, a checkpoint file, or package.module:factory, to one .onnx file.

    The file is written only once it is verified: it loads in onnxruntime and computes what PyTorch computes,
    at batch sizes and lengths that it was not traced at, from zero and from random states.

    A factory is a function or class that takes nothing and returns a torch.nn.Module; each of its inputs is
    named by --input, with a number where an axis is fixed and a name where it is dynamic.

    \b
    Example:
      lstm-edge export runs/har -o har.onnx
      lstm-edge export runs/har -o har.onnx --lengths
      lstm-edge export nets.tagger:build --weights tagger.pt -o tagger.onnx \\
          --input tokens=N,L:int64:0..9999
      lstm-edge export nets.audio:build --input wave=N,L:320..:320 -o audio.onnx
    """  # noqa: D301
    if form == "onnx" and output.suffix != ".ort":
        check_onnx_target(output)
    check_target(output)
    if (form == "ort") != (output.suffix == ".ort"):
        raise InputError(f"--format {form} and {output} do not fit; onnxruntime tells the format by .ort")
    factory = False
    with needing("export", "export"):
        from lstm_edge_exporters import export

        if not Path(source).exists():
            from ._factory import is_factory

            factory = is_factory(source)
    if Path(source).suffix in (".onnx", ".ort"):
        raise InputError(
            f"{source} is exported already; type lstm-edge lift to give it states, lstm-edge inspect to see "
            "what it has"
        )
    given = [name for name, value in of_factory.items() if value]
    if not factory and given:
        option = "--" + given[0].replace("_", "-")
        raise InputError(f"{source} is no package.module:factory, and {option} belongs to one")
    # what a user's code prints is not the result
    with needing("export", "export"), contextlib.redirect_stdout(sys.stderr):
        if factory:
            module, example, config = _from_factory(source, lengths, **of_factory)
        else:
            from lstm_edge.checkpoint import load
            from lstm_edge.deploy import deployable

            module, example, config = deployable(load(source), lengths=lengths)
        config = replace(config, stateless=stateless, opset=opset, ir_version=ir_version, seed=seed)
        with progress(quiet=as_json) as show:
            artifact = export(module, example, config, on_progress=show)
    converted = operators = None
    if form == "ort":
        from lstm_edge_exporters.targets.ort import to_ort

        converted = to_ort(artifact.model)
        operators = converted.save(output)
    else:
        artifact.save(output)
    if as_json:
        document = _document(artifact, output)
        if converted:
            document |= {"bytes": len(converted.model), "operators": str(operators)}
        echo_json(document)
        return
    _print(artifact, source, output)
    if converted:
        echo(f"ORT format: {len(converted.model):,} bytes; operators for a reduced build: {operators}")


def _from_factory(
    source: str,
    lengths: bool,
    *,
    weights: Path | None,
    input: tuple[str, ...],  # noqa: A002  as the option is called
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
        raise InputError(f"{source}: name each input of forward, such as --input x=N,L,8")
    names = [option.name for option in options]
    if len(set(names)) < len(names):
        raise InputError(f"got --input {max(names, key=names.count)} twice; give each input once")
    if lengths and "lengths" not in [option.name for option in options]:
        options.append(InputOption("lengths", (str(options[0].axes[0]),), "int64"))
    meaning = _task(task, labels, units)
    name = "lengths" if lengths else None
    module, sha256 = build_module(source, weights)
    config = ExportConfig(
        inputs={option.name: option.axes for option in options},
        ranges={axis: limits for option in options for axis, limits in option.ranges.items()},
        outputs=output_names,
        states=dict(parse_pair("--state", entry, "INPUT=OUTPUT") for entry in state) or None,
        lengths=name,
        task=meaning,
        signal=Signal(features, rate, window),
        checkpoint_sha256=sha256,
    )
    return module, make_example(options, name, module), config


def _task(kind: str | None, labels: str | None, units: tuple[str, ...]) -> Task | None:
    """Return what the options say of the first output; nothing said is None."""
    wanted = kind or ("regression" if units else "classification" if labels else None)
    if wanted is None:
        return None
    if units and wanted == "classification":
        raise InputError("--units belong to a regression; leave out --task classification")
    return Task(wanted, "", _read_labels(labels) if labels else (), units)


def _read_labels(given: str) -> tuple[str, ...]:
    """Read one class a line from a file, or from ``a,b,c``."""
    path = Path(given)
    if not path.is_file():
        if path.suffix == ".txt" or len(path.parts) > 1:
            raise NotFoundError(f"no labels at {path}; give a text file with one class a line, or a,b,c")
        names = [name.strip() for name in given.split(",")]
    else:
        try:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise FileFormatError(f"{path} is no text file in UTF-8 ({first_line(error)})") from error
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--labels {given}: a class is empty or there twice; give each class once")
    return tuple(names)


def _print(artifact: "Artifact", source: str, output: Path) -> None:
    manifest = artifact.manifest
    print_interface(str(output), manifest.inputs, manifest.states, manifest.outputs)
    nodes = ", ".join(f"{count} {name}" for name, count in sorted(artifact.nodes.items()))
    echo(f"size: {len(artifact.model):,} bytes, opset {manifest.provenance['opset']}")
    echo(f"nodes: {sum(artifact.nodes.values())} ({nodes})")
    cases = len(manifest.equivalence["cases"])
    worst = artifact.equivalence.worst
    echo(
        f"equal to PyTorch {artifact.equivalence}, in {counted(cases, 'case')}; onnxruntime in float32 is "
        f"{artifact.equivalence.max_abs:.3g} away (at most {worst.ratio:.0%} of its limit)"
    )
    for axis, limits in manifest.ranges.items():
        echo(f"sizes of axis {axis}: {limits}")
    if manifest.unstreamable:
        echo(f"can't be fed in chunks: {manifest.unstreamable}")
    for note in artifact.notes:
        echo(f"note: {note}")
    echo(f"next: lstm-edge inspect {output}   lstm-edge validate {output} --against {source}")


def _document(artifact: "Artifact", output: Path) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "output": str(output),
        "bytes": len(artifact.model),
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
        "notes": list(artifact.notes),
    }
