"""``lstm-edge quantize``: make a file smaller, and verify that its results are nearly
the same.
"""

from dataclasses import replace
from pathlib import Path

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge_exporters.quantize.config import Budget, QuantizeConfig

from ._options import PATH, model_argument, options_of, output_option, verb
from ._output import Output, Show, note


@verb("quantize", extra="export")
@model_argument
@output_option
@options_of(config=QuantizeConfig, budget=Budget)
@click.option(
    "--data",
    type=PATH,
    help="Data for the accuracy gate: .npz, .npy or .csv, as for train.",
)
@options_of(reading=ReadConfig)
def command(
    model: Path,
    output: Path,
    config: QuantizeConfig,
    budget: Budget,
    data: Path | None,
    reading: ReadConfig,
    show: Show,
) -> Output:
    """Quantize MODEL, an fp32 .onnx file with a manifest, to make it smaller and
    usually faster.

    Nothing is written unless the result is smaller, and within its accuracy budget on
    --data, or on the file's golden case. Narrow layers may be slower in int8: compare
    both files with lstm-edge bench.

    \b
    Example:
      lstm-edge quantize har.onnx -o har-int8.onnx --data har.npz
      lstm-edge quantize har.onnx -o har-fp16.onnx --precision fp16
    """  # noqa: D301
    from lstm_edge_exporters.quantize import quantize

    samples = None
    if data is not None:
        from lstm_edge.data.sample_input import read_samples
        from lstm_edge_runtime import load

        samples = read_samples(data, load(model), config=reading, tell=note)
    quantized = quantize(
        model, replace(config, budget=budget), samples, on_progress=show
    )
    quantized.save(output)
    document = {
        "output": output,
        "precision": quantized.manifest.precision,
        "arithmetic": quantized.manifest.arithmetic,
        "method": quantized.description,
        "nodes": quantized.counts,
        "bytes": {"before": quantized.bytes_before, "after": len(quantized.model)},
        "judgement": quantized.verified,
    }
    following = [
        ("inspect", output),
        ("convert", output, "-o", output.with_suffix(".lep")),
    ]
    return Output(document, title=str(output), next=following)
