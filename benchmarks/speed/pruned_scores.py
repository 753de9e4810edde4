"""Scores of networks after ``train --density``, as streams on the test set.

    python -m benchmarks.speed.pruned_scores [--digits FOLDER] [--seeds N]

FOLDER is the folder ``recordings`` of the Free Spoken Digit Dataset
(https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0): 3,000 WAV files
of six speakers at 8 kHz, read here as the log energy of 20 mel bands in frames of 32
ms, every 16 ms. Recordings 0 to 4 of each speaker and digit are the test set, as the
dataset's authors have it; 5 to 9 are the validation set.
"""

import tempfile
import wave
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.common import parser, print_machine, quiet, table
from lstm_edge import TrainConfig, train
from lstm_edge.demo import DATA, copy_recordings

DENSITIES = (1.0, 0.5, 0.2, 0.1)
RATE = 8000
HOP = 128
"""Samples between two frames, which are twice as long."""
BANDS = 20


@cache
def mel_bands() -> np.ndarray:
    """Return the weight of each bin of the spectrum in each band."""
    mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    bins = np.linspace(0, RATE / 2, HOP + 1)[:, None]
    rise = (bins - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0, np.minimum(rise, fall))


def read_frames(path: Path) -> np.ndarray:
    """Return ``(frames, 20)``, the log energies of a recording."""
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    short = max(0, 2 * HOP - len(samples))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(samples, (0, short)), 2 * HOP
    )[::HOP]
    spectrum = np.fft.rfft(windows * np.hanning(2 * HOP + 1)[:-1])
    energies = np.abs(spectrum) ** 2 @ mel_bands()
    return np.log(energies + 1e-3).astype("float32")


def split_of(number: int) -> str:
    """Return the set of a speaker's recording of a digit."""
    if number < 5:
        return "test"
    return "validation" if number < 10 else "train"


def save_digits(recordings: Path, path: Path) -> None:
    """Write all recordings, named ``digit_speaker_index.wav``, to an ``.npz``."""
    files = sorted(recordings.glob("*.wav"))
    series = [read_frames(file) for file in files]
    lengths = np.array([len(frames) for frames in series])
    x = np.zeros((len(series), lengths.max(), BANDS), "float32")
    for row, frames in zip(x, series, strict=True):
        row[: len(frames)] = frames
    names = [file.stem.split("_") for file in files]
    digits = [digit for digit, _, _ in names]
    splits = [split_of(int(number)) for _, _, number in names]
    np.savez(path, x=x, y=digits, lengths=lengths, split=splits)


def score(data: Path, config: TrainConfig) -> float:
    """Return the accuracy of streams on the test set."""
    run = train(data, data.parent / "run", config=config, overwrite=True)
    return float(run.summary["test"]["streams"]["accuracy"])


def score_row(data: Path, hidden: int, epochs: int, seeds: int) -> list[str]:
    """Return the mean and the lowest accuracy at each density."""
    cells = []
    for density in DENSITIES:
        config = TrainConfig(
            hidden_size=hidden, epochs=epochs, patience=epochs, density=density
        )
        scores = [score(data, replace(config, seed=seed)) for seed in range(seeds)]
        cells.append(f"{mean(scores):.3f} ({min(scores):.3f})")
    return cells


def main() -> None:
    """Train and print the table of scores."""
    arguments = parser(__doc__)
    arguments.add_argument("--digits", type=Path, help="the folder `recordings`")
    arguments.add_argument("--seeds", type=int, default=3)
    options = arguments.parse_args()
    quiet()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_recordings(folder)
        cells = score_row(folder / DATA, 32, 60, options.seeds)
        rows.append(["the demo's data, 32 units, 60 epochs", *cells])
        if options.digits:
            save_digits(options.digits, folder / "digits.npz")
            cells = score_row(folder / "digits.npz", 64, 40, options.seeds)
            rows.append(["spoken digits, 64 units, 40 epochs", *cells])
    print(table(["accuracy, mean (lowest)", *DENSITIES], rows))
    print_machine("torch", "lstm-edge")


if __name__ == "__main__":
    main()
