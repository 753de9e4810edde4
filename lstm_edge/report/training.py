"""The report of a run, from the files in its folder: ``report.html`` and ``curves.png``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from lstm_edge_exporters.render import Axis, Plot, Series, draw_png, render_page
from lstm_edge_runtime.errors import FileFormatError, NotFoundError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.json_reader import read_json

from ..run_files import CONFIG, CURVES, HISTORY, METRICS, REPORT


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write the report of a run into its folder.

    Returns:
        The page and the picture of the curves.

    Raises:
        NotFoundError: the folder lacks ``config.json``, ``history.csv`` or ``metrics.json``.
        FileFormatError: one of them was not written by training.
        InputError: the folder can't be written to.
    """
    missing = [name for name in (CONFIG, HISTORY, METRICS) if not (folder / name).is_file()]
    if missing:
        raise NotFoundError(
            f"{folder} has no {missing[0]}; expected a run folder of `lstm-edge train -o` of this version"
        )
    try:
        summary = read_json((folder / CONFIG).read_bytes())["summary"]
        metrics = read_json((folder / METRICS).read_bytes())
        history = list(csv.DictReader((folder / HISTORY).read_text(encoding="utf-8").splitlines()))
        curves = _curves(history)
        page = _page(folder, summary, metrics, curves)
        picture = draw_png(curves)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TemplateError,
        TypeError,
        ValueError,
        csv.Error,
    ) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise FileFormatError(f"the files in {folder} are invalid ({what}); train again") from error
    write_bytes(folder / REPORT, page.encode())
    write_bytes(folder / CURVES, picture)
    return folder / REPORT, folder / CURVES


def _page(folder: Path, summary: dict[str, Any], metrics: dict[str, Any], curves: list[Plot]) -> str:
    shown = metrics["shown"]
    scores = metrics[shown]
    return render_page(
        __package__,
        "training.html.j2",
        name=folder.absolute().name,
        summary=summary,
        shown=shown,
        scores=scores,
        cross_validation=_folds(metrics["cross_validation"]),
        by_series=_by_series(metrics),
        confusion=_confusion(scores) if "confusion" in scores else None,
        curves=curves,
        streams=_streams(metrics.get("streams")),
        errors=[plot for name, pairs in (metrics["pairs"] or {}).items() for plot in _errors(name, pairs)],
        horizons=[_horizon(name, found) for name, found in (metrics.get("horizons") or {}).items()],
        signals=_signals(metrics),
        mistakes=[_mistake(each, metrics["data"]["features"]) for each in metrics["mistakes"]],
        data=metrics["data"],
    )


def _curves(history: Sequence[Mapping[str, str]]) -> list[Plot]:
    epochs = [float(row["epoch"]) for row in history]
    loss = tuple(
        Series(name, epochs, [float(row[column]) for row in history], color=color)
        for name, column, color in (("training", "loss", "blue"), ("validation", "validation_loss", "orange"))
    )
    plots = [Plot("loss", "Loss", loss, Axis("epoch"), Axis("loss", "log"))]
    if history[0]["accuracy"]:
        accuracy = [float(row["accuracy"]) for row in history]
        series = (Series("validation", epochs, accuracy, color="orange"),)
        plots.append(
            Plot("accuracy", "Accuracy on the validation set", series, Axis("epoch"), Axis("accuracy"))
        )
    return plots


def _streams(found: Mapping[str, Any] | None) -> list[Plot]:
    """Return the score over the steps since a reset; nothing for runs made before, or without streams."""
    if not found:
        return []
    words = {"accuracy": "Accuracy", "rmse": "RMSE"}[found["score"]]
    ends = [0, found["width"] * len(found["carried"])]
    level = found.get("baseline")
    baseline = (Series(level["name"], ends, [level["score"]] * 2, color="green"),) if level else ()
    ways = (("states carried", "carried", "blue"), ("every window from reset", "restarted", "gray"))
    curves = (
        Series(name, [found["width"] * (at + 0.5) for at in range(len(found[key]))], found[key], color=color)
        for name, key, color in ways
    )
    return [
        Plot(
            "streams",
            f"{words} over the steps since the reset",
            (*curves, *baseline),
            Axis("steps since the reset"),
            Axis(words if found["score"] == "accuracy" else "RMSE / standard deviation"),
            caption=f"A window has {found['window']} steps.",
        )
    ]


