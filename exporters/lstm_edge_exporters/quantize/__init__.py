"""int8 and fp16 files that are smaller than the float file, and verified to be close to
it.
"""

import os
from typing import TYPE_CHECKING

from lstm_edge_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from ..progress import Progress
    from ..verify.samples import Samples
    from .config import Budget, QuantizeConfig
    from .pipeline import Quantized

__all__ = ["Budget", "QuantizeConfig", "Quantized", "Samples", "quantize"]


def quantize(
    source: str | os.PathLike[str],
    config: "QuantizeConfig | None" = None,
    samples: "Samples | None" = None,
    *,
    on_progress: "Progress | None" = None,
) -> "Quantized":
    """Make a smaller file of a float file, and measure the loss of accuracy; the given
    file is not changed.

    Args:
        source: a float32 ``.onnx`` file with a manifest.
        config: see ``QuantizeConfig``.
        samples: real data to judge on; without it the file's golden case is what there
            is.
        on_progress: called with the fraction of the work that is done, and a description
            now.

    Raises:
        NotFoundError, FileFormatError: no such file, or not a readable one.
        ManifestError: the file has no manifest.
        InputError: the file is not float32 or has no golden case, or the samples do not
            fit it.
        CheckFailedError: nothing could be quantized, or it got no smaller, or it breaks
            its budget.
    """
    from ..progress import ignore
    from .config import QuantizeConfig
    from .pipeline import quantize_file

    return quantize_file(
        source, config or QuantizeConfig(), samples=samples, show=on_progress or ignore
    )


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Budget": ".config",
        "QuantizeConfig": ".config",
        "Quantized": ".pipeline",
        "Samples": "..verify.samples",
    },
)
