"""The comparison of a file with its reference, and the report."""

import os
from typing import TYPE_CHECKING

from lstm_edge_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from torch import nn

    from ..progress import Progress
    from ..verify.file import ModelFile
    from .config import ValidateConfig
    from .expected import Expected
    from .report import Report

__all__ = ["ValidateConfig", "validate"]


def validate(
    file: "ModelFile | str | os.PathLike[str]",
    against: "Expected | nn.Module | None" = None,
    config: "ValidateConfig | None" = None,
    *,
    on_progress: "Progress | None" = None,
) -> "Report":
    """Check that a file computes what its reference does, in every way it will be used.

    Args:
        file: the ONNX file.
        against: what it must equal (see ``against_module`` and ``against_file``), or a
            module that takes the file's golden inputs; None only replays its golden
            cases.
        config: see ``ValidateConfig``.
        on_progress: called with the fraction of the work that is done, and the group
            that begins.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign or unsafe to read, or onnxruntime ends on
            it.
        InputError: there is nothing to compare the file with, or the data does not fit
            it.
    """
    from ..progress import ignore
    from .config import ValidateConfig
    from .validation import validate_file

    return validate_file(
        file, against, config=config or ValidateConfig(), show=on_progress or ignore
    )


__getattr__, __dir__ = lazy_names(__name__, {"ValidateConfig": ".config"})
