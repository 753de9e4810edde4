"""Voice activity detection: a streaming GRU on audio frames, one result every 20 milliseconds."""

import sys
from pathlib import Path

import numpy as np
import torch
from to_device import to_device
from torch import nn

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters.quantization import Samples
from lstm_edge_exporters.render import Axis, Plot, Series, draw_png
from lstm_edge_runtime.manifest import Signal, Task

RATE, FRAME, BANDS, LABELS = 8000, 160, 12, ("noise", "voice")


def sound(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a signal with voiced parts in noise, and for each frame whether it is voiced."""
    time = np.arange(int(seconds * RATE)) / RATE
    signal = rng.uniform(0.05, 0.3) * rng.normal(0, 1, len(time))
    signal += rng.uniform(0, 0.2) * np.sin(2 * np.pi * 50 * rng.integers(1, 5) * time)  # mains hum
    voiced, at = np.zeros(len(time), bool), rng.uniform(0.1, 0.6)
    while at < seconds - 0.3:
        end = at + rng.uniform(0.2, 0.8)
        part = (time >= at) & (time < end)
        pitch = rng.uniform(90, 250) * (1 + 0.1 * np.sin(2 * np.pi * 4 * time[part]))
        phase, formant = 2 * np.pi * np.cumsum(pitch) / RATE, rng.uniform(400, 900)
        loud = [np.exp(-(((k * pitch.mean() - formant) / 400) ** 2)) + 0.1 for k in range(1, 12)]
        signal[part] += rng.uniform(0.1, 0.2) * sum(w * np.sin(k * phase) for k, w in enumerate(loud, 1))
        voiced |= part
        at = end + rng.uniform(0.2, 0.9)
    return signal, voiced.reshape(-1, FRAME).mean(axis=1) > 0.5


def features(signal: np.ndarray) -> np.ndarray:
    """Return the log energy of 12 bands for each frame of 20 ms, ``(frames, 12)``."""
    frames = signal.reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.abs(np.fft.rfft(frames)[:, 1:]) ** 2
    bands = np.add.reduceat(power, np.geomspace(1, 60, BANDS).astype(int) - 1 + np.arange(BANDS) // 4, axis=1)
    return np.log(bands + 1e-4).astype(np.float32)


class Detector(nn.Module):
    """A GRU with two logits for each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(BANDS, 24, batch_first=True), nn.Linear(24, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of each frame."""
        return self.head(self.gru(x)[0])


def main(folder: Path, steps: int = 400) -> None:
    """Train, export, validate, quantize, stream and plot; write all files to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    clips = [sound(rng, 3.0) for _ in range(80)]
    x = torch.from_numpy(np.stack([features(signal) for signal, _ in clips]))
    y = torch.from_numpy(np.stack([voiced for _, voiced in clips]).astype(np.int64))
    net = Detector()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        rows = torch.randint(0, 64, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]).flatten(0, 1), y[rows].flatten()).backward()
        optimizer.step()
    net.eval()
    right = (net(x[64:]).argmax(dim=2) == y[64:]).float().mean()
    print(f"train: {right:.1%} of the frames right in 16 clips it never saw")
    loud = x.exp().sum(dim=2)
    least = max(loud[:64].flatten(), key=lambda limit: float(((loud[:64] > limit) == y[:64]).float().mean()))
    print(f"baseline: loudness above a limit {((loud[64:] > least) == y[64:]).float().mean():.1%}")
    task, names = Task("classification", "logits", LABELS), tuple(f"band_{n}" for n in range(BANDS))
    config = ExportConfig(outputs=("logits",), task=task, signal=Signal(names, RATE / FRAME))
    model = to_device(net, x[:3, :5], config, Samples({"x": x[64:].numpy()}), folder)

    signal, voiced = sound(np.random.default_rng(7), 6.0)
    stream = model.stream()
    logits = np.array([stream.step(frame).copy() for frame in features(signal)])
    voice = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    print(f"stream: {len(voice)} frames, {np.mean((voice > 0.5) == voiced):.1%} right")
    times = (np.arange(len(voice) + 1) * FRAME / RATE).tolist()
    spoken = Series("spoken", times, voiced.astype(float).tolist(), "bars", "pale")
    probability = Series("probability", times[1:], voice.tolist())
    loudest = Series("", times[1:], np.abs(signal).reshape(-1, FRAME).max(axis=1).tolist())
    plots = [
        Plot("sound", "The sound: loudest sample of each frame", (loudest,)),
        Plot("voice", "A voice?", (spoken, probability), Axis("seconds")),
    ]
    (folder / "voice.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/voice"))
