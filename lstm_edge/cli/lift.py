"""``lstm-edge lift``: turn the hidden states of a recurrent ONNX file into inputs and outputs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge_runtime import load
from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import InputError, LstmEdgeError, counted

from ..data.sample_input import sample_input
from ._extras import needing
from ._model import check_model_path
from ._options import PATH, json_option, model_argument, parse_pair, seed_option, stream_option
from ._output import check_onnx_target, echo, echo_json, print_table, progress

if TYPE_CHECKING:
    from lstm_edge_exporters.lift.pipeline import Lifted
    from lstm_edge_runtime.manifest import Axes, StateSpec


@click.command("lift")
@model_argument
@click.option("-o", "--output", type=PATH, required=True, help="Output file.")
@click.option("--skip-reverse", is_flag=True, help="Keep nodes that read time backwards; lift the rest.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=AXES",
    help="Axes of an input if those in the file are wrong: x=N,L,8; for a scalar input, its value. "
    "Repeatable.",
)
@click.option(
    "--branch",
    "constants",
    multiple=True,
    metavar="NAME=NUMBER",
    help="Constant for an input that selects a branch: sr=16000. Repeatable.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="INPUT=OUTPUT",
    help="State input and output that the file already has, if not found by name. Repeatable.",
)
@stream_option
@seed_option
@json_option
def command(
    model: Path,
    output: Path,
    skip_reverse: bool,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    states: tuple[str, ...],
    stream: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Turn the hidden states of MODEL, an .onnx file of any framework, into inputs and outputs.

    The result can be run in chunks. It is only written after it has been verified: with its states at reset
    it computes the same as MODEL. Chunks are also compared with the whole sequence; if they
    differ, the report names the first operator that differs.

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
        skip_reverse=skip_reverse,
        stream=stream,
        seed=seed,
    )
    with progress(quiet=as_json) as show:
        lifted = lift(model, config, on_progress=show)
    lifted.save(output)
    if as_json:
        echo_json(_document(lifted, output))
    else:
        _print(lifted, output)


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


def _print(lifted: "Lifted", output: Path) -> None:
    report = lifted.report
    kinds = {"lifted": report.lifted, "past steps": report.past, "existing": report.recognized}
    rows = [(*_row(state), kind) for kind, states in kinds.items() for state in states]
    print_table(f"{output}: {counted(len(rows), 'state')}", ("input", "output", "shape", "reset", ""), rows)
    for entry in report.left:
        echo(f"not lifted: {entry.state} of {entry.node}: {entry.reason}")
    if report.made_dynamic:
        echo(f"made dynamic: the {' and the '.join(report.made_dynamic)} axis, fixed before")
    echo(f"equal to the original {report.equivalence.equality} at {'; '.join(report.sizes)}")
    if report.by_rows:
        echo(f"equal row by row, if the original can't run, at {'; '.join(report.by_rows)}")
    if lifted.manifest.is_buffered:
        echo(f"streams: {lifted.manifest.pace}")
    elif report.unstreamable:
        what = "can't be run in chunks" if report.chunks is None else "chunks do not equal the whole"
        echo(f"{what}: {report.unstreamable}")
    elif report.chunks is not None:
        worst = report.chunks.worst
        echo(
            f"{'with weights in float, ' if report.chunks.in_float else ''}"
            f"chunks of {', '.join(map(str, report.chunks.sizes))} steps equal the whole "
            f"(largest difference {max(each.max_abs for each in report.chunks.records):.3g}, "
            f"{worst.ratio:.0%} of its limit)"
        )
    stream = f"   lstm-edge stream {output}" if _streams(output) else ""
    echo(f"next: lstm-edge inspect {output}{stream}")


def _streams(path: Path) -> bool:
    """Return whether ``lstm-edge stream`` can run the file."""
    try:
        with load(path) as model:
            sample_input(model)
            model.stream(reset_every="never")
    except LstmEdgeError:
        return False
    return True


def _row(state: "StateSpec") -> tuple[str, str, str, str]:
    reset = f"{state.reset:g}" if isinstance(state.reset, float) else f"learned {state.reset.shape}"
    return state.input, state.output, describe(state.axes), reset


def _document(lifted: "Lifted", output: Path) -> dict[str, Any]:
    report = lifted.report
    chunks = report.chunks
    return {
        "output": str(output),
        "states": [
            {
                "input": state.input,
                "output": state.output,
                "axes": state.axes,
                "reset": np.asarray(state.reset).tolist(),
                "lifted": state not in report.recognized,
            }
            for state in (*report.lifted, *report.past, *report.recognized)
        ],
        "left": [{"node": entry.node, "state": entry.state, "reason": entry.reason} for entry in report.left],
        "made_dynamic": report.made_dynamic,
        "equal": {
            "sizes": report.sizes,
            "by_rows": report.by_rows,
            "float64": report.equivalence.equality.largest,
            "float32": report.equivalence.worst.ratio,
        },
        "chunks": chunks
        and {
            "sizes": chunks.sizes,
            "max_abs": {
                each.name: each.max_abs if np.isfinite(each.max_abs) else None for each in chunks.records
            },
            "equal": chunks.worst.ok,
            "in_float": chunks.in_float,
        },
        "unstreamable": report.unstreamable,
        "delays": lifted.manifest.delays,
        "unit": lifted.manifest.unit,
    }
