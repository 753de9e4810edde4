"""``lstm-edge stream``: read samples from standard input, write one result line each to
standard output.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from lstm_edge.data.sample_input import SampleInput
from lstm_edge.results import MainFrames, is_classification
from lstm_edge_exporters.options import option
from lstm_edge_runtime import Model, Stream, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    NotFoundError,
    StateError,
)
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.sliding import SlidingStream
from lstm_edge_runtime.state import read_state

from ._lines import HeaderError, LineParser, ResultLines, read_lines, write_line
from ._options import (
    ModelOptions,
    VerbCommand,
    model_argument,
    options_of,
    reset_every_option,
)
from ._output import echo, note

_REPORTED = 5
"""Maximum number of malformed lines that are reported one by one."""


@dataclass(frozen=True)
class StreamConfig:
    """Options of input and output."""

    state: Path | None = option(
        None,
        "Keep the state in FILE, and resume from it.",
        metavar="FILE",
        role="output",
    )
    features: tuple[str, ...] = option(
        (), "Columns of the header, in MODEL's order.", metavar="NAMES"
    )
    window: int | None = option(
        None, "Run the last N samples from reset at every step.", low=1, metavar="N"
    )
    hold: int = option(
        1, "Change the label once it stayed for N steps.", low=1, metavar="N"
    )


@click.command("stream", cls=VerbCommand)
@model_argument
@options_of(config=StreamConfig)
@reset_every_option
@click.option(
    "--json", "as_json", is_flag=True, help="Write JSON Lines instead of CSV."
)
@options_of(options=ModelOptions)
def command(
    model: Path,
    config: StreamConfig,
    reset_every: int | str | None,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Run MODEL one sample at a time: read one line, write one result line, immediately
    and unbuffered.

    A line is "0.1,0.2,0.3", or with tabs, semicolons or spaces. A first line without
    numbers is a header; if MODEL has feature names, columns are selected by name. A
    malformed line is reported on standard error and skipped; if no line is valid, the
    exit code is 1. SIGTERM, Ctrl-C, the end of input and a closed output end it with
    the state saved. After a crash, resend the samples after the step printed in
    "resumed ... at step".

    Example: read-sensor | lstm-edge stream har.onnx --state har.state --json
    """
    if config.window and (config.state or reset_every):
        raise InputError("--window has no state; remove --state and --reset-every")
    opened = load(model, **vars(options))
    samples = SampleInput(opened)
    manifest = opened.manifest
    _check_config(config, opened, samples)
    names = config.features or manifest.signal.features
    parser = LineParser(
        samples.width,
        names,
        samples.spec.dtype,
        needs_header=bool(config.features),
    )
    lines = ResultLines(manifest.task, "step", as_json=as_json, hold=config.hold)
    stream = _open_stream(opened, config.window, reset_every)
    file = StateFile(stream, config.state)
    if file.steps:
        echo(f"resumed {config.state} at step {file.steps}", err=True)
    if sys.stdin.isatty():
        expected = ", ".join(names)
        echo(f"waiting for lines of {samples.width} numbers: {expected}", err=True)
    frames = MainFrames(opened)
    try:
        for sample in _read_samples(parser):
            result = stream.step(samples.steps(sample))
            for frame in frames.of(result, file.steps):
                write_line(lines.line(frame.values, frame.step))
            file.save(age=1)
    except BrokenPipeError:  # nobody reads any more
        return
    finally:
        file.save()


def _check_config(config: StreamConfig, model: Model, samples: SampleInput) -> None:
    """Raise InputError for options that do not fit the model."""
    if config.features and len(config.features) != samples.width:
        raise InputError(
            f"--features names {len(config.features)} columns, the model takes"
            f" {samples.width}"
        )
    if config.hold > 1 and not is_classification(model.manifest.task):
        raise InputError("--hold confirms labels, and the model has none; remove it")


def _open_stream(
    model: Model, window: int | None, reset_every: int | str | None
) -> Stream | SlidingStream:
    """Open a stream; a note says what happens at a training window."""
    if window:
        return model.stream(window=window)
    manifest = model.manifest
    reset: Any = reset_every or manifest.reset_every or "never"
    if reset_every is None and manifest.from_reset:
        effect = f"states are reset every {reset} steps"
        if reset == "never":
            effect = "states are carried on"
        note(
            f"training windows started from reset; {effect}; see --window and"
            " --reset-every"
        )
    return model.stream(reset_every=reset)


def _read_samples(parser: LineParser) -> Iterator[Array]:
    """Yield the samples of standard input, and report malformed lines."""
    number = 0
    bad = 0
    good = False
    for number, line in enumerate(read_lines(), 1):
        try:
            sample = parser.parse(line)
        except HeaderError:
            raise
        except InputError as error:
            bad += 1
            if bad <= _REPORTED:
                echo(f"line {number}: {error}; skipped", err=True)
            continue
        if sample is not None:
            good = True
            yield sample
    if bad > _REPORTED:
        echo(f"{bad - _REPORTED:,} more of {number:,} lines were skipped", err=True)
    if bad and not good:
        raise CheckFailedError(
            f"none of {number:,} lines was a valid sample; see the messages above"
        )


class StateFile:
    """Saves a stream's state with the number of its steps; does nothing without a
    path.
    """

    def __init__(self, stream: Stream | SlidingStream, path: Path | None) -> None:
        """Restore ``stream`` from ``path`` if it exists, and write it."""
        self._stream: Any = stream
        self._path = path
        self._before = 0
        self._saved_at = 0.0
        if path is not None:
            with contextlib.suppress(NotFoundError):
                self._restore(path)
        self.save()

    @property
    def steps(self) -> int:
        """Number of time steps since the first start, including earlier processes."""
        return self._before + int(self._stream.steps_seen)

    def save(self, *, age: float = 0) -> None:
        """Write the state atomically, if the file is at least ``age`` seconds old."""
        if self._path is None:
            return
        if time.monotonic() - self._saved_at >= age:
            self._stream.state.save(self._path, steps=np.array(self.steps))
            self._saved_at = time.monotonic()

    def _restore(self, path: Path) -> None:
        """Continue a stream from a saved state."""
        state, arrays = read_state(path)
        steps = arrays.get("steps", np.array(0.5))
        if steps.dtype.kind not in "iu" or steps.shape:
            raise FileFormatError(
                f"{path} is not a state that lstm-edge stream saved; remove it"
            )
        try:
            self._stream.restore(state)
        except StateError as error:
            raise StateError(
                f"{path} is the state of another model; remove it ({error})"
            ) from error
        self._before = int(steps)
