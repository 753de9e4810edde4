"""``lstm-edge validate``: verify that a file computes the same as its reference."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lstm_edge.data.config import ReadConfig
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.files import check_target, write_bytes

from ._extras import needing
from ._model import check_model_path
from ._options import PATH, SCALE, is_factory, options_of, verb
from ._output import Report, note

if TYPE_CHECKING:
    from lstm_edge_exporters.verify.expected import Expected
    from lstm_edge_exporters.verify.file import ModelFile
    from lstm_edge_exporters.verify.report import Report as Validation


@verb("validate", extra="export")
@click.argument("model", type=PATH)
@click.option(
    "--against",
    metavar="REFERENCE",
    help="A run folder, a checkpoint, package.module:factory, or another .onnx file; without it, only the "
    "golden cases are replayed.",
)
@click.option("--weights", type=PATH, help="Checkpoint to load into a factory's module.")
@click.option("--scale", type=PATH, metavar="FILE", help=SCALE)
@click.option("--data", type=PATH, help="Real data: .npz, .npy or .csv, as for train; its test set is used.")
@options_of(reading=ReadConfig)
@options_of(config=ValidateConfig)
@click.option("--junit", type=PATH, metavar="FILE", help="Write a JUnit report with one test case per check.")
@click.option("--html", type=PATH, metavar="FILE", help="Write one self-contained page.")
def command(
    model: Path,
    against: str | None,
    weights: Path | None,
    scale: Path | None,
    data: Path | None,
    reading: ReadConfig,
    config: ValidateConfig,
    junit: Path | None,
    html: Path | None,
    show: Callable[[float, str], None],
) -> Report:
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
        check_target(target)
    with _junit_on_error(junit, model):
        if against is None and weights is not None:
            raise InputError("got --weights without --against package.module:factory")
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

            config = replace(config, data=read_samples(data, file.model, reading, note))
        found = validate(file, reference, config, on_progress=show)
    if junit is not None:
        from lstm_edge_exporters.verify.junit import to_junit

        write_bytes(junit, to_junit(found))
    if html is not None:
        write_bytes(html, to_html(found).encode())
    if against is None:
        note("golden cases replayed; not compared with a network: add --against")
    return report_of(found)


@contextlib.contextmanager
def _junit_on_error(junit: Path | None, model: Path) -> Iterator[None]:
    """Write a JUnit document with the error, so that no document of an earlier run remains."""
    try:
        yield
    except Exception as error:
        if junit is not None:
            with contextlib.suppress(ImportError):  # the error says that the extra is missing
                from lstm_edge_exporters.verify.junit import error_to_junit

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
    from lstm_edge.checkpoint import deployable, load
    from lstm_edge_exporters.verify.expected import against_module

    run = load(against)
    if scale is not None:
        from lstm_edge.scales import with_scales

        with_scales(run.model, scale)
    module, example, config = deployable(run, lengths="lengths" in file.graph_axes)
    if not Path(against).is_dir():  # a bare checkpoint is not the file that a run exports
        names = [*config.outputs]
        if run.task is None and file.manifest.task:
            names[0] = file.manifest.task.output
        config = replace(config, checkpoint_sha256=None, outputs=tuple(names))
    about = f"{Path(against).name} ({type(run.model).__name__})"
    return against_module(module, file, example, config=config, about=about)


def report_of(found: "Validation") -> Report:
    """Return one row per group, every failure, and what was skipped."""
    shown = {
        "checks": [
            {
                "group": group.title,
                "checks": len(group.checks) - group.count("skipped"),
                "limit": group.worst and group.worst.limit,
                "error": group.worst and group.worst.error,
                "ratio": group.worst and group.worst.ratio,
                "result": group.status,
            }
            for group in found.groups
        ],
        "FAILED": {
            f"{group.title}: {check.name}": check.message
            + (f" (and {more} more in this group)" if more else "")
            for group, check, more in found.headlines
        },
        "skipped checks": {
            group.title: group.checks[0].message
            for group in found.groups
            if group.status == "skipped" and group.checks
        },
        "limits": f"{found.policy}; seed {found.seed}",
        "result": f"{'PASSED' if found.ok else 'FAILED'}: {found.count('passed')} passed, "
        f"{found.count('failed')} failed, {found.count('skipped')} skipped",
    }
    document = found.to_dict()
    hidden = document.keys() - {"notes", "verdict"}
    error = None if found.ok else CheckFailedError(f"{found.count('failed')} checks failed")
    return Report(document | shown, f"{found.model} against {found.reference}", hidden=hidden, error=error)
