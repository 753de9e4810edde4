"""Anomaly detection on a pump: the error of a forecast is the anomaly score."""

import sys
from pathlib import Path

import numpy as np
from plots import Axis, Plot, Series, draw_png
from to_device import to_device

from lstm_edge import DataConfig, TrainConfig, deployable, train
from lstm_edge_exporters.quantize import Samples
from lstm_edge_runtime import Model

NAMES = ("flow", "pressure")
WINDOW = 60
MEAN = 8
LONG = 60
"""Channels; number of samples of a training window, of the mean for the score, and of a
fault."""
FAULTS = {
    "leak": np.tile([-1.0, 0.0], (LONG, 1)),
    "clogged filter": np.linspace((0, 0), (0, 0.15), LONG),
}


def pump(seed: int, steps: int) -> np.ndarray:
    """Return flow and pressure of a healthy pump on a varying load, ``(steps, 2)``;
    pressure lags.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(-4, steps) + rng.uniform(0, 1000)
    load = np.sin(time / 10) + 0.4 * np.sin(time / 37)
    clean = np.stack([20 + 5 * load[4:], 3 + 0.4 * load[:-4]], axis=1)
    return (clean + rng.normal(0, (0.15, 0.02), (steps, 2))).astype(np.float32)


def anomaly(model: Model, x: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return at each sample the mean of the last 8 errors of the forecast, in units of
    its usual error.
    """
    stream = model.stream()
    predicted = np.full_like(x, np.nan)
    for at, sample in enumerate(x[:-1], 1):
        predicted[at] = stream.step(sample)
    errors = np.sqrt((((x - predicted) / usual) ** 2).mean(axis=1))
    errors[:WINDOW] = 1.0  # a forecast needs past samples
    return np.convolve(errors, np.ones(MEAN) / MEAN)[: len(x)]


def main(folder: Path, epochs: int = 30, records: int = 20) -> None:
    """Train, export, validate, quantize, stream and plot; write all files to
    ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [",".join(NAMES)] + [
        f"{flow:.3f},{pressure:.4f}" for flow, pressure in pump(0, 6000)
    ]
    (folder / "healthy.csv").write_text("\n".join(rows) + "\n")
    data = DataConfig(forecast=NAMES, units=("l/min", "bar"), window=WINDOW, stride=5)
    config = TrainConfig(epochs=epochs, batch_size=32)
    run = train(
        folder / "healthy.csv",
        folder / "run",
        data_config=data,
        config=config,
        overwrite=True,
    )
    usual = np.array([run.summary["test"]["streams"]["rmse"][name] for name in NAMES])
    healthy = pump(1, 3000)
    last = np.sqrt(np.mean((healthy[1:] - healthy[:-1]) ** 2, axis=0))
    print(
        "train: the next sample to {:.2f} l/min and {:.3f} bar;".format(*usual), end=" "
    )
    print("by repeating the last one {:.2f} and {:.3f}".format(*last))

    cuts = range(0, len(healthy) - WINDOW, WINDOW)
    x = np.stack([healthy[at : at + WINDOW] for at in cuts])
    truth = healthy[[at + WINDOW for at in cuts]]
    module, example, config = deployable(run)
    model = to_device(module, example, config, Samples({"x": x}, targets=truth), folder)

    # Both thresholds are set on a healthy record: nothing in it may raise an alarm.
    limit = 1.1 * anomaly(model, healthy, usual).max()
    low = healthy.min(axis=0)
    high = healthy.max(axis=0)

    def alarms(x: np.ndarray) -> np.ndarray:
        return np.array(
            [anomaly(model, x, usual) > limit, ((x < low) | (x > high)).any(axis=1)]
        )

    clean = [pump(100 + number, 1000) for number in range(records)]
    false = np.sum([alarms(x).sum(axis=1) for x in clean], axis=0)
    print(
        f"stream: {false[0]} false alarms in {records * 1000:,} healthy samples; by"
        f" limits {false[1]}"
    )
    for name, fault in FAULTS.items():
        raised = np.array(
            [
                alarms(np.r_[x[:500], x[500 : 500 + LONG] + fault])[:, 500:]
                for x in clean
            ]
        )
        after = np.median(
            np.where(raised[:, 0].any(axis=1), raised[:, 0].argmax(axis=1), LONG)
        )
        count, simple = raised.any(axis=2).sum(axis=0)
        print(
            f"stream: {name}, {count} of {records} found after {after:.0f} samples; by"
            f" limits {simple}"
        )

    x = clean[0]
    for at, fault in zip((300, 700), FAULTS.values(), strict=True):
        x[at : at + LONG] += fault
    time = list(range(len(x)))
    score = anomaly(model, x, usual)
    score[:WINDOW] = np.nan
    edges = [0, 300, 300 + LONG, 700, 700 + LONG, len(x)]
    faults = [0, 4, 0, 4, 0]
    scores = (
        Series("fault", edges, faults, "bars", "pale"),
        Series("score", time, score.tolist(), color="blue"),
        Series("alarm above", time, [limit] * len(x), color="red"),
    )
    plots = [
        Plot("Flow in l/min: a leak at 300", (Series("", time, x[:, 0].tolist()),)),
        Plot(
            "Pressure in bar: a filter clogs from 700",
            (Series("", time, x[:, 1].tolist()),),
        ),
        Plot("Error of the forecast by its usual error", scores, Axis("sample")),
    ]
    (folder / "anomaly.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/anomaly"))
