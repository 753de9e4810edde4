"""Why a module can't be exported: the user's line, PyTorch's reason, and what to write instead.

The only place that knows kinds of failure; the stages raise, and this explains.
"""

from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb

from lstm_edge_runtime.errors import UnsupportedError

from .source import causes, raising_line

_LONGEST = 300


def refusal(what: str, error: Exception) -> UnsupportedError:
    """Return the error for a module that ``what``, such as ``can't be traced``, because of ``error``."""
    line, text = raising_line(error), " ".join(str(error).split())
    text = text.partition(" The error above occurred")[0]
    passed = {
        Path(frame.f_code.co_filename).as_posix()
        for cause in causes(error)
        for frame, _ in walk_tb(cause.__traceback__)
    }
    reason, advice = next(
        ((reason, advice) for applies, reason, advice in _KINDS if applies(text, passed, line)),
        ("", "write that line with torch's operators on tensors and sizes, or compute it outside of forward"),
    )
    where = f" ({line})" if line else ""
    shown = reason or f"{type(error).__name__}: {text[:_LONGEST]}"
    return UnsupportedError(f"forward {what}{where}: {shown}; {advice}")


def _of_values(text: str, *_: object) -> bool:
    return "data-dependent" in text or "GuardOnDataDependent" in text or "Could not guard" in text


def _in_file(*names: str) -> Callable[[str, set[str], str], bool]:
    return lambda _, passed, __: any(name in path for path in passed for name in names)


def _in_line(*words: str) -> Callable[[str, set[str], str], bool]:
    return lambda text, _, line: _of_values(text) and any(word in line for word in words)


_KINDS: tuple[tuple[Callable[[str, set[str], str], bool], str, str], ...] = (
    (
        _in_file("torch/distributions/"),
        "torch.distributions look at the values of tensors",
        "return the distribution's parameters, or pass validate_args=False",
    ),
    (
        _in_file("torch/_higher_order_ops/"),
        "torch's own loops and branches can't be written to a file",
        "use torch.where(condition, a, b) for a branch, nn.LSTM, nn.GRU or nn.RNN for a loop",
    ),
    (
        lambda text, _, line: ".numpy()" in line or "np." in line or "numpy" in text,
        "it takes a tensor to NumPy, which can't be traced",
        "compute it with torch's own operators",
    ),
    (
        _in_line("float(", "int(", "bool(", ".item(", ".tolist("),
        "it converts the values of a tensor to Python numbers, which the export would freeze",
        "keep them in tensors: a mask, torch.where, gather; write fixed settings as Python numbers",
    ),
    (
        _in_line("if ", "while ", "assert ", " if "),
        "it branches on the values of a tensor",
        "use torch.where(condition, a, b); check inputs outside of forward; keep a setting as a Python "
        "number, not a buffer",
    ),
    (
        _of_values,
        "it depends on the values of a tensor",
        "use a mask or torch.where; keep sizes and settings as Python numbers",
    ),
    (
        lambda text, *_: "specialized" in text or "Constraints violated" in text,
        "it takes the size of an axis for a number",
        "use tensor operations over the whole axis, or give that axis as a number with inputs=",
    ),
    (
        lambda text, *_: "complex" in text.lower(),
        "ONNX has no operator for this on complex numbers",
        "use torch.stft, real and imaginary parts (torch.view_as_real), or compute it outside of forward",
    ),
)
