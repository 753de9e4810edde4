"""Remaining life of a machine in hours: regression on windows of a fleet's sensor logs."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from to_device import to_device

from lstm_edge import DataConfig, TrainConfig, deployable, train
from lstm_edge_exporters.quantization import Samples
from lstm_edge_exporters.render import Axis, Plot, Series, draw_png

WINDOW, MOST = 30, 120.0
"""Hours per window; maximum remaining life in hours, above which the sensors show no wear."""


def machine(rng: np.random.Generator) -> np.ndarray:
    """Return the log of one machine until it fails: vibration, temperature, load and remaining hours."""
    life = int(rng.integers(150, 300))
    hours = np.arange(life)
    wear = np.exp((hours - life) / rng.uniform(35, 45))
    load = 1 + 0.3 * np.sin(hours / 12 + rng.uniform(0, 6)) + rng.normal(0, 0.05, life)
    vibration = 0.5 * load + 2 * wear + rng.normal(0, 0.05, life)
    temperature = 40 + 10 * load + 15 * wear + rng.normal(0, 0.8, life)
    return np.stack([vibration, temperature, load, np.minimum(life - hours, MOST)], axis=1)


def windows(logs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return windows ``(N, 30, 3)`` of every fifth hour and the remaining life after each, ``(N, 1)``."""
    cut = [log[end - WINDOW : end] for log in logs for end in range(WINDOW, len(log) + 1, 5)]
    return np.stack(cut)[:, :, :3].astype(np.float32), np.stack(cut)[:, -1, 3:]


def rmse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Return the root mean square error."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def main(folder: Path, epochs: int = 40, machines: int = 40) -> None:
    """Train, export, validate, quantize, stream and plot; write all files to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    fleet = [machine(rng) for _ in range(machines)]
    rows = ["machine,vibration,temperature,load,remaining"]
    for number, log in enumerate(fleet):
        rows += [f"{number},{v:.3f},{t:.2f},{load:.3f},{left:.0f}" for v, t, load, left in log]
    (folder / "fleet.csv").write_text("\n".join(rows) + "\n")

    data = DataConfig(series="machine", targets=("remaining",), units=("h",), window=WINDOW, stride=5)
    config = TrainConfig(epochs=epochs, batch_size=64)
    run = train(folder / "fleet.csv", folder / "run", data_config=data, config=config, overwrite=True)
    print(f"train: RMSE {run.summary['test']['rmse']['remaining']:.1f} h on machines it never saw")

    unseen = [machine(np.random.default_rng(seed)) for seed in range(101, 121)]
    x, truth = windows(unseen)
    module, example, config = deployable(run)
    model = to_device(module, example, config, Samples({"x": x}, targets=truth), folder)

    known, remaining = windows(fleet)
    flat, new = (np.c_[each.reshape(len(each), -1), np.ones(len(each))] for each in (known, x))
    linear = (new @ np.linalg.lstsq(flat, remaining, rcond=None)[0]).clip(0, MOST)
    mean, fit = rmse(remaining.mean(), truth), rmse(linear, truth)
    print(f"baseline: RMSE {mean:.1f} h by the mean, {fit:.1f} h by a linear fit to the same windows")

    # States were carried in training, so a stream runs from a machine's first hour to its last.
    stream, predicted = model.stream(), []
    for log in unseen:
        stream.reset()  # another machine
        hours = [float(stream.step(hour)[0]) for hour in log[:, :3].astype(np.float32)]
        predicted += hours[WINDOW - 1 :]
    predicted, true = np.array(predicted), np.concatenate([log[WINDOW - 1 :, 3] for log in unseen])
    late = true <= 24
    last_day = rmse(predicted[late], true[late])
    print(f"stream: RMSE {rmse(predicted, true):.1f} h, on the last day {last_day:.1f} h")

    plots, at = [], 0
    for number, log in enumerate(unseen[:2], 1):
        hours, end = list(range(WINDOW, len(log) + 1)), at + len(log) - WINDOW + 1
        limited = Series("true, 120 at most", hours, true[at:end].tolist(), color="gray")
        lines = (limited, Series("predicted", hours, predicted[at:end].tolist(), color="orange"))
        plots.append(Plot(f"machine-{number}", f"Machine {number}: remaining hours", lines))
        at = end
    plots[-1] = replace(plots[-1], x=Axis("hour of its life"))
    (folder / "remaining_life.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/remaining_life"))
