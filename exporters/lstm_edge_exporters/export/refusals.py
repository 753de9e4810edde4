"""What can't be exported right, said with the line that does it and what to write instead."""

import ast
import linecache
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary, walk_tb
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ..numerics.reference import Injection

__all__ = [
    "ConstantSizeError",
    "LineWatch",
    "LoopError",
    "Place",
    "calling_line",
    "check_module",
    "check_starts",
    "is_own",
    "line_at",
    "own_line",
    "place_of",
    "sampling_text",
    "tracing_refusal",
    "translation_refusal",
]

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_DISTRIBUTIONS = str(Path(torch.distributions.__path__[0]))
_HIGHER = str(Path(_TORCH) / "_higher_order_ops")
_CONTROL_FLOW = {
    "cond": "compute both sides and choose by torch.where(condition, one, other)",
    **dict.fromkeys(
        ("associative_scan", "map", "scan", "while_loop"),
        "write the loop with nn.LSTM, nn.GRU or nn.RNN or with tensor operations over the whole axis, or "
        "export one step a call with the state as input and output",
    ),
}
"""torch's own loops and branches by the name of their source, and what to write instead."""
_USES = {
    "checks": (
        "checks",
        "a file raises nothing; check inputs before they are fed, outside of forward",
    ),
    "counts": (
        "makes a Python number of",
        "it would be fixed at the example's; keep it a tensor, without float() or bool()",
    ),
    "decides": (
        "decides by",
        "a loop or an if on lengths or data would be fixed at the example's values; compute both sides and "
        "choose by torch.where, or multiply by a mask such as torch.arange(x.size(1)) < lengths.unsqueeze(1)",
    ),
}
"""What a line does with the values of a tensor, and what to do instead."""
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>|"
                          r"No decompositions registered for .*?([\w:.]+)")  # fmt: skip
_FAILED_NODE = re.compile(r"Error when translating node .*?\[target=torch\.ops\.([\w.]+)\]")


class LoopError(UnsupportedError):
    """A loop over time would be unrolled."""

    steps = 0
    """How often the layer is called."""


class ConstantSizeError(UnsupportedError):
    """Code takes the size of an axis that was traced for a constant."""


