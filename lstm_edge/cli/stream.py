"""``lstm-edge stream``: samples on standard input, a result line for each on standard output."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge.data.sample_input import sample_input
from lstm_edge_runtime.errors import InputError

from ._line import LineParser
from ._model import device_option, engine_option, model_argument, open_model, threads_option
from ._pipes import LONGEST, LinePipe, stopped_by_signals
from ._results import ResultLines, main_output, top_rows
from ._statefile import StateFile

if TYPE_CHECKING:
    from lstm_edge_runtime import Model, Stream

__all__ = ["command", "serve"]

_STDIN, _STDOUT = 0, 1


@click.command("stream")
@model_argument
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the state there and go on from it after a restart.",
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How old FILE may be while samples come; 0 saves after each. It is also saved at the end.",
)
@click.option("--strict", is_flag=True, help="Stop at a malformed line instead of skipping it.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON lines instead of CSV.")
@device_option
@engine_option
@threads_option
def command(
    model: Path,
    state: Path | None,
    save_every: float,
    strict: bool,
    as_json: bool,
    device: str,
    engine: Any,
    threads: Any,
) -> None:
    """Run MODEL one sample at a time: a line in, a result line out, at once and unbuffered.

    A line is "0.1,0.2,0.3", "[0.1, 0.2, 0.3]" or {"ax": 0.1, "ay": 0.2, "az": 0.3}. A first CSV line without
    numbers is a header; where it holds the file's feature names, columns are picked by them. A malformed
    line is reported by its number on standard error and skipped. SIGTERM, Ctrl-C, the end of input and a
    closed output all end it cleanly, with the state saved.

    The step in each result counts on across restarts: after a crash, send again what comes after the step
    that "resumed ... at step" names.

    \b
    Example:
      read-sensor | lstm-edge stream har.onnx --state har.state.npz --json
    """  # noqa: D301
    with stopped_by_signals() as stop:
        opened = open_model(model, device, threads, engine)
        samples = sample_input(opened)
        manifest = opened.interface
        parser = LineParser(samples.width, manifest.signal.features, samples.spec.dtype)
        lines = ResultLines(manifest.task, "step", as_json=as_json)
        stream = opened.stream()
        kept = StateFile(stream, state, save_every)
        if kept.steps:
            click.echo(f"resumed {state} at step {kept.steps}", err=True)
        pipe = LinePipe(_STDIN, _STDOUT, stop)
        try:
            serve(opened, stream, pipe, parser, lines, kept, strict)
        finally:
            kept.save()


def serve(
    model: "Model",
    stream: "Stream",
    pipe: LinePipe,
    parser: LineParser,
    lines: ResultLines,
    kept: StateFile,
    strict: bool,
) -> None:
    """Answer samples until the input ends, the reader goes or a signal comes."""
    number, header_due = 0, True
    while (raw := pipe.read(kept.patience())) is not None:
        if raw:
            number += 1
            try:
                if len(raw) > LONGEST:
                    raise InputError(f"longer than {LONGEST} bytes")  # noqa: TRY301
                sample = parser.parse(raw.decode("utf-8", "replace"))
            except InputError as error:
                if strict:
                    raise InputError(f"line {number}: {error}") from error
                click.echo(f"line {number}: {error}; skipped", err=True)
                sample = None
            if sample is not None:
                values = top_rows(np.atleast_1d(main_output(model, stream.step(sample))), 1)[0]
                text = lines.line(kept.steps, values)
                if header_due:
                    text, header_due = lines.header(len(values)) + text, False
                if not pipe.write(text.encode()):
                    return
        kept.save_if_due()
