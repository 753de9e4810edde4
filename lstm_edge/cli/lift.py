"""``lstm-edge lift``: turn the hidden states of a recurrent ONNX file into inputs and outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_edge_exporters.lift.config import LiftConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

from ..data.sample_input import sample_input
from ._options import model_argument, options_of, output_option, verb
from ._output import Report

if TYPE_CHECKING:
    from lstm_edge_exporters.lift.pipeline import Lifted


@verb("lift", extra="export")
@model_argument
@output_option(".onnx")
@options_of(config=LiftConfig)
def command(model: Path, output: Path, config: LiftConfig, show: Callable[[float, str], None]) -> Report:
    """Turn the hidden states of MODEL, an .onnx file of any framework, into inputs and outputs.

    The result can be run in chunks. It is only written after it has been verified: with its states at reset
    it computes the same as MODEL. Chunks are also compared with the whole sequence; if they
    differ, the report names the first operator that differs.

    \b
    Example:
      lstm-edge lift keras.onnx -o stateful.onnx
      lstm-edge lift tagger.onnx -o tagger-lifted.onnx --skip-reverse
      lstm-edge lift silero_vad.onnx -o vad16.onnx --branch sr=16000 \
          --input input=N,512
    """  # noqa: D301
    from lstm_edge_exporters.lift import lift
    from lstm_edge_exporters.lift.read import check_keeps_weights

    check_keeps_weights(model, output)
    lifted = lift(model, config, on_progress=show)
    lifted.save(output)
    stream = [f"lstm-edge stream {output}"] if _streams(output) else []
    return Report(_document(lifted, output), str(output), next=[f"lstm-edge inspect {output}", *stream])


def _streams(path: Path) -> bool:
    """Return True if ``lstm-edge stream`` can run the file."""
    try:
        with load(path) as model:
            sample_input(model)
            model.stream(reset_every="never")
    except LstmEdgeError:
        return False
    return True


def _document(lifted: "Lifted", output: Path) -> dict[str, Any]:
    report, chunks = lifted.report, lifted.report.chunks
    kinds = {"lifted": report.lifted, "past steps": report.past, "existing": report.recognized}
    return {
        "output": output,
        "states": [
            {"input": each.input, "output": each.output, "axes": each.axes, "reset": each.reset, "kind": kind}
            for kind, states in kinds.items()
            for each in states
        ],
        "not_lifted": [
            {"node": entry.node, "state": entry.state, "reason": entry.reason} for entry in report.left
        ],
        "made_dynamic": report.made_dynamic,
        "equal to the original": {
            "sizes": report.sizes,
            "by_rows": report.by_rows,
            "float64": report.equivalence.equality.largest,
            "float32 (share of its limit)": report.equivalence.worst.ratio,
        },
        "chunks": chunks
        and {
            "sizes": chunks.sizes,
            "max_abs": {each.name: each.max_abs for each in chunks.records},
            "equal": chunks.worst.ok,
            "weights in float": chunks.in_float,
        },
        "unstreamable": report.unstreamable,
        "streams": lifted.manifest.pace if lifted.manifest.is_buffered else None,
        "delays": lifted.manifest.delays,
        "unit": lifted.manifest.unit,
    }
