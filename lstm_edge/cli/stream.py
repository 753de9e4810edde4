"""``lstm-edge stream``: read samples from standard input, write one result line each to standard output."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
import numpy.typing as npt

from lstm_edge.data.sample_input import sample_input
from lstm_edge.hold import Hold
from lstm_edge.results import MainFrames
from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import CheckFailedError, InputError, counted, printable

from ._line import FrameParser, LineParser
from ._model import ModelOptions, open_model
from ._options import json_lines_option, model_argument, options_of, reset_every_option
from ._output import echo, note_resets
from ._pipes import LONGEST, LinePipe, stopped_by_signals
from ._results import ResultLines
from ._statefile import StateFile

if TYPE_CHECKING:
    from lstm_edge_runtime import Model, Stream
    from lstm_edge_runtime.sliding import SlidingStream

_STDIN, _STDOUT = 0, 1
_REPORTED = 5
"""Malformed lines that are reported one by one."""
_END = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
Parser = Callable[[bytes], "npt.NDArray[Any] | None"]


@dataclass(frozen=True)
class StreamConfig:
    """What is read, and what is written."""

    state: Path | None = option(
        None, "Save the state to FILE, and resume from it after a restart.", metavar="FILE"
    )
    save_every: float = option(
        1.0,
        "Maximum age of FILE while samples arrive; 0 saves after each. It is also saved at the end.",
        low=0,
        metavar="SECONDS",
    )
    binary: str | None = option(
        None,
        "Read raw numbers of this type in native byte order, sample by sample, instead of text.",
        choices=("float32", "float64", "int16", "int32"),
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
    every: int = option(1, "Write every Nth result.", low=1, metavar="N")
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
    "az": 0.3}. A first line of text without numbers is a header; if it contains the file's feature names,
    columns are selected by name. A malformed line is reported by line number on standard error and skipped;
    if no line is valid, the exit code is 1. SIGTERM, Ctrl-C, the end of input and a closed output
    end it cleanly, with the state saved.

    The step in each result keeps counting across restarts: after a crash, resend the samples after the step
    printed in "resumed ... at step".

    If the network needs later samples, results come that many steps later, each with the step that it is of;
    those of the last steps are only available from lstm-edge predict.

    \b
    Example:
      read-sensor | lstm-edge stream har.onnx --state har.state.npz --json
      read-sensor | lstm-edge stream har.onnx --hold 5 --every 50
    """  # noqa: D301
    window, features, binary = config.window, config.features, config.binary
    if window and (config.state or reset_every):
        raise InputError("--window has no state; remove --state and --reset-every")
    with stopped_by_signals() as stop:
        opened = open_model(model, options)
        samples = sample_input(opened)
        manifest = opened.manifest
        if features and len(features) != samples.width:
            raise InputError(f"--features names {len(features)} columns, the model takes {samples.width}")
        named = features or manifest.signal.features
        read: Parser = LineParser(
            samples.width, named, samples.spec.dtype, required=bool(features)
        ).parse_bytes
        if binary:
            read = FrameParser(samples.width, binary, samples.spec.dtype).parse_bytes

        def parse(line: bytes) -> "npt.NDArray[Any] | None":
            sample = read(line)
            return None if sample is None else samples.steps(sample)

        frame = np.dtype(binary).itemsize * samples.width if binary else 0
        held = Hold(config.hold) if config.hold else None
        lines = ResultLines(manifest.task, "step", as_json=as_json, hold=held)
        if not window and reset_every is None and manifest.from_reset:
            note_resets(
                manifest.reset_every,
                "states are reset every {}, and --window gives a result at every step as in training",
            )
        every_steps = reset_every or manifest.reset_every or "never"
        stream = opened.stream(window=window) if window else opened.stream(reset_every=every_steps)
        kept = StateFile(stream, config.state, config.save_every, held)
        if kept.steps:
            echo(f"resumed {config.state} at step {kept.steps}", err=True)
        if sys.stdin.isatty():
            what = counted(samples.width, "number") + (f" ({', '.join(named)})" if named else "")
            echo(f"waiting for lines of {what}; press {_END} to end", err=True)
        pipe = LinePipe(_STDIN, _STDOUT, stop, frame)
        try:
            serve(opened, stream, pipe, parse, lines, kept, config.every, config.strict)
        finally:
            kept.save()


def serve(
    model: "Model",
    stream: "Stream | SlidingStream",
    pipe: LinePipe,
    parse: Parser,
    lines: ResultLines,
    kept: StateFile,
    every: int,
    strict: bool,
) -> None:
    """Write every ``every``-th result until end of input, a broken pipe or a signal.

    Raises:
        InputError: a malformed line if ``strict``, or the input can't be read.
        CheckFailedError: there were lines, but none was a valid sample.
    """
    header_due, frames = True, MainFrames(model)
    for sample in _samples(pipe, parse, kept.patience, strict):
        for frame, step, values in () if sample is None else frames.of(stream.step(sample), kept.steps):
            if frame % every:
                lines.take(values)
                continue
            text = lines.line(values, step)
            if header_due:
                text, header_due = lines.header(len(values)) + text, False
            if not pipe.write(printable(text).encode()):
                return
        kept.save_if_due()


def _samples(
    pipe: LinePipe, parse: Parser, patience: Callable[[], float | None], strict: bool
) -> Iterator["npt.NDArray[Any] | None"]:
    """Yield the sample of each line, None for a line or a time without one; raises as ``serve``."""
    number, bad, good = 0, 0, False
    while (raw := pipe.read(patience())) is not None:
        sample = None
        if raw:
            number += 1
            try:
                if len(raw) > LONGEST:
                    raise InputError(f"longer than {LONGEST} bytes")  # noqa: TRY301
                sample = parse(raw)
            except InputError as error:
                if strict:
                    raise InputError(f"line {number}: {error}") from error
                bad += 1
                if bad <= _REPORTED:
                    echo(f"line {number}: {error}; skipped", err=True)
        good |= sample is not None
        yield sample
    if bad > _REPORTED:
        echo(f"{bad - _REPORTED:,} more of {counted(number, 'line')} were skipped", err=True)
    if bad and not good:
        raise CheckFailedError(
            f"none of {counted(number, 'line')} was a valid sample; see the messages above for the format"
        )
