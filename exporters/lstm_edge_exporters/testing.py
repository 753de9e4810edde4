"""For people's own test suites: assert that a file computes what a module does."""

import os
from typing import Any

from torch import nn

from lstm_edge_runtime.errors import CheckFailedError

from .verify.config import ValidateConfig
from .verify.expected import against_module
from .verify.file import open_file
from .verify.report import Report
from .verify.validate import validate

__all__ = ["assert_equivalent"]


def assert_equivalent(
    module: nn.Module,
    onnx_path: str | os.PathLike[str],
    example: Any = None,
    *,
    config: ValidateConfig | None = None,
) -> Report:
    """Assert that an ONNX file computes what ``module`` does, in every way it will be used.

    Args:
        module: the trained network; copied, never changed.
        onnx_path: the file.
        example: what ``forward`` takes, as for ``export``; None takes the golden inputs in the file.
        config: see ``ValidateConfig``; quick by default.

    Returns:
        The report, where every check passed.

    Raises:
        CheckFailedError: an ``AssertionError`` that says what is wrong first and what to do, then for each
            group that failed the first check.
        NotFoundError, FileFormatError, InputError: the file can't be read, or the example does not fit.
    """
    file = open_file(onnx_path)
    against = None if file.model is None else against_module(module, file, example)
    report = validate(file, against, config or ValidateConfig(quick=True))
    if report.ok:
        return report
    lines = [f"{file.path.name} does not compute what {report.reference} does: {report.verdict}"]
    for group, check, more in report.headlines:
        lines.append(
            f"{group.title}, {check.name}: {check.message}" + (f" (and {more} more)" if more else "")
        )
    raise CheckFailedError("\n  ".join(lines))
