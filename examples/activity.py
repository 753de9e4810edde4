"""Activity recognition on a smart watch: from recordings to a stream that classifies
every sample.
"""

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
from plots import Axis, Plot, Series, draw_png
from to_device import to_device

from lstm_edge import DataConfig, TrainConfig, deployable, train
from lstm_edge_exporters.quantize import Samples

WINDOW = 100
SECOND = 10
"""Samples per recording, also the training window, and per second."""


def days(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, count: int
) -> list[tuple[np.ndarray, ...]]:
    """Return days of six concatenated recordings: samples ``(600, 6)`` and activities
    ``(600,)``.
    """
    chosen = [rng.choice(len(x), 6, replace=False) for _ in range(count)]
    return [
        (np.concatenate(x[indices]), np.repeat(y[indices], x.shape[1]))
        for indices in chosen
    ]


def last_second(x: np.ndarray) -> np.ndarray:
    """Return mean and deviation of the last second at each sample, ``(steps, 12)``, for
    the baseline.
    """
    parts = [x[max(0, end - SECOND) : end] for end in range(1, len(x) + 1)]
    return np.array([[*part.mean(axis=0), *part.std(axis=0)] for part in parts])


def main(folder: Path, epochs: int = 40, count: int = 40) -> None:
    """Train, export, validate, quantize, stream and plot; write all files to
    ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with (files("lstm_edge") / "data" / "basic_motions.npz").open("rb") as file:
        arrays = dict(np.load(file))
    x = arrays["x"]
    y = arrays["y"]
    first = np.flatnonzero(arrays["split"] == "train")
    rng.shuffle(first)
    parts = {
        "train": first[8:],
        "validation": first[:8],
        "test": np.flatnonzero(arrays["split"] == "test"),
    }
    sets = {
        name: days(x[at], y[at], rng, count if name == "train" else 10)
        for name, at in parts.items()
    }
    rows = [",".join(["day", "split", "activity", *arrays["features"]])]
    number = 0
    for name, pairs in sets.items():
        for samples, activities in pairs:
            number += 1
            lines = zip(activities, samples.round(4).tolist(), strict=True)
            rows += [
                ",".join([f"{number},{name},{label}", *map(str, sample)])
                for label, sample in lines
            ]
    (folder / "days.csv").write_text("\n".join(rows) + "\n")

    # Windows that end at any time after a change teach the network to forget earlier
    # activities.
    data = DataConfig(
        series="day", label="activity", window=WINDOW, stride=20, sampling_rate=SECOND
    )
    config = TrainConfig(epochs=epochs, batch_size=64)
    run = train(
        folder / "days.csv",
        folder / "run",
        data_config=data,
        config=config,
        overwrite=True,
    )
    score = run.summary["test"]["streams"]["accuracy"]
    print(f"train: {score:.1%} of a stream's steps right, on recordings it never saw")
    module, example, config = deployable(run)
    samples = Samples({"x": x[parts["test"]]}, targets=y[parts["test"]])
    model = to_device(module, example, config, samples, folder)

    labels = np.array(model.manifest.task.labels)
    seen = np.concatenate([last_second(samples) for samples, _ in sets["train"]])
    was = np.concatenate([activities for _, activities in sets["train"]])
    means = np.array([seen[was == label].mean(axis=0) for label in labels])
    streamed = []
    simple = []
    for samples, _ in sets["test"]:
        stream = model.stream()  # a day without a reset
        streamed.append([int(stream.step(sample).argmax()) for sample in samples])
        far = ((last_second(samples)[:, None] - means) / seen.std(axis=0)) ** 2
        simple.append(far.sum(axis=2).argmin(axis=1))
    truth = np.array([activities for _, activities in sets["test"]])
    tail = np.arange(truth.shape[1]) % WINDOW >= 3 * SECOND
    for name, classes in (
        ("stream", streamed),
        ("baseline: nearest mean of one second", simple),
    ):
        right = labels[np.array(classes)] == truth
        print(
            f"{name}: {right.mean():.1%} of the samples right;"
            f" {right[:, tail].mean():.1%} 3 s after a change"
        )

    seconds = (np.arange(truth.shape[1]) / SECOND).tolist()
    day = sets["test"][0][0]
    happened = Series(
        "happened", seconds, np.searchsorted(labels, truth[0]).tolist(), "marks", "pale"
    )
    predicted = Series(
        "predicted by the stream", seconds, streamed[0], "points", "orange"
    )
    acceleration = Series("", seconds, day[:, 0].tolist())
    plots = [
        Plot("Acceleration along x", (acceleration,)),
        Plot(
            "Activity", (happened, predicted), Axis("seconds"), Axis(rows=tuple(labels))
        ),
    ]
    (folder / "activity.png").write_bytes(draw_png(plots, stacked=True))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "examples-out/activity"))
