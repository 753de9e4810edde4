"""From a PyTorch module to a verified ONNX file; ``pipeline`` has the stages."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from ..artifact import Artifact
    from ..progress import Progress
    from ..verify.verify import Verified
    from .config import ExportConfig

__all__ = ["export"]


def export(
    module: "nn.Module",
    example: Any,
    config: "ExportConfig | None" = None,
    *,
    on_progress: "Progress | None" = None,
) -> "Artifact[Verified]":
    """Turn ``module`` into one ONNX file and verify that it computes what PyTorch does.

    The module is copied, and the copy is traced in eval mode.

    Args:
        module: any module with recurrent layers.
        example: one tensor, a tuple of positional arguments or a dict of keyword
            arguments that ``forward`` takes; float inputs show the scale of the signal,
            integer ones the range of valid values.
        config: see ``ExportConfig``.
        on_progress: called with the fraction of the work that is done, and a description
            now.

    Raises:
        InputError: the example or the config does not fit the module.
        UnsupportedError: the module does what can't be exported right.
        CheckFailedError: the file would not compute what the module does; says where
            and by how much.
    """
    from torch import nn

    from lstm_edge_runtime.errors import InputError

    from ..progress import ignore
    from .config import ExportConfig
    from .pipeline import build, finish

    if not isinstance(module, nn.Module):
        is_class = isinstance(module, type)
        what = f"the class {module.__name__}" if is_class else type(module).__name__
        raise InputError(
            f"got {what}, expected a torch.nn.Module; create it, and load its weights"
        )
    config = config or ExportConfig()
    show = on_progress or ignore
    return finish(
        build(module, example, config=config, show=show), show, stream=config.stream
    )
