"""``lstm-edge convert``: convert a file to another format."""

import shlex
from importlib.resources import as_file, files
from pathlib import Path

import click

from lstm_edge.data.read import read_data
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array

from ._options import OUTPUT, model_argument, verb
from ._output import Output


def _to_native(model: Path, output: Path) -> Output:
    """Write a native program."""
    if output.suffix != ".lep":
        raise InputError(
            f"{output} is not named .lep; use -o {output.with_suffix('.lep')}, or --to"
            " c or web"
        )
    from lstm_edge_exporters.targets.native import to_native

    content = to_native(model)
    write_bytes(output, content)
    return Output(
        {
            "output": output,
            "bytes": {"before": model.stat().st_size, "after": len(content)},
        }
    )


def _to_c(model: Path, output: Path, name: str | None) -> Output:
    """Write a folder of C."""
    from lstm_edge_exporters.targets.c import check_c_folder, to_c

    check_c_folder(output, model, name)
    folder = to_c(model, name)
    header = folder.save(output) / "src" / f"{folder.name}.h"
    notes = [
        "self-test: passed here",
        "bytes of flash: constants, and code; of RAM: state per source, and work per"
        " call",
        f"include {header}",
    ]
    document = {
        "output": output,
        "bytes": {path: len(text.encode()) for path, text in folder.files.items()},
        "name": folder.name,
        "constants": folder.constants,
        "state": folder.state,
        "work": folder.work,
        "largest_difference": folder.difference,
        "notes": notes,
    }
    return Output(document)


def _to_web(model: Path, output: Path) -> Output:
    """Write a web page."""
    from lstm_edge_exporters.targets.folders import write_folder
    from lstm_edge_exporters.targets.web import to_site

    site = to_site(model, [*_recordings(model).items()])
    write_folder(output, site)
    sizes = {name: len(content) for name, content in sorted(site.items())}
    notes = [
        f"to see it, run python -m http.server -d {shlex.quote(str(output))}",
        "motion sensors need HTTPS on phones",
    ]
    return Output({"output": output, "files": sizes, "notes": notes})


@verb("convert", extra="export")
@model_argument
@click.option(
    "--to",
    "target",
    type=click.Choice(["c", "web"]),
    help="Write a folder of this kind.",
)
@click.option(
    "-o", "--output", type=OUTPUT, required=True, help="Output .lep file or folder."
)
@click.option("--name", help="For c: prefix of functions.  [default: MODEL's name]")
def command(model: Path, target: str | None, output: Path, name: str | None) -> Output:
    """Convert MODEL, an .onnx file, to another format.

    An .lep file is a program for the C library of lstm-edge-native and for load(),
    without onnxruntime; c is a folder of C99 code without a runtime, for
    microcontrollers; web is a folder with a static page that runs MODEL in the browser
    and works offline. Results are only written if they compute the same as MODEL.

    \b
    Example:
      lstm-edge convert har.onnx -o har.lep
      lstm-edge convert har.onnx --to web -o site
    """  # noqa: D301
    if name and target != "c":
        raise InputError("--name is only valid with --to c; remove it")
    if target and output.suffix in (".lep", ".onnx"):
        raise InputError(
            f"got --to {target} -o {output}, expected a folder; omit --to for an .lep file"
        )
    if target == "c":
        return _to_c(model, output, name)
    return _to_web(model, output) if target else _to_native(model, output)


def _recordings(model: Path) -> dict[str, Array]:
    """Return a recording per class of the demo's data if ``model`` has its features."""
    with as_file(files("lstm_edge") / "data" / "basic_motions.npz") as path:
        demo = read_data(path)
    with load(model) as opened:
        fits = opened.manifest.signal.features == demo.signal.features
    recordings: dict[str, Array] = {}
    if fits:
        for series in demo.of("test"):
            label = demo.classes[series.y[-1]]
            recordings[label] = series.x
    return recordings
