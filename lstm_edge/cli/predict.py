"""``lstm-edge predict``: run a model on whole series."""

from pathlib import Path

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.sample_input import read_for_model, run_series
from lstm_edge.results import MainFrames, frame_axis, pace
from lstm_edge_runtime.errors import UnsupportedError, printable
from lstm_edge_runtime.files import check_target, write_bytes

from ._lines import ResultLines
from ._options import PATH, ModelOptions, Steps, line_options, model_argument, options_of
from ._output import note, note_resets


@click.command("predict")
@model_argument
@click.argument("data", type=PATH)
@click.option("-o", "--output", type=PATH, help="Output file.  [default: standard output]")
@line_options
@options_of(config=ReadConfig, options=ModelOptions)
def command(
    model: Path,
    data: Path,
    output: Path | None,
    as_json: bool,
    reset_every: Steps | None,
    config: ReadConfig,
    options: ModelOptions,
) -> None:
    """Run MODEL on every series of DATA, from the reset state, and write one line per series.

    The line is the result after the last step. If MODEL gives a result for every step or frame, each has a
    line, with its step. With --reset-every N, only the last N steps of a longer series are used. DATA is a
    .npz with x (samples, L, I) and optional lengths, a .npy, or a .csv with a header and a row per time step.

    \b
    Example:
      lstm-edge predict har.onnx recordings.csv --series day -o activities.csv
    """  # noqa: D301
    if output is not None:
        check_target(output)
    opened = options.load(model)
    found, samples = read_for_model(data, opened, config, targets="ignored", tell=note)
    manifest = opened.manifest
    if manifest.is_buffered:
        raise UnsupportedError(
            f"this file streams {pace(manifest)}, which predict does not support; use lstm-edge stream, or "
            "the file of export without --stream"
        )
    if reset_every is None and manifest.from_reset:
        reset_every = manifest.reset_every
        if any(len(one.x) > (reset_every or 0) for one in found.series):
            note_resets(reset_every, "only the last {} steps are used")
    last = 0 if reset_every in (None, "never") else int(reset_every)
    used = [one.x[-last:] for one in found.series]
    frames, by_frame = MainFrames(opened), frame_axis(opened) is not None
    every = (run_series(opened, samples, x) for x in used)
    lines = ResultLines(manifest.task, *("series", "step")[: 1 + by_frame], as_json=as_json)
    text = (
        lines.line(row, *(one.name, len(one.x) - len(x) + step)[: 1 + by_frame])
        for one, x, rows in zip(found.series, used, every, strict=True)
        for step, row in (frames.of_whole(rows) if by_frame else [(0, rows[0])])
    )
    if output is not None:
        write_bytes(output, "".join(text).encode(errors="backslashreplace"))
        return
    for line in text:
        click.echo(printable(line), nl=False)
