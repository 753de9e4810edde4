"""``lstm-edge quantize``: make a file smaller, and verify that its results are nearly the same."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.evaluation import read_samples
from lstm_edge_runtime.errors import counted

from ._extras import needing
from ._model import ModelOptions, check_model_path, open_model
from ._options import PATH, data_options, fill, json_option, model_argument
from ._output import check_onnx_target, echo, echo_json, note, print_table, progress

if TYPE_CHECKING:
    from lstm_edge_exporters.quantize import Quantized


@click.command("quantize")
@model_argument
@click.option("-o", "--output", type=PATH, required=True, help="Output file, .onnx.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16"]),
    default="int8",
    help="int8, or fp16: half the size on a CPU, half-precision arithmetic on a GPU.",
)
@click.option(
    "--for",
    "target",
    type=click.Choice(["auto", "x86-vnni", "x86", "arm", "gpu"]),
    default="auto",
    help="Target device; auto is this machine. x86 is without VNNI; gpu requires fp16.",
)
@click.option(
    "--weights-only", is_flag=True, help="int8 weights with float arithmetic: small, and not slower."
)
@click.option("--data", type=PATH, help="Data for the accuracy gate: .npz, .npy or .csv, as for train.")
@data_options
@click.option(
    "--min-agreement",
    "agreement",
    type=click.FloatRange(0, 1),
    default=0.975,
    help="Minimum fraction of equal labels.",
)
@click.option("--max-drift", "drift", type=float, default=0.1, help="Maximum state drift over 1,000 steps.")
@click.option(
    "--max-change",
    "change",
    type=float,
    default=0.25,
    help="Maximum change of an output, relative to its range.",
)
@json_option
def command(model: Path, output: Path, data: Path | None, as_json: bool, **options: Any) -> None:
    """Quantize MODEL, an fp32 .onnx file with a manifest, to make it smaller and usually faster.

    Nothing is written unless the result loads, is actually quantized, is smaller, and is within its accuracy
    budget on --data, or on the file's golden case. Narrow layers may be slower in int8: compare both files
    with lstm-edge bench.

    \b
    Example:
      lstm-edge quantize har.onnx -o har-int8.onnx --data har.npz
      lstm-edge quantize har.onnx -o har-int8.onnx --for arm
      lstm-edge quantize har.onnx -o har-fp16.onnx --precision fp16
    """  # noqa: D301
    check_model_path(model)
    check_onnx_target(output)
    with needing("export", "quantize"):
        from lstm_edge_exporters.quantize import Budget, QuantizeConfig, quantize

        samples = None
        if data is not None:
            opened = open_model(model, ModelOptions())
            samples = read_samples(data, opened, fill(ReadConfig, options), note)
    config = fill(QuantizeConfig, options | {"budget": fill(Budget, options)})
    with progress(quiet=as_json) as show:
        made = quantize(model, config, samples, on_progress=show)
    made.save(output)
    if as_json:
        echo_json(_document(made, output))
        return
    _print(made, output)
    echo(f"next: lstm-edge inspect {output}   lstm-edge convert {output} -o {output.stem}.lep")


def _print(made: "Quantized", output: Path) -> None:
    judged, ratio = made.judgement, len(made.model) / made.bytes_before
    rows = [("size in bytes", f"{made.bytes_before:,}", f"{len(made.model):,}", f"{ratio:.3f}")]
    if judged.accuracy is not None:
        before, after = judged.accuracy
        rows.append(("accuracy", f"{before:.4g}", f"{after:.4g}", ""))
    print_table(f"{output}: {made.picked}", ("", "float", made.manifest.precision, "ratio"), rows)
    counts = ", ".join(f"{count} {what}" for what, count in made.counts.items())
    echo(f"nodes: {counts}")
    if judged.agreement is not None:
        echo(f"labels that agree: {judged.agreement:.4f} on {counted(judged.cases, 'sample')}")
    for name, share in judged.change.items():
        echo(f"{name} changes by at most {share:.4f} of its range")
    for name, share in judged.drift.items():
        echo(f"{name} drifts by {share:.4f} of its size over 1,000 calls")
    if any(what.endswith("int8") for what in made.counts):
        echo(
            "for reproducible results run it on one thread: int8 ranges depend on the threads and the other "
            "rows of the batch"
        )


def _document(made: "Quantized", output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "precision": made.manifest.precision,
        "picked": made.picked,
        "nodes": made.counts,
        "bytes": {"before": made.bytes_before, "after": len(made.model)},
        "judgement": asdict(made.judgement),
    }
