"""``lstm-edge quantize``: make a file smaller, and verify that its results are nearly the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge_exporters.quantization.config import Budget, QuantizeConfig
from lstm_edge_runtime.errors import CheckFailedError

from ._model import ModelOptions, open_model
from ._options import PATH, model_argument, options_of, output_option, verb
from ._output import Report, note

if TYPE_CHECKING:
    from lstm_edge_exporters.quantization import Quantized


@verb("quantize", extra="export")
@model_argument
@output_option(".onnx")
@options_of(config=QuantizeConfig, budget=Budget)
@click.option("--data", type=PATH, help="Data for the accuracy gate: .npz, .npy or .csv, as for train.")
@options_of(reading=ReadConfig)
@click.option("--force", is_flag=True, help="Write the file even if it is slower than MODEL on this machine.")
def command(
    model: Path,
    output: Path,
    config: QuantizeConfig,
    budget: Budget,
    data: Path | None,
    reading: ReadConfig,
    force: bool,
    show: Callable[[float, str], None],
) -> Report:
    """Quantize MODEL, an fp32 .onnx file with a manifest, to make it smaller and usually faster.

    Nothing is written unless the result loads, is actually quantized, is smaller, and is within its accuracy
    budget on --data, or on the file's golden case. Its speed on this machine is measured; if it is slower
    than MODEL, nothing is written and the exit code is 1, unless --force is given.

    \b
    Example:
      lstm-edge quantize har.onnx -o har-int8.onnx --data har.npz
      lstm-edge quantize har.onnx -o har-int8.onnx --for arm
      lstm-edge quantize har.onnx -o har-fp16.onnx --precision fp16
    """  # noqa: D301
    from lstm_edge_exporters.quantization import quantize

    samples = None
    if data is not None:
        from lstm_edge.data.evaluation import read_samples

        samples = read_samples(data, open_model(model, ModelOptions()), reading, note)
    made = quantize(model, replace(config, budget=budget), samples, on_progress=show)
    refused = bool(made.slower) and not force
    if refused:
        why = "slower than the float file on this machine, so nothing was written"
        advice = "--weights-only is as small and not slower, --force writes it"
        error = CheckFailedError(f"{why} ({made.slower}); {advice}")
        return Report(_document(made, output, written=False), str(output), error=error)
    made.save(output, force=force)
    following = [f"lstm-edge inspect {output}", f"lstm-edge convert {output} -o {output.stem}.lep"]
    return Report(_document(made, output, written=True), str(output), next=following)


def _document(made: "Quantized", output: Path, *, written: bool) -> dict[str, Any]:
    notes = []
    if any(what.endswith("int8") for what in made.counts):
        notes = ["for reproducible results use one thread: int8 ranges depend on threads and on other rows"]
    return {
        "slower": made.slower,
        "written": written,
        "output": output,
        "precision": made.manifest.precision,
        "picked": made.picked,
        "nodes": made.counts,
        "bytes": {"before": made.bytes_before, "after": len(made.model)},
        "judged_on": made.judged_on,
        "judgement": made.judgement.to_dict(),
        "timings": made.timings,
        "notes": notes,
    }
