"""Listen to a WAV file as to a microphone, in blocks, and print when a label is heard;
needs no torch.

python examples/listen.py out/model-int8.onnx out/room.wav
"""

import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import LstmEdgeError

BLOCK = 0.05
"""Seconds of sound at a time."""
HOLD = 0.5
"""Seconds after which a label may be heard again."""


def read_blocks(path: Path, rate: float) -> Iterator[np.ndarray]:
    """Yield the samples of a WAV file in blocks, float32 within -1 and 1.

    Raises:
        ValueError: it is not 16-bit sound of one channel and ``rate`` samples a second,
            or has no samples.
        OSError: it can't be read.
    """
    try:
        file = wave.open(str(path), "rb")  # noqa: SIM115  closed below
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is not a WAV file of plain samples"
            f" ({str(error) or 'it ends early'})"
        ) from None
    with file:
        got = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
        if got != (1, 16, rate):
            raise ValueError(
                f"{path} has {got[0]} channels of {got[1]} bits, {got[2]} samples a"
                f" second; expected 1 of 16, {rate:g}: ffmpeg -i {path} -ac 1 -ar"
                f" {rate:g} -c:a pcm_s16le new.wav"
            )
        if not file.getnframes():
            raise ValueError(f"{path} has no samples")
        while block := file.readframes(int(BLOCK * rate)):
            yield (
                np.frombuffer(block[: len(block) // 2 * 2], "<i2").astype(np.float32)
                / 32768
            )


def listen(model: Model, path: Path) -> list[float]:
    """Print when the second label is heard; return its probability in each frame.

    Raises:
        ValueError: as ``read_blocks``; or the model is no classifier of raw sound at a
            known rate.
    """
    task = model.manifest.task
    rate = model.manifest.signal.sampling_rate
    if (
        task is None
        or len(task.labels) < 2
        or not rate
        or len(model.inputs[0].axes) != 2
    ):
        raise ValueError(
            "expected a model that has labels and a sampling rate, of samples (N, L)"
        )
    stream = model.stream(reset_every=model.manifest.reset_every or "never")
    probabilities: list[float] = []
    quiet_until = 0.0
    for block in read_blocks(path, rate):
        frames = [
            float(model.interpret(logits).probabilities[1])
            for logits in model.frames(stream.process(block))
        ]
        probabilities += frames
        now = stream.steps_seen / rate
        if max(frames, default=0) > 0.5 and now >= quiet_until:
            print(f"{now:.2f} s: {task.labels[1]} ({max(frames):.0%})")
            quiet_until = now + HOLD
    return probabilities


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(
            "expected a model and a WAV file: python examples/listen.py"
            " out/model-int8.onnx out/room.wav"
        )
    try:
        listen(load(sys.argv[1]), Path(sys.argv[2]))
    except (LstmEdgeError, ValueError, OSError) as error:
        sys.exit(f"error: {error}")
