"""``lstm-edge validate``: verify that a file computes the same as its reference."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table
from rich.text import Text

from lstm_edge.data.config import ReadConfig
from lstm_edge.run_files import is_run
from lstm_edge_runtime.errors import InputError, printable

from ._extras import needing
from ._model import check_model_path
from ._options import PATH, data_options, fill, is_factory, json_option, model_argument, scale_option
from ._output import Screen, echo_json, note, progress

if TYPE_CHECKING:
    from lstm_edge_exporters.verify.expected import Expected
    from lstm_edge_exporters.verify.file import ModelFile
    from lstm_edge_exporters.verify.report import Group, Report

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}


@click.command("validate")
@model_argument
@click.option(
    "--against",
    metavar="REFERENCE",
    help="A run folder, a checkpoint, package.module:factory, or another .onnx file; without it, only the "
    "golden cases are replayed.",
)
@click.option("--weights", type=PATH, help="Checkpoint to load into a factory's module.")
@scale_option
@click.option("--data", type=PATH, help="Real data: .npz, .npy or .csv, as for train; its test set is used.")
@data_options
@click.option("--quick", is_flag=True, help="Fewer sizes, chunks and samples, and a tenth of the long run.")
@click.option("--steps", type=click.IntRange(1), default=10_000, help="Number of steps of the long run.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
@click.option("--junit", type=PATH, metavar="FILE", help="Write a JUnit report with one test case per check.")
@click.option("--html", type=PATH, metavar="FILE", help="Write one self-contained page with plots.")
@json_option
def command(
    model: Path,
    against: str | None,
    weights: Path | None,
    scale: Path | None,
    data: Path | None,
    junit: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Verify that MODEL computes the same as its reference: exit code 0 if so, 1 if not.

    The reference is exported again in memory. The manifests must be the same field by field, constants bit
    for bit, the graphs in float64; and each engine must be as close to the graph as float32 allows. An int8
    or fp16 file must be what quantizing the reference again gives.

    \b
    Example:
      lstm-edge validate har.onnx --against runs/har
      lstm-edge validate har.onnx --against runs/har --data har.npz \\
          --junit report.xml --html report.html
      lstm-edge validate tagger.onnx --against nets:build --weights tagger.pt
      lstm-edge validate har-int8.onnx --against har.onnx --quick
    """  # noqa: D301
    for target in filter(None, (junit, html)):
        from lstm_edge_runtime.files import check_target, write_bytes

        check_target(target)
    with _junit_on_error(junit, model):
        _check_options(model, against, weights)
        with needing("export", "validate"):
            from lstm_edge_exporters.verify.config import ValidateConfig
            from lstm_edge_exporters.verify.file import open_file
            from lstm_edge_exporters.verify.validate import validate
        if html is not None:
            with needing("report", "validate --html"):
                from lstm_edge_exporters.verify.html import to_html
        check_model_path(model)
        file = open_file(model)
        reference = _reference(file, against, weights, scale) if against is not None and file.model else None
        if data is not None and file.model is not None:
            from lstm_edge.data.evaluation import read_samples

            options["data"] = read_samples(data, file.model, fill(ReadConfig, options), note)
        config = fill(ValidateConfig, options)
        with progress(quiet=as_json) as show:
            report = validate(file, reference, config, on_progress=show)
    if junit is not None:
        from lstm_edge_exporters.verify.junit import to_junit

        write_bytes(junit, to_junit(report))
    if html is not None:
        write_bytes(html, to_html(report).encode())
    if as_json:
        echo_json(report.to_dict())
    else:
        print_report(report, Screen())
        if against is None:
            note("golden cases replayed; not compared with a network: add --against")
    if not report.ok:
        sys.exit(1)


def _check_options(model: Path, against: str | None, weights: Path | None) -> None:
    if against is None and weights is not None:
        raise InputError("got --weights without --against package.module:factory")
    if against is not None and is_run(model) and Path(against).suffix == ".onnx":
        raise InputError(
            f"{model} and {against} are swapped; run lstm-edge validate {against} --against {model}"
        )


