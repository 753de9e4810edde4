"""Read a motion sensor at its sampling rate and print changes of the recognized
activity.

A Linux board's IMU through the kernel's Industrial I/O folder, or a recording played
back:

    python imu_reader.py har.onnx --iio /sys/bus/iio/devices/iio:device0 --rate 10
    python imu_reader.py har.onnx --replay recording.csv --rate 100

It needs lstm-edge-runtime[cpu] alone. Replace ``read_iio`` by your own driver: a
function that returns one sample, the features in the order in which the file names
them.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lstm_edge_runtime import Model, load

CHANNELS = {
    "acc_x": "accel_x", "acc_y": "accel_y", "acc_z": "accel_z",
    "gyr_x": "anglvel_x", "gyr_y": "anglvel_y", "gyr_z": "anglvel_z",
}  # fmt: skip
"""Maps the file's feature names to the kernel's; other names are used unchanged."""


def read_iio(folder: Path, features: tuple[str, ...]) -> Callable[[], np.ndarray]:
    """Return a function that reads one sample ``(I,)`` from an Industrial I/O device,
    in SI units.
    """
    channels = [CHANNELS.get(name, name) for name in features]
    scales = []
    for channel in channels:
        single = folder / f"in_{channel}_scale"
        shared = folder / f"in_{channel.rpartition('_')[0]}_scale"
        scales.append(float((single if single.exists() else shared).read_text()))
    raw = [folder / f"in_{channel}_raw" for channel in channels]

    def read() -> np.ndarray:
        return np.array(
            [float(path.read_text()) for path in raw], np.float32
        ) * np.float32(scales)

    return read


def replay(path: Path, features: tuple[str, ...]) -> Callable[[], np.ndarray]:
    """Return a function that reads the next row of a recording; StopIteration at its
    end.

    Raises ValueError for a recording without a feature.
    """
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or ()
        for name in features:
            if name not in columns:
                raise ValueError(
                    f"{path} has no column {name!r} (it has {', '.join(columns)})"
                )
        rows = [[float(row[name]) for name in features] for row in reader]
    samples = iter(np.array(rows, np.float32))
    return lambda: next(samples)


def ticks(seconds: float) -> Iterator[float]:
    """Yield at a steady rate, with the delay of each iteration; missed iterations are
    not caught up.
    """
    due = time.perf_counter()
    while True:
        delay = time.perf_counter() - due
        if delay < 0:
            time.sleep(-delay)
        yield max(delay, 0.0)
        due = max(due + seconds, time.perf_counter() - seconds)


def main() -> None:
    """Step at the sensor's rate until the source ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--iio", type=Path, metavar="FOLDER")
    source.add_argument("--replay", type=Path, metavar="CSV")
    parser.add_argument(
        "--rate", type=float, help="sampling rate in Hertz  [default: the file's]"
    )
    parser.add_argument(
        "--samples", type=int, help="number of samples after which to stop"
    )
    options = parser.parse_args()

    with load(options.model) as model:
        signal = model.manifest.signal
        if model.manifest.task is None or not signal.features:
            parser.error(f"{options.model} has no names of features and classes")
        rate = options.rate or signal.sampling_rate or parser.error("give --rate")
        try:
            if options.iio:
                read = read_iio(options.iio, signal.features)
            else:
                read = replay(options.replay, signal.features)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        run(model, read, rate, options.samples)


def run(
    model: Model, read: Callable[[], np.ndarray], rate: float, samples: int | None
) -> None:
    """Step at the sensor's rate, print each new label, and at the end the times."""
    interval = 1 / rate
    stream = model.stream(reset_every=model.manifest.reset_every or "never")
    last = None
    missed = 0
    slowest = 0.0
    try:
        for delay in itertools.islice(ticks(interval), samples):
            sample = read()
            start = time.perf_counter()
            result = stream.step(sample)
            slowest = max(slowest, time.perf_counter() - start)
            if delay > interval:
                missed += 1
            if result is None:  # no frame yet: a delay, or a frame takes more samples
                continue
            label = model.interpret(result).label
            if label != last:
                print(f"{stream.steps_seen * interval:8.2f} s  {label}", flush=True)
                last = label
    except (StopIteration, KeyboardInterrupt):
        pass
    print(
        f"{stream.steps_seen} samples, {missed} late by an interval, slowest step"
        f" {slowest * 1e6:.0f} us"
    )


if __name__ == "__main__":
    main()