def check_module(module: nn.Module) -> None:
    """Refuse a module whose kind or mode rules an export out.

    Raises:
        UnsupportedError: a scripted module, or batch norm in training mode.
        InputError: a parameter that holds NaN or infinity.
    """
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"{name} holds NaN or infinity; train again, or load other weights")
    for path, layer in module.named_modules():
        if isinstance(layer, ScriptModule):
            raise UnsupportedError(
                f"{path or type(module).__name__} is a TorchScript module, its layers can't be seen; "
                "export the module that it was scripted from"
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise UnsupportedError(
                f"batch norm {path!r} is in training mode, where it normalizes by its own batch; "
                "call module.eval() before export"
            )


def check_starts(module: nn.Module, injections: Iterable[Injection]) -> None:
    """Refuse a state that was lifted out of a call of ``torch.lstm`` and the like outside of a layer.

    Raises:
        UnsupportedError: verification could not start such a call from the state.
    """
    for each in injections:
        if not isinstance(module.get_submodule(each.path), nn.RNNBase | nn.RNNCellBase):
            raise UnsupportedError(
                f"forward calls torch.lstm, torch.gru or torch.rnn itself and makes {each.input} inside; "
                "make it an argument, use nn.LSTM, nn.GRU or nn.RNN, or export without states (stateless)"
            )


def tracing_refusal(
    error: Exception,
    module: nn.Module,
    seen: Mapping[str, str],
    fixed: Mapping[tuple[str, int], "Place"],
) -> UnsupportedError:
    """Return why ``torch.export`` could not trace ``module``.

    Args:
        error: PyTorch's.
        module: what was traced.
        seen: see ``Recorder.seen``.
        fixed: the axes of inputs that the code fixes, and where.
    """
    name, text = type(module).__name__, " ".join(str(error).split()).partition(" The error above occurred")[0]
    if "numpy" in seen:
        return UnsupportedError(
            f"{name} takes a tensor to NumPy ({seen['numpy']}), where no file can follow; compute it with "
            "torch's own operators"
        )
    path, number = _own_place(error)
    line = line_at(path, number)
    at_line = f" ({line})" if line else ""
    passed = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if any(each.startswith(_DISTRIBUTIONS) for each in passed):
        return UnsupportedError(
            f"{name} makes an object of torch.distributions{at_line}, which looks at the values of its "
            "parameters; return the parameters and sample outside, or give it validate_args=False"
        )
    flow = next(
        (stem for each in passed if (stem := Path(each).stem) in _CONTROL_FLOW and _HIGHER in each), ""
    )
    if flow:
        return UnsupportedError(
            f"{name} calls torch's {flow}{at_line}, which is not exported; {_CONTROL_FLOW[flow]}"
        )
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        if "list" in seen:
            return UnsupportedError(
                f"{name} makes a list of a tensor ({seen['list']}), which a file would hold as "
                "constants; keep it a tensor, without tolist(): pack_padded_sequence, indexing and masks "
                "take one"
            )
        what, way_out = _USES[_use_of_value(path, number)]
        return UnsupportedError(f"{name} {what} the values of a tensor ({line or text[:160]}): {way_out}")
    if "specialized" in text or "Constraints violated" in text or re.search(r"[\[(, *]s\d+\b", text):
        where = _specialized(text) + at_line
        if fixed:
            (own, axis), place = next(iter(fixed.items()))
            at_line = f" ({place.line})" if place.line else at_line
            where = f"axis {axis} of {own} is fixed in its code{at_line}"
        return ConstantSizeError(
            f"{name} works at one size only: {where}; a Python loop over an axis, len(x), int(x.size(...)) "
            "or a layer of fixed size does this. Use tensor operations over the whole axis, or give that "
            "axis as a number"
        )
    if "complex" in seen:
        return _complex(seen["complex"])
    if isinstance(error, AttributeError) and isinstance(error.obj, torch.SymInt):
        text = f"a size has no {error.name} there, it is a number already"
    return UnsupportedError(
        f"{name} can't be traced{at_line}: {text[:200].rstrip('.')}; write that line with torch's operators "
        "on tensors and sizes, or compute it outside and pass the result in"
    )


def _complex(line: str) -> UnsupportedError:
    return UnsupportedError(
        f"forward computes with complex tensors ({line}), which ONNX's operators do not take; compute the "
        "spectrum outside and pass its magnitude or its real and imaginary parts in"
    )


def sampling_text(line: str) -> str:
    """Return what is wrong with a draw at ``line``, and the way out."""
    return (
        f"forward samples: it draws random numbers ({line}), and so gives another output on every call; "
        "return the distribution's parameters and sample outside, or pass the numbers in"
    )


def translation_refusal(
    error: Exception, seen: Mapping[str, str], program: ExportedProgram
) -> UnsupportedError:
    """Return which operator PyTorch's ONNX translation lacks, or what ``forward`` does that ONNX has not.

    Args:
        error: PyTorch's.
        seen: see ``Recorder.seen``.
        program: what was to be translated.
    """
    if "complex" in seen:
        return _complex(seen["complex"])
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        found = _NO_OPERATOR.search(str(cause))
        if found:
            operator = ".".join(part for part in found.groups() if part)
            if "sampling" in seen:
                return UnsupportedError(sampling_text(seen["sampling"]))
            return UnsupportedError(
                f"torch.onnx has no translation for the operator {operator}{_at_line(operator, program)}; "
                "write it with operators that ONNX has, or move it out of the module"
            )
    text = " ".join(str(causes[-1]).split())
    failed = [found[1] for cause in causes if (found := _FAILED_NODE.search(str(cause)))]
    what = f"the operator {failed[-1]}{_at_line(failed[-1], program)}" if failed else "the traced network"
    return UnsupportedError(
        f"torch.onnx can't translate {what}: {text[:200].rstrip('.')}; write it in another way, or move it "
        "out of the module"
    )


def _at_line(operator: str, program: ExportedProgram) -> str:
    """Return the module's own line that an operator comes from, in brackets; empty if none is known."""
    for graph in (program.graph, program.run_decompositions().graph):
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target) == operator:
                for path, number in reversed(re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")):
                    if line := line_at(path, int(number)):
                        return f" ({line})"
    return ""


def _specialized(text: str) -> str:
    found = re.search(r"specialized it to be a constant \((\d+)\)", text) or re.search(
        r"specialized .*?to (?:a )?constant.*?(\d+)", text
    )
    return f"an axis that was given a name is fixed at {found[1]} in its code" if found else text[:300]


def _own_place(error: BaseException) -> tuple[str, int]:
    """Return source and line of the deepest place outside of PyTorch and this package that raised ``error``.

    ``("", 0)`` where there is none.
    """
    cause: BaseException | None = error
    while cause is not None:
        passed = [(frame.f_code.co_filename, number) for frame, number in walk_tb(cause.__traceback__)]
        own = [(path, number) for path, number in passed if is_own(path)]
        if own:
            return own[-1]
        cause = cause.__cause__ or cause.__context__
    return "", 0


def own_line(error: BaseException) -> str:
    """Return the module's own line that raised ``error``; empty where none is known."""
    return line_at(*_own_place(error))


class LineWatch(TorchFunctionMode):
    """Sees every call of PyTorch that a module's own lines make."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[str, Any]] = []
        """The line, and the function with the number of axes that it gives."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` and note it."""
        result = func(*args, **(kwargs or {}))
        axes = result.ndim if isinstance(result, torch.Tensor) else None
        self.passed.append((calling_line(), (func, axes)))
        return result


def _use_of_value(path: str, number: int) -> str:
    """Return which of ``_USES`` a line of source makes of a tensor's values."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return "decides"
    statements = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= number <= (node.end_lineno or node.lineno)
    ]
    innermost = max(statements, key=lambda node: node.lineno, default=None)  # of one line, the first
    if isinstance(innermost, ast.Assert):
        return "checks"
    if isinstance(innermost, ast.If | ast.While | ast.For):
        return "checks" if all(isinstance(each, ast.Raise) for each in innermost.body) else "decides"
    inside = [] if innermost is None else list(ast.walk(innermost))
    called = {
        node.func.id for node in inside if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    chooses = any(isinstance(node, ast.IfExp | ast.BoolOp | ast.comprehension) for node in inside)
    return "counts" if called & {"float", "bool"} and not chooses else "decides"


def calling_line() -> str:
    """Return the innermost line outside of PyTorch and this package that is being run."""
    frame = sys._getframe(1)
    while frame is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return line_at(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def is_own(path: str) -> bool:
    """Tell whether a source file is neither of PyTorch, of this package nor of Python itself."""
    return not path.startswith((_OURS, _TORCH, "<")) and Path(path).is_file() and not _is_standard(path)


def _is_standard(path: str) -> bool:
    return str(Path(path).parent).startswith(str(Path(linecache.__file__).parent)) and "-packages" not in path


def line_at(path: str, number: int) -> str:
    """Return a line of the module's own as ``net.py:12: h = self.cell(x, h)``; empty for any other."""
    if not is_own(path):
        return ""
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"


@dataclass(frozen=True)
class Place:
    """Where the module's code takes a size for a number."""

    line: str
    """As ``net.py:12: for t in range(x.size(1)):``; empty where it is not known."""
    loop: bool
    """Whether a loop runs so often."""


def place_of(size: torch.SymInt) -> Place | None:
    """Return where ``size``, which tracing fixed, was taken for a number; None where an operator did it."""
    known = getattr(size.node.shape_env, "replacements_slocs", {})
    found = known.get(size.node._expr)
    frame = found.framework_loc if found is not None else None
    if not isinstance(frame, FrameSummary) or not is_own(frame.filename):
        return None
    return Place(line_at(frame.filename, frame.lineno or 0), _in_loop(frame.filename, frame.lineno or 0))


def _in_loop(path: str, number: int) -> bool:
    """Tell whether a line of source says how often a loop runs."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return False
    loops = (node.iter for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension))
    return any(each.lineno <= number <= (each.end_lineno or each.lineno) for each in loops)
