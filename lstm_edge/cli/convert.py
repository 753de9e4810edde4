"""``lstm-edge convert``: a file in another format. Each target is one entry of ``_TARGETS``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_target, write_bytes

from ._extras import needing_export
from ._output import echo_json, json_option, print_table

__all__ = ["command"]


@dataclass(frozen=True)
class _Written:
    """What a conversion wrote, ready to be shown."""

    title: str
    rows: Sequence[tuple[str, str]]
    """Path and size of each file."""
    notes: Sequence[str]
    document: dict[str, Any]
    """The same for programs, without the output's path."""


def _to_ort(model: Path, output: Path) -> _Written:
    if output.suffix != ".ort":
        raise InputError(
            f"{output} ends in {output.suffix or 'nothing'!r}; onnxruntime tells the format by .ort"
        )
    check_target(output)
    with needing_export("convert"):
        from lstm_edge_exporters.targets.ort import to_ort

        made = to_ort(model)
    config = made.save(output)
    before, after = made.bytes_before, len(made.model)
    notes = [f"operators for a reduced build: {config}"]
    if after > 1.5 * before:
        notes.append(
            "larger: weights stored small come out in float32 in ORT format; prefer the .onnx, or int8 LSTM"
        )
    return _Written(
        "ORT format",
        [(str(model), f"{before:,}"), (str(output), f"{after:,}")],
        notes,
        {"operators": str(config), "bytes": {"before": before, "after": after}},
    )


def _to_native(model: Path, output: Path) -> _Written:
    check_target(output)
    from lstm_edge_runtime.native.convert import to_native

    content = to_native(model)
    write_bytes(output, content)
    before, after = model.stat().st_size, len(content)
    return _Written(
        "native program",
        [(str(model), f"{before:,}"), (str(output), f"{after:,}")],
        [],
        {"bytes": {"before": before, "after": after}},
    )


_TARGETS: dict[str, Callable[[Path, Path], _Written]] = {"native": _to_native, "ort": _to_ort}


@click.command("convert")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(list(_TARGETS)), default="ort", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="What to write.")
@json_option
def command(model: Path, target: str, output: Path, as_json: bool) -> None:
    """Convert MODEL, an .onnx file, to another format.

    ort: ORT format, an .ort file, which minimal builds of onnxruntime read. The operators that such a build
    needs are written beside it, as OUTPUT with the suffix .required_operators_and_types.config; docs/small.md
    says how to build from that.

    native: a program, an .lep file, that the C library of lstm-edge-native and load() read without
    onnxruntime; docs/native.md says how.

    The result is written only once it was run and computes the same on MODEL's golden case.

    \b
    Example:
      lstm-edge convert har-int8.onnx -o har-int8.ort
      lstm-edge convert har.onnx --to native -o har.lep
    """  # noqa: D301
    written = _TARGETS[target](model, output)
    if as_json:
        echo_json({"output": str(output), **written.document})
        return
    print_table(written.title, ("file", "bytes"), written.rows)
    for note in written.notes:
        click.echo(note)
