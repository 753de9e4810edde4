"""``lstm-edge convert``: ORT format, for minimal builds of onnxruntime."""

from pathlib import Path

import click

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_target

from ._extras import needing_export
from ._output import echo_json, json_option, print_table

__all__ = ["command"]


@click.command("convert")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The .ort file to write."
)
@json_option
def command(model: Path, output: Path, as_json: bool) -> None:
    """Convert MODEL, an .onnx file, to ORT format, which minimal builds of onnxruntime read.

    The operators that such a build needs are written beside it, as OUTPUT with the suffix
    .required_operators_and_types.config; docs/small.md says how to build from that. The result is written
    only once it loads, carries MODEL's manifest and computes the same on its golden case.

    \b
    Example:
      lstm-edge convert har-int8.onnx -o har-int8.ort
    """  # noqa: D301
    if output.suffix != ".ort":
        raise InputError(
            f"{output} ends in {output.suffix or 'nothing'!r}; onnxruntime tells the format by .ort"
        )
    check_target(output)
    with needing_export("convert"):
        from lstm_edge_exporters.targets.ort import to_ort

        made = to_ort(model)
    config = made.save(output)
    sizes = {"before": made.bytes_before, "after": len(made.model)}
    if as_json:
        echo_json({"output": str(output), "operators": str(config), "bytes": sizes})
        return
    rows = [(str(model), f"{sizes['before']:,}"), (str(output), f"{sizes['after']:,}")]
    print_table("ORT format", ("file", "bytes"), rows)
    click.echo(f"operators for a reduced build: {config}")
    if sizes["after"] > 1.5 * sizes["before"]:
        click.echo(
            "larger: weights stored small come out in float32 in ORT format; prefer the .onnx, or int8 LSTM"
        )
