"""``lstm-edge bench``: measure the speed of files on this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from lstm_edge_runtime.errors import CheckFailedError, counted, printable

from ._extras import needing
from ._model import ModelOptions, model_options, open_model
from ._options import PATH, json_option, models_argument, rate
from ._output import Screen, echo, echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge.timing.compare import Change


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{text!r} is not a list of positive integers, such as 1,16,256.")
    return tuple(sorted({int(part) for part in parts}))


@click.command("bench")
@models_argument
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    help="Approximate time per file, in seconds.",
)
@click.option("--rate", type=rate, help="Sampling rate, such as 50Hz.  [default: the file's]")
@click.option("--chunk", type=click.IntRange(min=1), default=256, help="Number of steps in a chunk.")
@click.option(
    "--streams",
    type=_counts,
    default="1,4,16,64,256,1024",
    metavar="COUNTS",
    help="Numbers of streams per call.",
)
@click.option(
    "--compare", type=PATH, metavar="BASELINE", help="Fail if slower than this file made by --json."
)
@click.option("--html", type=PATH, metavar="FILE", help="Write an HTML page with plots.")
@model_options
@json_option
def command(
    models: tuple[Path, ...],
    compare: Path | None,
    html: Path | None,
    options: ModelOptions,
    as_json: bool,
    **plan: Any,
) -> None:
    """Measure and compare MODELS on this machine: latency, throughput, processor, loading and memory.

    All files are timed in short alternating blocks; ratios are to the first file, each with a 95 % bootstrap
    interval over the rounds. If the calibration workload varies
    too much between rounds, nothing is reported and the exit code is 1. With --compare the exit code is 1 if
    a call became slower beyond noise.

    \b
    Example:
      lstm-edge bench har.onnx har.lep
      lstm-edge bench har.onnx har-int8.onnx --html bench.html
      lstm-edge bench har.onnx --json > baseline.json
      lstm-edge bench har.onnx --compare baseline.json
    """  # noqa: D301
    from lstm_edge.timing.calls import TimedModel
    from lstm_edge.timing.compare import compare_with, read_baseline
    from lstm_edge.timing.measure import Plan, measure
    from lstm_edge_runtime.files import check_target, write_bytes

    if html:
        check_target(html)
        with needing("report", "bench --html"):
            from lstm_edge.report.bench import bench_page
    names = [path.name for path in models]
    if len(set(names)) < len(names):
        names = list(map(str, models))
    baseline = read_baseline(compare, names, plan["chunk"]) if compare else None
    timed_models = [
        TimedModel(name, path, open_model(path, options)) for name, path in zip(names, models, strict=True)
    ]
    settings = options._asdict()
    with Screen(stderr=True).status("") as status:
        document = measure(
            timed_models,
            Plan(**plan, settings=options == ModelOptions()),
            settings,
            lambda what: status.update(Text(printable(what))),
        )
    changes = compare_with(baseline, document) if baseline else []
    if html:
        write_bytes(html, bench_page(document, list(map(str, changes))).encode())
    if as_json:
        echo_json(document)
    else:
        _print(document, changes)
    _judge(changes)


def _judge(changes: Sequence["Change"]) -> None:
    slower = [change for change in changes if change.slower]
    if slower:
        worst = max(slower, key=lambda change: change.interval.ratio)
        more = f" ({len(slower) - 1} more)" if len(slower) > 1 else ""
        raise CheckFailedError(f"{worst}{more}")
    unclear = [change for change in changes if change.unclear]
    if unclear:
        raise CheckFailedError(f"too noisy to decide: {unclear[0]}; stop other work, or increase --seconds")


def _print(document: dict[str, Any], changes: Sequence["Change"]) -> None:
    host = document["host"]
    software = ", ".join(f"{name} {version}" for name, version in document["software"].items())
    print_table(
        f"{host['processor']}, {host['cores']} cores; {software}",
        ["file", "call", "p50 us", "p90 us", "p99 us", "max us"],
        (
            [file["name"], call, *(f"{found[key]:.1f}" for key in ("p50", "p90", "p99", "max"))]
            for file in document["files"]
            for call, found in file["latency_us"].items()
        ),
    )
    print_table(
        "costs", ["file", "cost", "value"], (row for file in document["files"] for row in _costs(file))
    )
    if document["ratios"]:
        rows = (
            [one["file"], one["measure"], f"{one['ratio']:.3f}", f"{one['low']:.3f} .. {one['high']:.3f}"]
            for one in document["ratios"]
        )
        title = f"time relative to {document['ratios'][0]['against']}"
        print_table(title, ["file", "call", "ratio", "95 % interval"], rows)
    for change in changes:
        echo(str(change))
    echo(f"the calibration workload varied by {document['noise']:.1%} between rounds")
    if (lost := document["preemptions_per_second"]) is not None:
        echo(f"other processes interrupted {lost:.1f} times per second (included in p99 and max)")


def _costs(file: dict[str, Any]) -> list[tuple[str, str, str]]:
    from lstm_edge.timing.measure import describe_costs

    streams = {
        counted(int(count), "stream"): f"{value:,.0f} samples per second"
        for count, value in file["samples_per_second"].items()
    }
    rows = [*({"engine": file["engine"]} | describe_costs(file) | streams).items()]
    return [(file["name"], *row) for row in [*rows, *(("omitted", why) for why in file["left_out"])]]