@contextlib.contextmanager
def _junit_on_error(junit: Path | None, model: Path) -> Iterator[None]:
    """Write a JUnit document with the error, so that no document of an earlier run remains."""
    try:
        yield
    except Exception as error:
        if junit is not None:
            with contextlib.suppress(ImportError):  # the error says that the extra is missing
                from lstm_edge_exporters.verify.junit import error_to_junit
                from lstm_edge_runtime.files import write_bytes

                write_bytes(junit, error_to_junit(model.name, error))
        raise


def _reference(file: "ModelFile", against: str, weights: Path | None, scale: Path | None) -> "Expected":
    if is_factory(against):
        with needing("export", "validate"):
            from lstm_edge_exporters.verify.expected import against_module

            from ._factory import build_module
        module, sha256 = build_module(against, weights)
        return against_module(module, file, about=against, sha256=sha256 or "")
    if weights is not None:
        raise InputError(f"{against} is not a package.module:factory, but --weights requires one")
    if Path(against).suffix == ".onnx":
        from lstm_edge_exporters.verify.expected import against_file

        return against_file(against, file)
    with needing("export", "validate"):
        from lstm_edge.checkpoint import deployable, load
        from lstm_edge_exporters.verify.expected import against_module

    run = load(against)
    if scale is not None:
        from lstm_edge.scales import with_scales

        with_scales(run.model, scale)
    module, example, config = deployable(run, lengths="lengths" in file.graph_axes)
    if not Path(against).is_dir():  # a bare checkpoint is not the file that a run exports
        config = replace(config, checkpoint_sha256=None)
    about = f"{Path(against).name} ({type(run.model).__name__})"
    return against_module(module, file, example, config=config, about=about)


def print_report(report: "Report", screen: Screen) -> None:
    """Print one row per group, then every failure; names from files are never treated as markup."""
    title = _text(f"{report.model} against {report.reference}")
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("group", "checks", "limit", "error", "ratio", "result"):
        table.add_column(name, justify="left" if name in ("group", "result") else "right")
    for group in report.groups:
        table.add_row(*_row(group))
    screen.print(table)
    if report.verdict:
        screen.print(report.verdict, style="bold red")
    for group, check, more in report.headlines:
        rest = f" (and {more} more in this group)" if more else ""
        screen.print(f"FAILED {group.title}: {check.name}: {check.message}{rest}", style="red")
    for reason, titles in _skipped(report).items():
        screen.print(f"skipped {', '.join(titles)}: {reason}", style="dim")
    for each in report.notes:
        screen.print(f"note: {each}")
    screen.print(f"limits: {report.policy}; seed {report.seed}", style="dim")
    total = f"{report.count('passed')} passed, {report.count('failed')} failed"
    result, style = ("PASSED", "bold green") if report.ok else ("FAILED", "bold red")
    screen.print(f"{result}: {total}, {report.count('skipped')} skipped", style=style)


def _text(text: str, style: str = "") -> Text:
    """Return a text with escape sequences escaped."""
    return Text(printable(text), style)


def _skipped(report: "Report") -> dict[str, list[str]]:
    """Return the skipped groups by reason."""
    reasons: dict[str, list[str]] = {}
    for group in report.groups:
        if group.status == "skipped" and group.checks:
            reasons.setdefault(group.checks[0].message, []).append(group.title)
    return reasons


def _row(group: "Group") -> list[Text]:
    worst = group.worst
    figures = ["", "", ""]
    if worst is not None:
        figures = [f"{value:.2g}" for value in (worst.limit, worst.error, worst.ratio)]
    result = _text(group.status, style=_STYLES[group.status])
    ran = len(group.checks) - group.count("skipped")
    return [_text(group.title), _text(str(ran)), *map(_text, figures), result]
