"""What can't be exported right, said with the line that does it and what to write instead."""

import ast
import linecache
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.jit import ScriptModule

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ..numerics.reference import Injection

__all__ = [
    "ConstantSizeError",
    "LoopError",
    "Place",
    "calling_line",
    "check_module",
    "check_starts",
    "is_own",
    "line_at",
    "place_of",
    "sampling_text",
    "tracing_refusal",
    "translation_refusal",
]

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_DISTRIBUTIONS = str(Path(torch.distributions.__path__[0]))
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>|"
                          r"No decompositions registered for .*?([\w:.]+)")  # fmt: skip


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


def tracing_refusal(error: Exception, module: nn.Module, seen: Mapping[str, str]) -> UnsupportedError:
    """Return why ``torch.export`` could not trace ``module``; for ``seen`` see ``Recorder.seen``."""
    name, text = type(module).__name__, " ".join(str(error).split())
    if "numpy" in seen:
        return UnsupportedError(
            f"{name} takes a tensor to NumPy ({seen['numpy']}), where no file can follow; compute it with "
            "torch's own operators"
        )
    line = _own_line(error)
    at_line = f" ({line})" if line else ""
    if _through_distributions(error):
        return UnsupportedError(
            f"{name} makes an object of torch.distributions{at_line}, which looks at the values of its "
            "parameters; return the parameters and sample outside, or give it validate_args=False"
        )
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        if "list" in seen:
            return UnsupportedError(
                f"{name} makes a list of a tensor ({seen['list']}), which a file would hold as "
                "constants; keep it a tensor, without tolist(): pack_padded_sequence, indexing and masks "
                "take one"
            )
        return UnsupportedError(
            f"{name} decides by the values of a tensor ({line or text[:160]}): a loop or an if on lengths or "
            "data would be fixed at the example's values; compute both sides and choose by torch.where, or "
            "multiply by a mask such as torch.arange(x.size(1)) < lengths.unsqueeze(1)"
        )
    if "specialized" in text or "Constraints violated" in text or re.search(r"[\[(, *]s\d+\b", text):
        return ConstantSizeError(
            f"{name} works at one size only{at_line}: {_specialized(text)}; a Python loop over an axis, "
            "len(x), int(x.size(...)) or a layer of fixed size does this. Use tensor operations over the "
            "whole axis, or give that axis as a number"
        )
    if "complex" in seen:
        return _complex(seen["complex"])
    return UnsupportedError(f"{name} can't be traced{at_line}: {text[:400]}")


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
            where = f" ({line})" if (line := _line_of(operator, program)) else ""
            return UnsupportedError(
                f"torch.onnx has no translation for the operator {operator}{where}; write it with operators "
                "that ONNX has, or move it out of the module"
            )
    text = " ".join(str(causes[-1]).split())
    return UnsupportedError(f"the traced network can't be written as ONNX: {text[:400]}")


def _line_of(operator: str, program: ExportedProgram) -> str:
    """Return the module's own line that an operator comes from; empty if none is known."""
    for graph in (program.graph, program.run_decompositions().graph):
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target) == operator:
                for path, number in reversed(re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")):
                    if line := line_at(path, int(number)):
                        return line
    return ""


def _specialized(text: str) -> str:
    found = re.search(r"specialized it to be a constant \((\d+)\)", text) or re.search(
        r"specialized .*?to (?:a )?constant.*?(\d+)", text
    )
    return f"an axis that was given a name is fixed at {found[1]} in its code" if found else text[:300]


def _through_distributions(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(_DISTRIBUTIONS):
            return True
        trace = trace.tb_next
    return False


def _own_line(error: BaseException) -> str:
    """Return the deepest line outside of PyTorch and this package that ``error`` went through.

    As ``net.py:12: h = self.cell(x[:, step], h)``; empty where there is none.
    """
    found = ""
    cause: BaseException | None = error
    while cause is not None:
        trace = cause.__traceback__
        while trace is not None:
            found = line_at(trace.tb_frame.f_code.co_filename, trace.tb_lineno) or found
            trace = trace.tb_next
        cause = None if found else (cause.__cause__ or cause.__context__)
    return found


def calling_line() -> str:
    """Return the innermost line outside of PyTorch and this package that is being run."""
    frame = sys._getframe(1)
    while frame is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return line_at(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def is_own(path: str) -> bool:
    """Tell whether a source file is neither of PyTorch, of this package nor of Python itself."""
    return not path.startswith((_OURS, _TORCH, "<")) and Path(path).exists() and not _is_standard(path)


def _is_standard(path: str) -> bool:
    return str(Path(path).parent).startswith(str(Path(linecache.__file__).parent)) and "-packages" not in path


def line_at(path: str, number: int) -> str:
    """Return a line of the module's own as ``net.py:12: h = self.cell(x, h)``; empty for any other."""
    if not is_own(path):
        return ""
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"


@dataclass(frozen=True)
class Place:
    """Where the module's own code takes a size for a number."""

    line: str
    """As ``net.py:12: for t in range(x.size(1)):``."""
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