def _confusion(scores: Mapping[str, Any]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return by true class the counts of each predicted class, each with its share of the row."""
    rows = zip(scores["count"], scores["confusion"], strict=True)
    return [(label, [(count, count / max(sum(row), 1)) for count in row]) for label, row in rows]


def _folds(found: Mapping[str, Any] | None) -> list[str]:
    return [
        f"{name} {each['mean']:.4g}, standard deviation {each['std']:.2g}, over {len(found['folds'])} folds"
        for name, each in (found or {}).items()
        if found and name != "folds"
    ]


def _errors(name: str, pairs: Sequence[Sequence[float]]) -> list[Plot]:
    truth, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ends = [min(truth), max(truth)]
    errors = [after - before for before, after in pairs]
    key = _key(name)
    return [
        Plot(
            f"{kind}s-{key}",
            f"{name}: {what} against true",
            (Series("samples", truth, values, "points"), Series(perfect, ends, level, color="gray")),
            Axis("true"),
            Axis(what),
        )
        for kind, what, values, perfect, level in (
            ("value", "predicted", predicted, "exact", ends),
            ("error", "error", errors, "none", [0.0, 0.0]),
        )
    ]


def _horizon(name: str, found: Mapping[str, Sequence[float]]) -> Plot:
    steps = list(range(1, len(found["rmse"]) + 1))
    return Plot(
        f"horizon-{_key(name)}",
        f"{name}: error by horizon",
        (
            Series("network", steps, found["rmse"]),
            Series("last known value", steps, found["last_value"], color="gray"),
        ),
        Axis("steps ahead"),
        Axis("RMSE"),
        caption="Each forecast is fed back as the next sample.",
    )


def _key(name: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in name)


def _signals(metrics: Mapping[str, Any]) -> list[Plot]:
    """Return one plot per feature with the mean signal of each class in the training set."""
    signals: Mapping[str, list[list[float]]] = metrics["signals"]
    width = min((len(signal[0]) for signal in signals.values()), default=0)
    longest = metrics["data"]["steps"]["longest"]
    return [
        Plot(
            f"signal-{column}",
            feature,
            tuple(_channel(label, signal, column) for label, signal in signals.items()),
            Axis("step" if longest == len(next(iter(signals.values()))) else "point"),
        )
        for column, feature in enumerate(metrics["data"]["features"][:width])
    ]


def _channel(name: str, signal: Sequence[Sequence[float]], column: int) -> Series:
    return Series(name, range(len(signal)), [point[column] for point in signal])


def _origin(each: Mapping[str, Any]) -> str:
    """Return the source of a sample; runs before 0.3 only have its index in the set."""
    if "series" not in each:
        return f"Sample {each['sample']}"
    first, last = each["steps"]
    return f"Series {each['series']}, steps {first} to {last}"


def _by_series(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return series that were cut into windows with their scores, worst first."""
    found = metrics.get("streams")
    if not found or metrics["data"]["window"] is None:
        return []
    worst_first = sorted(found["series"].items(), key=lambda each: each[1])
    return worst_first if found["score"] == "accuracy" else worst_first[::-1]


def _mistake(each: Mapping[str, Any], features: Sequence[str]) -> Plot:
    signal = each["signal"]
    return Plot(
        f"mistake-{each['sample']}",
        f"{each['truth']}, classified as {each['predicted']}",
        tuple(_channel(name, signal, column) for column, name in enumerate(features[: len(signal[0])])),
        caption=f"{_origin(each)}; probability {each['probability']:.2f}.",
    )
