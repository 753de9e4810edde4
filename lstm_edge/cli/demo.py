"""``lstm-edge demo``."""

import contextlib
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.live import Live
from rich.text import Text

from ._options import PATH, verb
from ._output import Report, Screen, plain, progress
from .train import describe_epoch

if TYPE_CHECKING:
    from lstm_edge_runtime import Stream

    from ..data.series import Data

_SPEED = 8
"""Speed of the live part on a terminal, relative to real time."""
_COLUMNS = 48
_INDENT = " " * 8
_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#%"
_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red")


@verb("demo", extra="export")
@click.option(
    "-o", "--output", "folder", type=PATH, default=Path("demo-out"), metavar="FOLDER", help="Output folder."
)
@click.pass_context
def command(ctx: click.Context, folder: Path) -> Report:
    """Train, export, verify and run a network on real sensor data, in about a minute.

    The data are activities recorded by a smart watch's accelerometer and gyroscope. The demo trains an LSTM1
    on 40 recordings, exports it to one ONNX file, verifies it against PyTorch, and then runs the file one
    sample at a time on 40 held-out recordings, each from reset and all in one long stream.

    \b
    Example:
      lstm-edge demo
      lstm-edge demo -o /tmp/demo --json
    """  # noqa: D301
    screen, started = Screen(quiet=ctx.params["as_json"]), time.monotonic()
    with screen.status("importing torch and onnx"):
        from lstm_edge_runtime import load

        from .. import demo as _demo
    held_out = _demo.copy_recordings(folder)
    data, model_file = folder / _demo.DATA, folder / _demo.MODEL
    steps, channels = held_out.series[0].x.shape
    _say(screen, "data", f"BasicMotions: {steps} samples of {channels} channels per recording")
    with progress(quiet=True) as show:
        run = _demo.train_run(
            folder, lambda epoch, epochs: show(epoch.number / epochs, describe_epoch(epoch, epochs))
        )
    _say(screen, "train", f"LSTM1 with 32 hidden units, {run.summary['epochs']} epochs on {data}")
    with screen.status("tracing, exporting and verifying"):
        artifact = _demo.export_run(run, folder)
    cases = len(artifact.manifest.equivalence["cases"])
    _say(screen, "export", f"{model_file}, equal to PyTorch at {cases} other sizes")
    with load(model_file) as model:
        stream = model.stream(reset_every="never")  # reset before each recording
        _say(screen, "run", "one sample at a time, without torch")
        screen.print(f"{_INDENT}above: strength of the motion; below: activity so far", style="dim")
        for activity in range(len(held_out.classes)):
            _play(screen, stream, held_out, activity)
        with screen.status("running all held-out recordings, also in PyTorch"):
            result = _demo.measure(run, stream, held_out)
    result.check()
    document = {"accuracy": result.accuracy, **plain(result), "seconds": time.monotonic() - started}
    inspect, predict = f"lstm-edge inspect {model_file}", f"lstm-edge predict {model_file} {data}"
    return Report(document, next=[inspect, predict, f"lstm-edge train {data} -o runs/wide --hidden-size 64"])


def _say(screen: Screen, what: str, text: str) -> None:
    screen.print(Text.assemble((f"{what:<8}", "bold green"), text))


def _play(screen: Screen, stream: "Stream", held_out: "Data", activity: int) -> None:
    """Show a recording of an activity, live on a terminal."""
    from ..demo import replay_recording

    recording = next(one.x for one in held_out.series if one.y[-1] == activity)
    rate, labels = held_out.signal.sampling_rate or 1.0, held_out.classes
    plain = not screen.encoding.lower().startswith("utf")
    strength = np.linalg.norm(recording[:, :3], axis=1)
    said: list[int] = []
    live = Live(console=screen, auto_refresh=False) if screen.is_terminal else None
    with live or contextlib.nullcontext():
        for logits, _ in replay_recording(stream, recording):
            said.append(int(logits.argmax()))
            if live is not None:
                frame = timeline(strength, said, labels, labels[activity], rate, plain=plain)
                live.update(frame, refresh=True)
                time.sleep(1 / (rate * _SPEED))
    if live is None:
        screen.print(timeline(strength, said, labels, labels[activity], rate, plain=plain))


def recognized_from(said: Sequence[int], activity: int) -> int | None:
    """Return the first sample after which all predictions are right; None if the last one is wrong."""
    wrong = [step for step, answer in enumerate(said) if answer != activity]
    first = wrong[-1] + 1 if wrong else 0
    return first if first < len(said) else None


def timeline(
    signal: npt.NDArray[np.floating],
    said: Sequence[int],
    labels: Sequence[str],
    activity: str,
    rate: float,
    *,
    plain: bool = False,
) -> Group:
    """Draw the strength of a signal ``(L,)`` and, below it, the initials of the classes ``said`` so far."""
    bars = _ASCII_BARS if plain else _BARS
    edges = np.linspace(0, len(signal), _COLUMNS + 1).astype(int)
    strength = np.array([signal[start:end].mean() for start, end in pairwise(edges)])
    level = (strength / max(float(strength.max()), 1e-9) * (len(bars) - 1)).round().astype(int)
    done = int(np.searchsorted(edges[1:], len(said), side="right"))
    drawn = Text(_INDENT).append("".join(bars[height] for height in level[:done]).ljust(_COLUMNS), "dim")
    drawn.append(f"  {activity}", "bold")
    answers = Text(_INDENT)
    for end in edges[1 : done + 1]:
        answers.append(labels[said[end - 1]][0], _COLORS[said[end - 1] % len(_COLORS)])
    answers.append(" " * (_COLUMNS - done) + "  ")
    first = recognized_from(said, labels.index(activity))
    if len(said) < len(signal):
        answers.append(labels[said[-1]], _COLORS[said[-1] % len(_COLORS)])
    elif first is None:
        answers.append(f"classified as {labels[said[-1]]}", "bold red")
    else:
        answers.append(f"after {(first + 1) / rate:.1f} s")
    return Group(drawn, answers)
