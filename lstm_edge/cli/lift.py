"""``lstm-edge lift``: turn the hidden states of a recurrent ONNX file into inputs and
outputs.
"""

from pathlib import Path

from lstm_edge.results import pace
from lstm_edge_exporters.lift.config import LiftConfig
from lstm_edge_runtime.errors import InputError

from ._options import model_argument, options_of, output_option, verb
from ._output import Output, equality, json_value, relabel


@verb("lift", extra="export")
@model_argument
@output_option
@options_of(config=LiftConfig)
def command(model: Path, output: Path, config: LiftConfig) -> Output:
    """Turn the hidden states of MODEL, an .onnx file of any framework, into inputs and
    outputs.

    The result can be run in chunks. It is only written after it has been verified: with
    its states at reset it computes the same as MODEL. Chunks are also compared with the
    full sequence; if they differ, the report names the first operator that differs.

    \b
    Example:
      lstm-edge lift keras.onnx -o stateful.onnx
      lstm-edge lift silero_vad.onnx -o vad16.onnx --branch sr=16000 \\
          --input input=N,512
    """  # noqa: D301
    from lstm_edge_exporters.lift import lift
    from lstm_edge_exporters.lift.read import weight_files

    if output.exists() and any(map(output.samefile, weight_files(model))):
        raise InputError(
            f"{output} has the weights of {model} and would be replaced; use another"
            " name"
        )
    lifted = lift(model, config)
    lifted.save(output)
    report = lifted.report
    manifest = lifted.manifest
    groups = {
        "lifted": report.lifted,
        "past steps": report.past,
        "existing": report.recognized,
    }
    states = []
    for origin, group in groups.items():
        states += [json_value(state) | {"kind": origin} for state in group]
    figures = lifted.verified.figures()
    document = {
        "output": output,
        "states": states,
        "verification": {
            "float64": figures["float64"],
            "cases": figures["cases"],
            "onnxruntime_max_abs": figures["max_abs"],
            "onnxruntime_limit_ratio": figures["ratio"],
        },
        "unstreamable": manifest.unstreamable,
        "streams": None if manifest.unstreamable else pace(manifest),
        "notes": lifted.notes,
    }
    stream = [] if manifest.unstreamable else [("stream", output)]
    equal = equality(
        float64=figures["float64"],
        cases=len(figures["cases"]),
        max_abs=figures["max_abs"],
        ratio=figures["ratio"],
    )
    return Output(
        document,
        lines=relabel(document, "verification", {"equal to the original": equal}),
        title=str(output),
        next=[("inspect", output), *stream],
    )
