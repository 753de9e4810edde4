"""``lstm-edge stream``: read samples from standard input, write one result line each to standard output."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy.typing as npt

from lstm_edge.data.sample_input import sample_input
from lstm_edge.results import MainFrames
from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import CheckFailedError, InputError, counted
from lstm_edge_runtime.hold import Hold

from ._model import ModelOptions, open_model
from ._options import json_lines_option, model_argument, options_of, reset_every_option
from ._output import echo, note_resets
from ._results import ResultLines, write_line
from ._samples import LineParser, Stop, read_lines
from ._statefile import StateFile

_REPORTED = 5
"""Maximum number of malformed lines that are reported one by one."""


@dataclass(frozen=True)
class StreamConfig:
    """What is read, and what is written."""

    state: Path | None = option(
        None,
        "Save the state to FILE every second and at the end, and resume from it after a restart.",
        metavar="FILE",
    )
    features: tuple[str, ...] = option(
        (), "Columns of the header, in the order of MODEL's features.", metavar="NAMES"
    )
    window: int | None = option(
        None,
        "Run the last N samples from the reset state at every step, as in a training on windows.",
        low=1,
        metavar="N",
    )
    hold: int | None = option(
        None,
        "Change the label only after it was the same for this number of steps; it is empty until then.",
        low=1,
        metavar="STEPS",
    )
    strict: bool = option(False, "Stop at a malformed line instead of skipping it.")

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)


@click.command("stream")
@model_argument
@options_of(config=StreamConfig)
@reset_every_option
@json_lines_option
@options_of(options=ModelOptions)
def command(
    model: Path,
    config: StreamConfig,
    reset_every: "int | Literal['never'] | None",
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Run MODEL one sample at a time: read one line, write one result line, immediately and unbuffered.

    A line is "0.1,0.2,0.3" (or with tabs, semicolons or spaces), "[0.1, 0.2, 0.3]" or {"ax": 0.1, "ay": 0.2,
    "az": 0.3}. A first line without numbers is a header; if it contains the file's feature names, columns are
    selected by name. A malformed line is reported by line number on standard error and skipped; if no line is
    valid, the exit code is 1. SIGTERM, Ctrl-C, the end of input and a closed output end it cleanly, with the
    state saved.

    The step in each result keeps counting across restarts: after a crash, resend the samples after the step
    printed in "resumed ... at step".

    If the network needs later samples, results come that many steps later, each with its step; those of the
    last steps are only available from lstm-edge predict.

    \b
    Example:
      read-sensor | lstm-edge stream har.onnx --state har.state.npz --json
      read-sensor | lstm-edge stream har.onnx --hold 5
    """  # noqa: D301
    window, stop = config.window, Stop()
    if window and (config.state or reset_every):
        raise InputError("--window has no state; remove --state and --reset-every")
    opened = open_model(model, options)
    samples, manifest, frames = sample_input(opened), opened.manifest, MainFrames(opened)
    if config.features and len(config.features) != samples.width:
        raise InputError(f"--features names {len(config.features)} columns, the model takes {samples.width}")
    names = config.features or manifest.signal.features
    parser = LineParser(samples.width, names, samples.spec.dtype, required=bool(config.features))
    hold = Hold(config.hold) if config.hold else None
    lines = ResultLines(manifest.task, "step", as_json=as_json, hold=hold)
    if not window and reset_every is None and manifest.from_reset:
        note_resets(
            manifest.reset_every,
            "states are reset every {}, and --window gives a result at every step as in training",
        )
    every = reset_every or manifest.reset_every or "never"
    stream = opened.stream(window=window) if window else opened.stream(reset_every=every)
    file = StateFile(stream, config.state, 1.0, hold)
    if file.steps:
        echo(f"resumed {config.state} at step {file.steps}", err=True)
    if sys.stdin.isatty():
        what = counted(samples.width, "number") + (f" ({', '.join(names)})" if names else "")
        end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
        echo(f"waiting for lines of {what}; press {end} to end", err=True)
    header_due = True
    try:
        for sample in _read_samples(parser, stop, config.strict):
            for _, step, values in frames.of(stream.step(samples.steps(sample)), file.steps):
                header, header_due = lines.header(len(values)) if header_due else "", False
                if not write_line(header + lines.line(values, step), stop):
                    return
            file.save_if_due()
    finally:
        file.save()


def _read_samples(parser: LineParser, stop: Stop, strict: bool) -> Iterator[npt.NDArray[Any]]:
    """Yield the samples of standard input, and report malformed lines.

    Raises:
        InputError: a malformed line if ``strict``, or the input can't be read.
        CheckFailedError: there were lines, but none was a valid sample.
    """
    number, bad, good = 0, 0, False
    for number, line in enumerate(read_lines(stop), 1):
        try:
            sample = parser.parse(line)
        except InputError as error:
            if strict:
                raise InputError(f"line {number}: {error}") from error
            bad += 1
            if bad <= _REPORTED:
                echo(f"line {number}: {error}; skipped", err=True)
            continue
        if sample is not None:
            good = True
            yield sample
    if bad > _REPORTED:
        echo(f"{bad - _REPORTED:,} more of {counted(number, 'line')} were skipped", err=True)
    if bad and not good:
        raise CheckFailedError(
            f"none of {counted(number, 'line')} was a valid sample; see the messages above for the format"
        )
