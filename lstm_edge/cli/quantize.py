"""``lstm-edge quantize``: make a file smaller, and verify that its results are nearly the same."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.evaluation import read_samples

from ._extras import needing
from ._model import ModelOptions, check_model_path, open_model
from ._options import PATH, data_options, fill, json_option, model_argument
from ._output import check_onnx_target, echo, echo_json, note, print_table, progress

if TYPE_CHECKING:
    from lstm_edge_exporters.quantization import Quantized


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
@click.option(
    "--keep-io/--no-keep-io",
    default=True,
    help="Keep float32 inputs, outputs and states in an fp16 file for a GPU.",
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
@click.option(
    "--force", is_flag=True, help="Write the file even if it is slower than the float file on this machine."
)
@json_option
def command(model: Path, output: Path, data: Path | None, force: bool, as_json: bool, **options: Any) -> None:
    """Quantize MODEL, an fp32 .onnx file with a manifest, to make it smaller and usually faster.

    Nothing is written unless the result loads, is actually quantized, is smaller, and is within its accuracy
    budget on --data, or on the file's golden case. Its speed on this machine is measured; if it is slower
    than MODEL, the first line says so, nothing is written and the exit code is 1, unless --force is given.

    \b
    Example:
      lstm-edge quantize har.onnx -o har-int8.onnx --data har.npz
      lstm-edge quantize har.onnx -o har-int8.onnx --for arm
      lstm-edge quantize har.onnx -o har-fp16.onnx --precision fp16
    """  # noqa: D301
    check_model_path(model)
    check_onnx_target(output)
    with needing("export", "quantize"):
        from lstm_edge_exporters.quantization import Budget, QuantizeConfig, quantize

        samples = None
        if data is not None:
            opened = open_model(model, ModelOptions())
            samples = read_samples(data, opened, fill(ReadConfig, options), note)
    config = fill(QuantizeConfig, options | {"budget": fill(Budget, options)})
    with progress(quiet=as_json) as show:
        made = quantize(model, config, samples, on_progress=show)
    refused = bool(made.slower) and not force
    if not refused:
        made.save(output, force=force)
    if as_json:
        echo_json(_document(made, output, written=not refused))
    else:
        _print(made, output, refused=refused)
    if refused:
        sys.exit(1)
    if not as_json:
        other = f"   lstm-edge convert {output} -o {output.stem}.lep"
        echo(f"next: lstm-edge inspect {output}{other}")


def _print(made: "Quantized", output: Path, *, refused: bool) -> None:
    ratio = len(made.model) / made.bytes_before
    if made.slower:
        what = "written because of --force"
        if refused:
            what = "nothing was written (--weights-only is as small and not slower, --force writes it)"
        echo(f"slower than the float file on this machine: {made.slower}; {what}")
    judged = made.judgement
    rows = [("size in bytes", f"{made.bytes_before:,}", f"{len(made.model):,}", f"{ratio:.3f}")]
    for each in made.timings:
        interval = f"{each.ratio:.2f} ({each.low:.2f} to {each.high:.2f})"
        rows.append((each.what, f"{each.before * 1e6:,.1f} us", f"{each.after * 1e6:,.1f} us", interval))
    for name, pair in (("accuracy", judged.accuracy), ("RMSE", judged.rmse)):
        if pair is not None:
            rows.append((name, f"{pair[0]:.4g}", f"{pair[1]:.4g}", ""))
    print_table(f"{output}: {made.picked}", ("", "float", made.manifest.precision, "ratio"), rows)
    counts = ", ".join(f"{count} {what}" for what, count in made.counts.items())
    echo(f"nodes: {counts}")
    if judged.agreement is not None:
        echo(f"labels that agree: {judged.agreement:.4f} on {made.judged_on}")
    for name, change in judged.change.items():
        echo(f"{name} changes by at most {change.largest:.3g}, {change.share:.4f} of its range")
    step = "step" if made.manifest.unit == 1 else "unit"
    for name, drift in judged.drift.items():
        echo(
            f"{name} drifts by {drift.share:.4f} of its size over 1,000 {step}s, {drift.late:.4f} in the "
            f"last 100; largest difference {drift.largest:.3g}, at {step} {drift.step}"
        )
    if any(what.endswith("int8") for what in made.counts):
        echo(
            "for reproducible results run it on one thread: int8 ranges depend on the threads and the other "
            "rows of the batch"
        )


def _document(made: "Quantized", output: Path, *, written: bool) -> dict[str, Any]:
    return {
        "slower": made.slower,
        "written": written,
        "output": str(output),
        "precision": made.manifest.precision,
        "picked": made.picked,
        "nodes": made.counts,
        "bytes": {"before": made.bytes_before, "after": len(made.model)},
        "judged_on": made.judged_on,
        "judgement": made.judgement.to_dict(),
        "timings": [asdict(timing) for timing in made.timings],
    }
