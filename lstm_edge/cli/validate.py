"""``lstm-edge validate``: verify that a file computes the same as its reference."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_edge.data.config import ReadConfig
from lstm_edge_exporters.modules import is_factory
from lstm_edge_exporters.options import option
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.files import check_target, refuse_program, write_bytes
from lstm_edge_runtime.manifest import Signal

from ._options import SCALE, model_argument, needing, options_of, verb
from ._output import Output, Show, note

if TYPE_CHECKING:
    from lstm_edge_exporters.validate.expected import Expected
    from lstm_edge_exporters.validate.report import Group, Report
    from lstm_edge_exporters.verify.file import ModelFile


@dataclass(frozen=True)
class ValidateOptions:
    """The reference, the data, and the reports."""

    against: str | None = option(
        None,
        "A run, checkpoint, factory or .onnx file.",
        metavar="REFERENCE",
        role="source",
    )
    weights: Path | None = option(
        None, "Checkpoint to load into a factory's module.", metavar="FILE"
    )
    scale: Path | None = option(None, SCALE, metavar="FILE")
    data: Path | None = option(
        None, "Real data, as for train; its test set is used.", metavar="FILE"
    )
    junit: Path | None = option(
        None,
        "Write a JUnit report with one test case per check.",
        metavar="FILE",
        role="output",
    )
    html: Path | None = option(
        None, "Write one self-contained page.", metavar="FILE", role="output"
    )


@verb("validate", extra="export")
@model_argument
@options_of(options=ValidateOptions, reading=ReadConfig, config=ValidateConfig)
def command(
    model: Path,
    options: ValidateOptions,
    reading: ReadConfig,
    config: ValidateConfig,
    show: Show,
) -> Output:
    """Verify that MODEL computes the same as its reference: exit code 0 if so, 1 if
    not.

    The reference is exported again in memory. The manifests must be the same field by
    field, constants bit for bit, the graphs in float64; and each engine must be as
    close to the graph as float32 allows. An int8 or fp16 file must be what quantizing
    the reference again gives.

    \b
    Example:
      lstm-edge validate har.onnx --against runs/har --html report.html
      lstm-edge validate t.onnx --against nets:build --weights t.pt --quick
    """  # noqa: D301
    for target in filter(None, (options.junit, options.html)):
        check_target(target)
    if options.weights is not None and not is_factory(options.against or ""):
        raise InputError(
            f"--weights requires --against package.module:factory, got {options.against}"
        )
    from lstm_edge_exporters.validate.junit import error_to_junit, to_junit

    if options.html is not None:
        with needing("report", "validate --html"):
            from lstm_edge_exporters.validate.html import to_html
    try:
        result = _validate(model, options, reading=reading, config=config, show=show)
    except Exception as error:
        if options.junit is not None:
            write_bytes(options.junit, error_to_junit(model.name, error))
        raise
    if options.junit is not None:
        write_bytes(options.junit, to_junit(result))
    if options.html is not None:
        write_bytes(options.html, to_html(result).encode())
    if options.against is None:
        note("golden cases replayed; not compared with a network: add --against")
    return output_of(result)


def _validate(
    model: Path,
    options: ValidateOptions,
    reading: ReadConfig,
    config: ValidateConfig,
    show: Show,
) -> "Report":
    """Validate the file with the options, and show progress."""
    from lstm_edge_exporters import validate
    from lstm_edge_exporters.verify.file import open_file

    file = open_file(model)
    reference = None
    if options.against is not None and file.model is not None:
        reference = _reference(file, options.against, options)
    if options.data is not None and file.model is not None:
        from lstm_edge.data.sample_input import read_samples

        samples = read_samples(options.data, file.model, config=reading, tell=note)
        config = replace(config, data=samples)
    return validate(file, reference, config, on_progress=show)


def _reference(file: "ModelFile", against: str, options: ValidateOptions) -> "Expected":
    """Return the reference that ``--against`` names."""
    from lstm_edge_exporters.validate.expected import against_file, against_module

    refuse_program(against)
    if Path(against).suffix == ".onnx":
        return against_file(against, file)
    if is_factory(against):
        from lstm_edge_exporters.source import load_module

        loaded = load_module(against, options.weights)
        return against_module(loaded.module, file, about=against, sha256=loaded.sha256)
    from lstm_edge.checkpoint import deployable, load, with_scales

    run = load(against)
    hint = ""
    if options.scale is not None:
        with_scales(run.model, options.scale)
    elif run.model.x_mean is None:
        hint = (
            f"{against} has no scales: if --scale was given to export, give it here"
            " as well"
        )
    module, example, config = deployable(run, lengths="lengths" in file.graph_axes)
    if not Path(
        against
    ).is_dir():  # a bare checkpoint, which options described when it was exported
        names = [*config.outputs]
        described = file.manifest
        if run.task is None and described.task:
            names[0] = described.task.output
        signal = described.signal if run.signal == Signal() else run.signal
        task = run.task or described.task
        trained = run.trained or described.trained
        config = replace(
            config, outputs=tuple(names), task=task, signal=signal, trained=trained
        )
        config = replace(config, checkpoint_sha256=None)
    about = f"{Path(against).name} ({type(run.model).__name__})"
    expected = against_module(module, file, example, config=config, about=about)
    return replace(expected, hint=hint)


def output_of(result: "Report") -> Output:
    """Return the document of a validation, and lines: one row per group, every failure,
    and what was skipped.
    """
    counts = (
        f"{result.count('passed')} passed, {result.count('failed')} failed,"
        f" {result.count('skipped')} skipped"
    )
    skipped = {}
    for group in result.groups:
        if group.status == "skipped" and group.checks:
            skipped[group.title] = group.checks[0].message
    failures = {}
    for group, check, more in result.headlines:
        others = f" (and {more} more in this group)" if more else ""
        failures[f"{group.title}: {check.name}"] = check.message + others
    lines = {
        "checks": [_row(group) for group in result.groups],
        "FAILED": failures,
        "skipped checks": skipped,
        "limits": f"{result.policy}; seed {result.seed}",
        "result": f"{'PASSED' if result.ok else 'FAILED'}: {counts}",
    }
    error = CheckFailedError(f"{result.count('failed')} checks failed")
    return Output(
        document=result.to_dict(),
        lines=lines,
        title=f"{result.model} against {result.reference}",
        error=None if result.ok else error,
    )


def _row(group: "Group") -> dict[str, object]:
    """Return a group as a row of the table."""
    worst = group.worst
    return {
        "group": group.title,
        "tests": group.tests,
        "checks": len(group.checks) - group.count("skipped"),
        "limit": None if worst is None else worst.limit,
        "error": None if worst is None else worst.ratio * worst.limit,
        "result": group.status,
    }
