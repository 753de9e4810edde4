"""Train with the default command line on the data sets in aeon's and sktime's wheels, and 1-NN DTW.

Each set is trained on windows from reset (``--carry off``, all there was before) and with carried states, and
each network is scored on windows from reset and on streams that run ten samples on without a reset.

Both train and test on the set's own split. aeon is no dependency of lstm-edge. Run this in an environment
with aeon (and sktime, of which only the data are read, for PLAID), and name the command to train with:

    python -m venv /tmp/aeon && /tmp/aeon/bin/pip install aeon && /tmp/aeon/bin/pip install --no-deps sktime
    /tmp/aeon/bin/python -m benchmarks.strangers.training --lstm-edge .venv/bin/lstm-edge

The reference is the nearest neighbor by dynamic time warping without a window, on the samples as they are.
"""

import json
import math
import platform
import resource
import statistics
import subprocess
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from aeon.datasets import load_from_ts_file
from aeon.distances import dtw_pairwise_distance

from benchmarks.common import Times, parser, table

SETS = (
    *("ItalyPowerDemand", "JapaneseVowels", "UnitTest", "BasicMotions", "Covid3Month_disc", "GunPoint"),
    *("PickupGestureWiimoteZ", "ArrowHead", "OSULeaf", "ACSF1", "PLAID"),
)
"""Every set with classes and its own test set in the wheels, from the quickest to the slowest."""
EPOCHS_OF = 400
"""Steps of the optimizer that a timed training takes."""
Data = dict[str, tuple[list[Any], Any]]
"""Samples ``(channels, time)`` and their classes, of ``TRAIN`` and ``TEST``."""


def read(name: str) -> Data:
    """Return a set as it ships."""
    origins = [wheel.origin for wheel in map(find_spec, ("aeon", "sktime")) if wheel and wheel.origin]
    folders = (Path(origin).with_name("datasets") / "data" / name for origin in origins)
    folder = next(filter(Path.is_dir, folders))
    found = {}
    for part in ("TRAIN", "TEST"):
        x, y = load_from_ts_file(str(folder / f"{name}_{part}.ts"))
        found[part] = ([np.asarray(sample, np.float64) for sample in x], np.asarray(y, str))
    return found


def compress(data: Data, every: int) -> Data:
    """Return every ``every``-th step as ``arcsinh((x - median) / MAD)``, of the training samples' numbers."""
    numbers = np.concatenate([sample.ravel() for sample in data["TRAIN"][0]])
    median = np.median(numbers)
    deviation = np.median(np.abs(numbers - median))
    return {
        part: ([np.arcsinh((sample[:, ::every] - median) / deviation) for sample in samples], labels)
        for part, (samples, labels) in data.items()
    }


def nearest_neighbor(data: Data) -> float:
    """Return the accuracy of the nearest training sample by DTW."""
    (train, train_y), (test, test_y) = data["TRAIN"], data["TEST"]
    nearest = dtw_pairwise_distance(test, train).argmin(axis=1)
    return float((train_y[nearest] == test_y).mean())


def write(path: Path, data: Data) -> None:
    """Write what ``lstm-edge train`` reads, with the set's own test set."""
    samples = [sample.T for part in ("TRAIN", "TEST") for sample in data[part][0]]
    lengths = np.array([len(sample) for sample in samples])
    x = np.zeros((len(samples), lengths.max(), samples[0].shape[1]), np.float32)
    for row, sample in zip(x, samples, strict=True):
        row[: len(sample)] = sample
    split = ["train"] * len(data["TRAIN"][1]) + ["test"] * len(data["TEST"][1])
    y = np.concatenate([data["TRAIN"][1], data["TEST"][1]])
    np.savez(path, x=x, y=y, lengths=lengths, split=np.array(split))


def main() -> None:
    """Print a table, and the versions that made it."""
    arguments = parser(__doc__)
    arguments.add_argument("--lstm-edge", default="lstm-edge", help="the command to train with")
    arguments.add_argument("--sets", nargs="*", default=SETS, choices=SETS)
    arguments.add_argument("--seeds", type=int, default=1, help="trainings per set; their mean is shown")
    arguments.add_argument(
        "--compress", type=int, metavar="N", help="take arcsinh of every N-th step instead"
    )
    arguments.add_argument("--time", action="store_true", help="compare the time of an epoch instead")
    options, more = arguments.parse_known_args()
    if options.time:
        show_times(options, more)
        return
    rows, scores = [], []
    for name in options.sets:
        data = compress(read(name), options.compress) if options.compress else read(name)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.npz"
            write(path, data)
            runs = [
                [*score(options, path, seed, "off", more), *score(options, path, seed, "auto", more)]
                for seed in range(options.seeds)
            ]
        scores.append([nearest_neighbor(data), *map(statistics.mean, zip(*runs, strict=True))])
        train, labels = data["TRAIN"]
        steps = max(sample.shape[1] for sample in train)
        shape = (len(train), steps, train[0].shape[0], len(set(labels)))
        rows.append([name, *shape, *(f"{value:.3f}" for value in scores[-1])])
        print(*rows[-1], flush=True)
    means = (f"{statistics.mean(column):.3f}" for column in zip(*scores, strict=True))
    head = "set, samples, steps, channels, classes, 1-NN DTW"
    scored = ("windows, `--carry off`", "streams, `--carry off`", "windows", "streams")
    print(table([*head.split(", "), *scored], [*rows, ["mean", "", "", "", "", *means]]))
    print(f"\naeon {version('aeon')}, {platform.machine()}, seeds {options.seeds}")


def show_times(options: Any, more: list[str]) -> None:
    """Print the processor time of an epoch with states from reset and carried, interleaved."""
    rows = []
    for name in options.sets:
        data = read(name)
        limits = [*more, "--patience", "1000000", "--epochs"]
        epochs = max(4, EPOCHS_OF // math.ceil(len(data["TRAIN"][1]) / 16))
        times = Times({"off": [], "auto": []})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.npz"
            write(path, data)
            for _ in range(options.seeds):
                for carry, seconds in times.items():
                    long, short = (
                        train(options, path, carry, [*limits, str(count)])[1] for count in (epochs, 1)
                    )
                    seconds.append((long - short) / (epochs - 1))
        ms = (f"{times.us(carry) / 1e3:.1f}" for carry in times)
        rows.append([name, *ms, f"{times.ratio('auto', 'off'):.2f}"])
    print(table(["set", "ms per epoch, --carry off", "ms per epoch", "ratio"], rows))


def train(options: Any, path: Path, carry: str, more: list[str]) -> tuple[dict[str, Any], float]:
    """Return what training prints, and its seconds of the processor."""
    run = path.with_suffix("")
    command = [options.lstm_edge, "train", path, "-o", run, "--overwrite", "--json", "--carry", carry, *more]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return json.loads(ran.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def score(options: Any, path: Path, seed: int, carry: str, more: list[str]) -> tuple[float, float]:
    """Return the test accuracy of windows from reset, and of streams that carry their states."""
    test = train(options, path, carry, [*more, *(["--seed", str(seed)] if seed else [])])[0]["test"]
    return test.get("windows", test)["accuracy"], test.get("streams", test)["accuracy"]


if __name__ == "__main__":
    main()
