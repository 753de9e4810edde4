"""``lstm-edge demo``."""

import contextlib
import sys
import time
from itertools import pairwise
from pathlib import Path

import click
import numpy as np

from lstm_edge_runtime import Stream

from ..data.series import Data
from ._options import PATH, verb
from ._output import Output, Show, echo, json_value
from .train import describe_epoch

_COLUMNS = 48
_BARS = "▁▂▃▄▅▆▇█"


@verb("demo", extra="export")
@click.option(
    "-o",
    "--output",
    "folder",
    type=PATH,
    default=Path("demo-out"),
    help="Output folder.",
)
@click.pass_context
def command(ctx: click.Context, folder: Path, show: Show) -> Output:
    """Train, export, verify and run a network on real sensor data, in about a minute.

    The data are activities recorded by a smart watch's accelerometer and gyroscope. The
    demo trains an LSTM1 on 40 recordings, exports it to one ONNX file, verifies it
    against PyTorch, and then runs the file one sample at a time on 40 held-out
    recordings, each from reset and all in one long stream.

    \b
    Example:
      lstm-edge demo -o demo-out
    """  # noqa: D301
    say = (lambda _: None) if ctx.params["as_json"] else echo
    started = time.monotonic()
    from lstm_edge_runtime import load

    from .. import demo as _demo

    held_out = _demo.copy_recordings(folder)
    data = folder / _demo.DATA
    model_file = folder / _demo.MODEL
    steps, channels = held_out.series[0].x.shape
    say(f"data    BasicMotions: {steps} samples of {channels} channels per recording")
    run = _demo.train_run(
        folder,
        lambda epoch, epochs: show(
            0.5 * epoch.number / epochs, describe_epoch(epoch, epochs)
        ),
    )
    say(f"train   LSTM1 with 32 hidden units, {run.summary['epochs']} epochs on {data}")
    show(0.5, "tracing, exporting and verifying")
    cases = len(_demo.export_run(run, folder).manifest.equivalence["cases"])
    others = cases - 1  # the first case has the sizes of the trace
    say(f"export  {model_file}, equal to PyTorch at {others} other sizes")
    with load(model_file) as model:
        stream = model.stream(reset_every="never")  # reset before each recording
        say("run     one sample at a time, without torch")
        say(
            "        above: strength of the motion; below: initials of activities"
            " recognized"
        )
        for activity in range(len(held_out.classes)):
            say(_play(stream, held_out, activity))
        with contextlib.suppress(ImportError):  # matplotlib is optional
            _demo.plot_activities(stream, held_out, folder / _demo.PLOT)
            say(f"plot    {folder / _demo.PLOT}")
        show(0.8, "running all held-out recordings, also in PyTorch")
        result = _demo.measure(run, stream, held_out)
    result.check()
    document = {
        "accuracy": result.accuracy,
        **json_value(result),
        "seconds": time.monotonic() - started,
    }
    train = ("train", data, "-o", folder / "wide", "--hidden-size", 64)
    return Output(
        document, next=[("inspect", model_file), ("predict", model_file, data), train]
    )


def _play(stream: Stream, held_out: Data, activity: int) -> str:
    """Run a recording of an activity; return its strength and the initials of the
    activities recognized.
    """
    from ..demo import replay_recording

    recording = next(series.x for series in held_out.series if series.y[-1] == activity)
    labels = held_out.classes
    rate = held_out.signal.sampling_rate or 1.0
    answers = [
        int(logits.argmax()) for logits, _ in replay_recording(stream, recording)
    ]
    edges = np.linspace(0, len(answers), _COLUMNS + 1).astype(int)
    strength = np.linalg.norm(recording[:, :3], axis=1)
    levels = [
        strength[start:end].mean() / strength.max() for start, end in pairwise(edges)
    ]
    bars = (
        _BARS if (sys.stdout.encoding or "").lower().startswith("utf") else "_.-=+*%#"
    )
    drawn = "".join(bars[round((len(bars) - 1) * level)] for level in levels)
    initials = "".join(labels[answers[end - 1]][0] for _, end in pairwise(edges))
    wrong = max(
        (step for step, answer in enumerate(answers, 1) if answer != activity),
        default=0,
    )
    end = f"after {(wrong + 1) / rate:.1f} s"
    end = end if wrong < len(answers) else f"classified as {labels[answers[-1]]}"
    return f"        {drawn}  {labels[activity]}\n        {initials}  {end}"
