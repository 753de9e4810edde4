"""``lstm-edge predict``: run a model on whole series."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge.data.sample_input import SampleInput, read_for_model, run_series
from lstm_edge.data.series import Data
from lstm_edge.results import (
    Frame,
    MainFrames,
    PredictedSeries,
    pace,
)
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import InputError, UnsupportedError, printable
from lstm_edge_runtime.files import check_target, write_bytes
from lstm_edge_runtime.results import frame_axis

from ._lines import ResultLines
from ._options import (
    OUTPUT,
    PATH,
    ModelOptions,
    VerbCommand,
    model_argument,
    needing,
    options_of,
)
from ._output import note


@click.command("predict", cls=VerbCommand)
@model_argument
@click.argument("source", metavar="DATA", type=PATH)
@click.option(
    "-o", "--output", type=OUTPUT, help="Output file.  [default: standard output]"
)
@click.option(
    "--json", "as_json", is_flag=True, help="Write JSON Lines instead of CSV."
)
@click.option(
    "--plot", type=OUTPUT, help="Draw the first six series to this .png file."
)
@options_of(config=ReadConfig, options=ModelOptions)
def command(
    model: Path,
    source: Path,
    output: Path | None,
    as_json: bool,
    plot: Path | None,
    config: ReadConfig,
    options: ModelOptions,
) -> None:
    """Run MODEL on every series of DATA, from the reset state, and write one line per
    series.

    The line is the result after the last step. If MODEL gives a result for every step
    or frame, each has a line, with its step. So has a MODEL trained on windows from
    reset, from the first full window on: each result is computed in a window. DATA is a
    .npz with x (samples, L, I) and optional lengths, a .npy, a .wav, or a .csv with a
    row per step.

    \b
    Example:
      lstm-edge predict har.onnx recordings.csv --series day -o activities.csv
    """  # noqa: D301
    if output is not None:
        check_target(output)
        _check_format(output, as_json=as_json)
    if plot is not None:
        _check_plot(plot)
        with needing("report", "predict --plot"):
            from lstm_edge.report.predictions import write_plot
    opened = load(model, **vars(options))
    data, samples = read_for_model(source, opened, config, targets="ignored", tell=note)
    manifest = opened.manifest
    if manifest.is_buffered:
        raise UnsupportedError(
            f"this file streams {pace(manifest)}, which predict does not support; use"
            " lstm-edge stream, or the file of export without --stream"
        )
    window = manifest.reset_every
    if window and any(len(record.x) > window for record in data.series):
        note(
            f"training windows of {window} steps started from reset; each result is"
            f" computed in a window of {window} steps"
        )
    predicted: Iterable[PredictedSeries] = _predict(opened, samples, data)
    drawn: list[PredictedSeries] = []
    if plot is not None:
        predicted = drawn = list(predicted)
    text = _lines(opened, samples, predicted, as_json=as_json)
    if output is not None:
        write_bytes(output, "".join(text).encode(errors="backslashreplace"))
    else:
        for line in text:
            click.echo(printable(line), nl=False)
    if plot is not None:
        write_plot(plot, drawn, manifest.task)


def _check_plot(path: Path) -> None:
    """Raise InputError for a file that is not named ``.png``."""
    check_target(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"{path} is not named .png; use --plot {path.stem}.png")


_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")


def _check_format(output: Path, *, as_json: bool) -> None:
    """Raise InputError for a file whose name ends in another format than it would
    have.
    """
    suffix = output.suffix.lower()
    if as_json and suffix == ".csv":
        raise InputError(
            f"{output} would contain JSON Lines; remove --json, or use -o"
            f" {output.with_suffix('.jsonl')}"
        )
    if suffix in _JSON_SUFFIXES and not as_json:
        raise InputError(
            f"{output} would contain CSV; add --json, or use -o"
            f" {output.with_suffix('.csv')}"
        )


def _predict(
    model: Model, samples: SampleInput, data: Data
) -> Iterator[PredictedSeries]:
    """Run the model on each series, in windows if it is reset at every window."""
    frames = MainFrames(model)
    has_frames = _has_frames(model, samples)
    for record in data.series:
        predicted = list[Frame]()
        stride = model.manifest.reset_every if has_frames else 1
        for window in _windows(len(record.x), model.manifest.reset_every, stride):
            rows = run_series(model, samples, record.x[window.start : window.stop])
            if not has_frames:
                predicted.append(Frame(window.stop, rows[-1]))
                continue
            last_step = predicted[-1].step if predicted else 0
            for frame in frames.of_sequence(rows):
                step = window.start + frame.step
                if step > last_step:
                    predicted.append(Frame(step, frame.values))
        yield PredictedSeries(record.name, record.x, predicted)


def _has_frames(model: Model, samples: SampleInput) -> bool:
    """Return True if the model gives a result at every step or frame."""
    return samples.one_step or frame_axis(model.manifest) is not None


def _windows(length: int, window: int | None, stride: int | None) -> Iterator[range]:
    """Yield the steps of each run, from 0; without a window, all. The last window ends
    with the series.
    """
    if window is None or length <= window:
        yield range(length)
        return
    for start in range(0, length - window, stride or window):
        yield range(start, start + window)
    yield range(length - window, length)


def _lines(
    model: Model,
    samples: SampleInput,
    predicted: Iterable[PredictedSeries],
    *,
    as_json: bool,
) -> Iterator[str]:
    """Yield one line per series, or one per result if a series may have several."""
    has_steps = _has_frames(model, samples) or model.manifest.reset_every is not None
    keys = ("series", "step") if has_steps else ("series",)
    lines = ResultLines(model.manifest.task, *keys, as_json=as_json)
    for series in predicted:
        for frame in series.frames:
            if has_steps:
                yield lines.line(frame.values, series.name, frame.step)
            else:
                yield lines.line(frame.values, series.name)
