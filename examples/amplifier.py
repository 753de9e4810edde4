"""Amplifier models: two LSTMs learn a generated amplifier, and become programs for examples/lv2."""

import sys
import wave
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime.manifest import Signal

RATE, GAINS = 48000, {"clean": 2.0, "lead": 12.0}
WARM_UP, WINDOW = 128, 512


def guitar(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Return plucked strings, ``(L,)`` within -1 to 1."""
    time, sound = np.arange(int(seconds * RATE)) / RATE, np.zeros(int(seconds * RATE))
    for start in np.arange(0.02, seconds, 0.2):
        pitch, after = 82.4 * 2 ** (rng.integers(0, 30) / 12), np.maximum(time - start, 0)
        for k in range(1, 9):
            sound += np.exp(-after * (2 + k)) * np.sin(2 * np.pi * k * pitch * after) * rng.uniform(0, 1) / k
    return sound / np.abs(sound).max()


def amplifier(sound: np.ndarray, gain: float) -> np.ndarray:
    """Return what the amplifier makes of ``sound (L,)``: its bias follows the level, as a tube's does."""
    output, bias = np.empty_like(sound), 0.0
    for i, x in enumerate(sound):
        bias += 0.002 * (abs(x) - bias)
        output[i] = np.tanh(gain * (x - 0.3 * bias) + 0.2) - np.tanh(0.2 - 0.3 * gain * bias)
    return 0.4 * output  # within -1 to 1, so that no file clips it


class Amplifier(nn.Module):
    """An LSTM of 16 units, whose output is added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sound, ``(N, L, 1)`` as ``x``."""
        return self.head(self.lstm(x)[0]) + x


def train(net: nn.Module, dry: torch.Tensor, wet: torch.Tensor, steps: int) -> None:
    """Fit windows of ``(L,)`` sounds; the first samples of each are to settle the states."""
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for _ in range(steps):
        places = torch.randint(0, len(dry) - WINDOW, (32, 1)) + torch.arange(WINDOW)
        optimizer.zero_grad()
        found = net(dry[places][..., None])[:, WARM_UP:, 0]
        nn.functional.mse_loss(found, wet[places][:, WARM_UP:]).backward()
        optimizer.step()
        schedule.step()


def write_wav(path: Path, sound: np.ndarray) -> None:
    """Write ``sound (L,)`` within -1 to 1 in 32 bits."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 4, RATE, len(sound), "NONE", ""))
        file.writeframes((np.clip(sound, -1, 1) * (2**31 - 1)).astype("<i4").tobytes())


def read_wav(path: Path) -> np.ndarray:
    """Return the sound in a file of 32 bits, ``(L,)``."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i4") / (2**31 - 1)


def main(folder: Path, steps: int = 300) -> None:
    """Train and convert both models; write them, a dry sound, and what PyTorch makes of it, to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    dry, test = guitar(rng, 8.0), guitar(rng, 1.0)
    test *= 0.5
    write_wav(folder / "dry.wav", test)
    played = torch.from_numpy(np.concatenate([np.zeros(RATE), test])).float()  # after a second of silence
    for name, gain in GAINS.items():
        net = Amplifier()
        train(net, torch.from_numpy(dry).float(), torch.from_numpy(amplifier(dry, gain)).float(), steps)
        with torch.no_grad():
            wet = net.double()(played.double()[None, :, None])[0, RATE:, 0].numpy()
            net.float()
        right = amplifier(test, gain)
        print(f"{name}: error {np.sum((wet - right) ** 2) / np.sum(right**2):.2%} of the energy")
        write_wav(folder / f"{name}-pytorch.wav", wet)
        config = ExportConfig(outputs=("y",), signal=Signal(sampling_rate=float(RATE)))
        artifact = export(net.eval(), torch.randn(2, 50, 1), config)
        artifact.save(folder / f"{name}.onnx")
        (folder / f"{name}.lep").write_bytes(to_native(artifact.model))
        print(f"{name}: {artifact.notes[-1]}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/amplifier"))
