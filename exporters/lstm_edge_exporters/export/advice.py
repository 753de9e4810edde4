"""Why a module can't be exported: the user's line, PyTorch's reason, and what to write instead.

The only place that knows kinds of failure; the stages raise, and this explains.
"""

import re
from pathlib import Path
from traceback import walk_tb

from lstm_edge_runtime.errors import UnsupportedError

from .source import causes, raising_line

_LONGEST = 300
_OF_VALUES = r"text: .*(data-dependent|GuardOnDataDependent|Could not guard)"
_KINDS = (
    (
        r"files: .*torch/distributions/",
        "torch.distributions look at the values of tensors",
        "return the distribution's parameters, or pass validate_args=False",
    ),
    (
        r"files: .*torch/_higher_order_ops/",
        "torch's own loops and branches can't be written to a file",
        "use torch.where(condition, a, b) for a branch, nn.LSTM, nn.GRU or nn.RNN for a loop",
    ),
    (
        r"line: .*(\.numpy\(\)|np\.)|text: .*numpy",
        "it takes a tensor to NumPy, which can't be traced",
        "compute it with torch's own operators",
    ),
    (
        rf"line: .*(float\(|int\(|bool\(|\.item\(|\.tolist\()(.|\n)*{_OF_VALUES}",
        "it converts the values of a tensor to Python numbers, which the export would freeze",
        "keep them in tensors: a mask, torch.where, gather; write fixed settings as Python numbers",
    ),
    (
        _OF_VALUES,
        "it branches on the values of a tensor, or takes a size from them",
        "use a mask or torch.where(condition, a, b); keep a setting as a Python number, not a buffer",
    ),
    (
        r"text: .*(specialized|Constraints violated)",
        "it takes the size of an axis for a number",
        "use tensor operations over the whole axis, or give that axis as a number with inputs=",
    ),
    (
        r"text: .*[Cc]omplex",
        "ONNX has no operator for this on complex numbers",
        "use torch.stft, real and imaginary parts (torch.view_as_real), or compute it outside of forward",
    ),
    ("", "", "write that line with torch's operators on tensors and sizes, or compute it outside of forward"),
)
"""What is searched for in the files that an error came through, the user's line and its text; why; advice."""


def refusal(what: str, error: Exception) -> UnsupportedError:
    """Return the error for a module that ``what``, such as ``can't be traced``, because of ``error``."""
    line, text = raising_line(error), " ".join(str(error).split())
    text = text.partition(" The error above occurred")[0]
    frames = (frame for cause in causes(error) for frame, _ in walk_tb(cause.__traceback__))
    files = " ".join(Path(frame.f_code.co_filename).as_posix() for frame in frames)
    known = f"files: {files}\nline: {line}\ntext: {text}"
    reason, advice = next(found for pattern, *found in _KINDS if re.search(pattern, known))
    where = f" ({line})" if line else ""
    shown = reason or f"{type(error).__name__}: {text[:_LONGEST]}"
    return UnsupportedError(f"forward {what}{where}: {shown}; {advice}")
