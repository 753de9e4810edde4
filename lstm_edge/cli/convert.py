"""``lstm-edge convert``: convert a file to another format. Each target is one entry of ``_TARGETS``."""

import shlex
from collections.abc import Callable
from importlib.resources import as_file, files
from inspect import signature
from pathlib import Path
from typing import Any

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.evaluation import read_for_model
from lstm_edge.data.read import read_data
from lstm_edge.data.series import Data
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_target, write_bytes
from lstm_edge_runtime.manifest import Array

from ._extras import needing
from ._options import PATH, model_argument, verb
from ._output import Report, note


def _to_native(model: Path, output: Path) -> Report:
    if output.suffix != ".lep":
        raise InputError(f"{output} is not named .lep; use -o {output.with_suffix('.lep')}, or --to c or web")
    check_target(output)
    with needing("export", "convert"):
        from lstm_edge_exporters.targets.native import to_native

    content = to_native(model)
    write_bytes(output, content)
    return Report({"output": output, "bytes": {"before": model.stat().st_size, "after": len(content)}})


def _to_c(model: Path, output: Path, name: str | None = None) -> Report:
    with needing("export", "convert --to c"):
        from lstm_edge_exporters.targets.c import check_c_folder, to_c

    check_c_folder(output, model, name)
    made = to_c(model, name)
    header = made.save(output) / "src" / f"{made.name}.h"
    document = {
        "output": output,
        "name": made.name,
        "bytes": {path: len(text.encode()) for path, text in made.files.items()},
        "constants": made.constants,
        "state": made.state,
        "work": made.work,
        "max_abs": made.difference,
        "notes": [
            "self-test: passed here",
            "bytes of flash: constants, and code; of RAM: state per source, and work per call",
            f"include {header}",
        ],
    }
    return Report(document)


def _to_web(model: Path, output: Path, data: Path | None = None) -> Report:
    with needing("export", "convert --to web"):
        from lstm_edge_exporters.targets.folders import write_folder
        from lstm_edge_exporters.targets.web import to_site

    site = to_site(model, _recordings_for(model, data))
    write_folder(output, site)
    sizes = {name: len(content) for name, content in sorted(site.items())}
    notes = ["motion sensors need HTTPS on phones"]
    preview = f"python -m http.server -d {shlex.quote(str(output))}"
    return Report({"output": output, "files": sizes, "notes": notes}, next=[preview])


_TARGETS: dict[str, Callable[..., Report]] = {"c": _to_c, "web": _to_web}
"""Each is called with the model, the output, and those options of the verb that its signature names."""


@verb("convert")
@model_argument
@click.option("--to", "target", type=click.Choice(list(_TARGETS)), help="Write a folder of this kind.")
@click.option("-o", "--output", type=PATH, required=True, help="Output .lep file or folder.")
@click.option("--name", help="For c: prefix of functions.  [default: MODEL's name]")
@click.option("--data", type=PATH, help="For web: data file with recordings to replay, as for predict.")
def command(model: Path, target: str | None, output: Path, **options: Any) -> Report:
    """Convert MODEL, an .onnx file, to another format.

    An .lep file is a program for the C library of lstm-edge-native and for load(), without onnxruntime; see
    docs/deploy.md.

    c: a folder of C99 code without a runtime, for microcontrollers; see docs/deploy.md.

    web: a folder with a static page that runs MODEL in the browser and works offline; see docs/deploy.md.

    Results are run and only written if they compute the same as MODEL.

    \b
    Example:
      lstm-edge convert har.onnx -o har.lep
      lstm-edge convert har.onnx --to c -o har_c/
      lstm-edge convert har.onnx --to web -o site
    """  # noqa: D301
    to_target = _TARGETS[target] if target else _to_native
    given = {name: value for name, value in options.items() if value is not None}
    if stray := [name for name in given if name not in signature(to_target).parameters]:
        kind = f"--to {target}" if target else "an .lep file"
        raise InputError(f"--{stray[0].replace('_', '-')} is not valid with {kind}; remove it")
    return to_target(model, output, **given)


_MOST = 8
"""Maximum number of recordings in a page."""


def _recordings_for(model: Path, data: Path | None) -> list[tuple[str, Array]]:
    """Return one recording per label of ``data``, of its test set if defined.

    Without ``data``, return the demo's recordings if ``model`` has the same features, otherwise none.

    Raises:
        NotFoundError, FileFormatError, ContractError: the model or the data can't be read.
        InputError: ``data`` does not fit the model.
    """
    with load(model) as opened:
        if data is not None:
            found, _ = read_for_model(data, opened, ReadConfig(), targets="optional", tell=note)
            return _one_of_each(found)
        features = opened.manifest.signal.features
    with as_file(files("lstm_edge") / "data" / "basic_motions.npz") as path:
        demo = read_data(path)
    return _one_of_each(demo) if demo.signal.features == features else []


def _one_of_each(found: Data) -> list[tuple[str, Array]]:
    first: dict[str, Array] = {}
    for one in sorted(found.series, key=lambda series: series.split != "test"):
        label = found.classes[one.y[-1]] if found.classes else one.name
        first.setdefault(label, one.x)
    return list(first.items())[:_MOST]
