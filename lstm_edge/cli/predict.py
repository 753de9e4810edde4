"""``lstm-edge predict``: run a model on whole series."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.evaluation import read_for_model
from lstm_edge.data.sample_input import run_series
from lstm_edge.results import MainFrames, frame_axis, pace
from lstm_edge_runtime.errors import UnsupportedError, printable
from lstm_edge_runtime.files import replacing

from ._model import ModelOptions, open_model
from ._options import PATH, json_lines_option, model_argument, options_of, reset_every_option
from ._output import note, note_resets
from ._results import ResultLines


@click.command("predict")
@model_argument
@click.argument("data", type=PATH)
@click.option("-o", "--output", type=PATH, help="Output file.  [default: standard output]")
@json_lines_option
@reset_every_option
@options_of(config=ReadConfig, options=ModelOptions)
def command(
    model: Path,
    data: Path,
    output: Path | None,
    as_json: bool,
    reset_every: "int | Literal['never'] | None",
    config: ReadConfig,
    options: ModelOptions,
) -> None:
    """Run MODEL on every series of DATA, from the reset state, and write one line per series.

    The line is the result after the last step. If MODEL gives a result for every step or frame, each has a
    line, with the step that it is of. With --reset-every N, only the last N steps of a longer series are
    used.

    DATA is a .npz with x (samples, L, I) and optional lengths, a .npy, or a .csv with a header and one row
    per time step. Series may have unequal lengths. If the network has one output per layer, the top layer's
    result is written.

    \b
    Example:
      lstm-edge predict har.onnx recordings.csv --series day -o activities.csv
    """  # noqa: D301
    opened = open_model(model, options)
    found_data, samples = read_for_model(data, opened, config, targets="ignored", tell=note)
    found = found_data.series
    manifest = opened.manifest
    if manifest.is_buffered:
        raise UnsupportedError(
            f"this file streams {pace(manifest)}, which predict does not support; use lstm-edge stream, or "
            "the file of export without --stream"
        )
    if reset_every is None and manifest.from_reset:
        reset_every = manifest.reset_every
        if any(len(one.x) > (reset_every or 0) for one in found):
            note_resets(reset_every, "only the last {} of longer series are used")
    last = 0 if reset_every in (None, "never") else int(reset_every)
    series = [one.x[-last:] for one in found]
    every, frames = run_series(opened, samples, series), MainFrames(opened)
    with _writer(output) as write:
        if frame_axis(opened) is None:
            lines = ResultLines(manifest.task, "series", as_json=as_json)
            write(lines.header(every[0].shape[1]))
            for one, (row,) in zip(found, every, strict=True):
                write(lines.line(row, one.name))
            return
        lines = ResultLines(manifest.task, "series", "step", as_json=as_json)
        write(lines.header(every[0].shape[1]))
        for one, used, rows in zip(found, series, every, strict=True):
            for step, row in frames.of_whole(rows):
                write(lines.line(row, one.name, len(one.x) - len(used) + step))


@contextlib.contextmanager
def _writer(output: Path | None) -> Iterator[Callable[[str], object]]:
    if output is None:
        yield lambda line: sys.stdout.write(printable(line))
        return
    with (
        replacing(output) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file.write
