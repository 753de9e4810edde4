"""A wake word in raw sound: the file contains the spectrum and takes samples in blocks
of any size.
"""

import sys
import wave
from pathlib import Path

import numpy as np
import torch
from listen import listen
from plots import Axis, Plot, Series, draw_png
from to_device import to_device
from torch import nn

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters.quantize import Samples
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Signal, Task

RATE = 8000
HOP = 128
BANDS = 20
LABELS = ("other", "wake word")
VOWELS = {
    "a": (750, 1200),
    "e": (500, 1900),
    "i": (300, 2300),
    "o": (450, 850),
    "u": (320, 700),
}
"""The first two formants, in hertz."""
WORD = "iau"
HEARD = 0.3
"""The word, and the seconds after its end in which the network has to hear it."""


def vowel(rng: np.random.Generator, name: str, pitch: float) -> np.ndarray:
    """Return a vowel of 0.12 to 0.25 seconds: overtones of a pitch under two
    formants.
    """
    time = np.arange(int(rng.uniform(0.12, 0.25) * RATE)) / RATE
    first, second = np.array(VOWELS[name]) * rng.uniform(0.92, 1.08)
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.05 * np.sin(25 * time))) / RATE
    sound = np.zeros(len(time))
    for k in range(1, int(RATE / 2 / pitch / 1.1)):
        loud = np.exp(-(((k * pitch - first) / 120) ** 2)) + 0.5 * np.exp(
            -(((k * pitch - second) / 180) ** 2)
        )
        sound += (loud + 0.01) * np.sin(k * phase)
    return sound * np.hanning(len(time)) ** 0.3 * rng.uniform(0.7, 1.3)


def sound(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, list[float]]:
    """Return words in noise, float32 within -1 and 1, and the seconds at which each
    wake word ends.
    """
    signal = rng.uniform(0.002, 0.02) * rng.normal(0, 1, int(seconds * RATE))
    ends = []
    at = int(rng.uniform(0.2, 0.8) * RATE)
    while True:
        names = "".join(rng.choice(list(VOWELS), rng.integers(1, 5)))
        names = WORD if rng.random() < 0.4 else names.replace(WORD, WORD[::-1])
        pitch = rng.uniform(100, 230)
        loud = rng.uniform(0.05, 0.2)
        word = loud * np.concatenate([vowel(rng, name, pitch) for name in names])
        if at + len(word) + HEARD * RATE > len(signal):
            return signal.astype(np.float32), ends
        signal[at : at + len(word)] += word
        at += len(word)
        ends += [at / RATE] if names == WORD else []
        at += int(rng.uniform(0.5, 1.0) * RATE)


def write_wav(path: Path, signal: np.ndarray) -> None:
    """Write 16-bit sound of one channel."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((signal.clip(-1, 1) * 32767).astype("<i2").tobytes())


class Bands(nn.Module):
    """The log energy of 20 mel bands in frames of 32 ms, every 16 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(2 * HOP))
        mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
        edges = 700 * (10 ** (mel / 2595) - 1)
        bins = np.linspace(0, RATE / 2, HOP + 1)[:, None]
        rise = (bins - edges[:-2]) / np.diff(edges)[:-1]
        fall = (edges[2:] - bins) / np.diff(edges)[1:]
        self.register_buffer(
            "mel",
            torch.tensor(np.maximum(0, np.minimum(rise, fall)), dtype=torch.float32),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(N, frames, 20)`` of samples ``(N, L)``."""
        z = torch.stft(
            x, 2 * HOP, HOP, window=self.window, center=False, return_complex=True
        )
        return torch.log((z.abs() ** 2).transpose(1, 2) @ self.mel + 1e-3)


class Detector(nn.Module):
    """A convolution over three frames of the bands, a GRU and two logits for each
    frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bands = Bands()
        self.conv = nn.Conv1d(BANDS, 24, 3, padding=1)
        self.gru = nn.GRU(24, 32, batch_first=True)
        self.head = nn.Linear(32, len(LABELS))

    def of_bands(self, y: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(N, frames, 2)`` of bands."""
        return self.head(
            self.gru(torch.relu(self.conv(y.transpose(1, 2))).transpose(1, 2))[0]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits ``(N, frames, 2)`` of samples ``(N, L)``."""
        return self.of_bands(self.bands(x))


def heard(ends: list[float], frames: int) -> np.ndarray:
    """Return True for each frame just after a wake word."""
    time = (np.arange(frames) * HOP + 2 * HOP) / RATE
    return np.any(
        [(time > end) & (time <= end + HEARD) for end in [-1.0, *ends]], axis=0
    )


def main(folder: Path, steps: int = 250) -> None:
    """Train, export, validate, quantize, listen to a WAV file and plot; write all files
    to ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    net = Detector()
    clips = [sound(rng, 6.0) for _ in range(120)]
    x = torch.from_numpy(np.stack([signal for signal, _ in clips]))
    bands = net.bands(x)  # they are not trained
    y = torch.from_numpy(
        np.stack([heard(ends, bands.size(1)) for _, ends in clips]).astype(np.int64)
    )
    optimizer = torch.optim.Adam(net.parameters(), 0.005)
    for _ in range(steps):
        rows = torch.randint(0, 100, (16,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            net.of_bands(bands[rows]).flatten(0, 1), y[rows].flatten()
        ).backward()
        optimizer.step()
    net.eval()
    right = (net(x[100:]).argmax(dim=2) == y[100:]).float().mean()
    print(f"train: {right:.1%} of the frames right in 20 clips it never heard")
    print(f"baseline: never a wake word {(y[100:] == 0).float().mean():.1%}")
    config = ExportConfig(
        inputs={"x": ("N", "L")},
        outputs=("logits",),
        task=Task("classification", "logits", LABELS),
        signal=Signal(("sound",), float(RATE)),
        stream=True,
    )
    model = to_device(
        net, x[:2, :4096], config, Samples({"x": x[100:].numpy()}), folder
    )
    print(f"streams: {load(folder / 'model.onnx').manifest.delay_steps} steps of delay")

    signal, ends = sound(np.random.default_rng(7), 12.0)
    write_wav(folder / "room.wav", signal)
    print("stream: wake words end at", ", ".join(f"{end:.2f} s" for end in ends))
    probabilities = listen(model, folder / "room.wav")
    times = (np.arange(len(probabilities) + 1) * HOP / RATE).tolist()
    word = heard(ends, len(probabilities)).astype(float).tolist()
    loudest = (
        np.abs(signal[: len(probabilities) * HOP]).reshape(-1, HOP).max(axis=1).tolist()
    )
    plots = [
        Plot(
            "The sound: loudest sample of every 16 ms",
            (Series("", times[1:], loudest),),
        ),
        Plot(
            "The wake word?",
            (
                Series("after a wake word", times, word, "bars", "pale"),
                Series("probability", times[1:], probabilities),
            ),
            Axis("seconds"),
        ),
    ]
    (folder / "wake_word.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/wake_word"))
