"""``lstm-edge lift``: turn the hidden states of a recurrent ONNX file into inputs and outputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import InputError, counted

from ._extras import needing
from ._model import check_model_path
from ._options import PATH, json_option, model_argument, parse_pair, seed_option, stream_option
from ._output import check_onnx_target, echo, echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime.manifest import Axes

_INPUT = "Axes of an input if those in the file are wrong: x=N,L,8; for a scalar, its value. Repeatable."
_BRANCH = "Constant for an input that selects a branch: sr=16000. Repeatable."
_STATE = "State input and output that the file already has, if not found by name. Repeatable."


@click.command("lift")
@model_argument
@click.option("-o", "--output", type=PATH, required=True, help="Output file.")
@click.option("--skip-reverse", is_flag=True, help="Keep nodes that read time backwards; lift the rest.")
@click.option("--input", "inputs", multiple=True, metavar="NAME=AXES", help=_INPUT)
@click.option("--branch", "constants", multiple=True, metavar="NAME=NUMBER", help=_BRANCH)
@click.option("--state", "states", multiple=True, metavar="INPUT=OUTPUT", help=_STATE)
@stream_option
@seed_option
@json_option
def command(
    model: Path,
    output: Path,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    states: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Turn the hidden states of MODEL, an .onnx file of any framework, into inputs and outputs.

    The result can be run in chunks. It is only written after it has been verified: with its states at reset
    it computes the same as MODEL. Chunks are also compared with the full sequence; if they differ, the report
    names the first operator that differs.

    \b
    Example:
      lstm-edge lift keras.onnx -o stateful.onnx
      lstm-edge lift tagger.onnx -o tagger-lifted.onnx --skip-reverse
      lstm-edge lift silero_vad.onnx -o vad16.onnx --branch sr=16000 \\
          --input input=N,512
    """  # noqa: D301
    check_model_path(model)
    check_onnx_target(output)
    with needing("export", "lift"):
        from lstm_edge_exporters.lift import LiftConfig, lift
        from lstm_edge_exporters.lift.read import check_keeps_weights
    check_keeps_weights(model, output)
    config = LiftConfig(
        inputs=dict(_axes(entry) for entry in inputs),
        constants=dict(_number(entry) for entry in constants),
        states=dict(parse_pair("--state", entry, "INPUT=OUTPUT") for entry in states),
        **options,
    )
    lifted = lift(model, config)
    lifted.save(output)
    report, manifest = lifted.report.to_dict(), lifted.manifest
    if as_json:
        echo_json({"output": str(output), **report, "delays": manifest.delays, "unit": manifest.unit})
        return
    states = report["states"]
    rows = [(each["input"], each["output"], describe(each["axes"]), each["kind"]) for each in states]
    print_table(f"{output}: {counted(len(rows), 'state')}", ("input", "output", "shape", ""), rows)
    for entry in report["left"]:
        echo(f"not lifted: {entry['state']} of {entry['node']}: {entry['reason']}")
    for axis in report["made_dynamic"]:
        echo(f"made dynamic: the {axis} axis")
    echo(f"equal to the original in float64 to {report['float64']:.2g} at {'; '.join(report['cases'])}")
    reason, pace = report["unstreamable"], f"streams: {manifest.pace}" if manifest.is_buffered else "streams"
    echo(f"can't be run in chunks: {reason}" if reason else pace)
    echo(f"next: lstm-edge inspect {output}" + ("" if reason else f"   lstm-edge stream {output}"))


def _axes(entry: str) -> "tuple[str, Axes]":
    name, text = parse_pair("--input", entry, "x=N,L,8")
    axes = tuple(int(axis) if axis.strip().isdecimal() else axis.strip() for axis in text.split(","))
    wrong = [axis for axis in axes if axis == 0 or (isinstance(axis, str) and not axis.isidentifier())]
    if wrong:
        raise InputError(f"--input {entry}: axis {wrong[0]!r} is neither a positive number nor a valid name")
    return name, axes


def _number(entry: str) -> tuple[str, float]:
    name, text = parse_pair("--branch", entry, "sr=16000")
    try:
        return name, float(text)
    except ValueError:
        raise InputError(f"--branch {entry}: {text!r} is not a number, expected sr=16000") from None
