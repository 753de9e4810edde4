"""What can't be exported right, said with what to write instead."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.jit import ScriptModule

from lstm_edge_runtime.errors import InputError, LstmEdgeError, UnsupportedError

from ..numerics.reference import Injection
from .guards import own_line
from .record import Recorder

__all__ = [
    "ConstantSizeError",
    "LoopError",
    "check_calls",
    "check_module",
    "check_starts",
    "random_refusal",
    "tracing_refusal",
    "translation_refusal",
]

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


def check_calls(recorder: Recorder) -> None:
    """Refuse a cell called in an unrolled loop.

    Raises:
        UnsupportedError: a cell is called more than once in one ``forward``.
    """
    calls = Counter(call.path for call in recorder.calls if call.cell)
    lines = {call.path: call.line for call in recorder.calls}
    for path, count in calls.items():
        if count > 1:
            loop = LoopError(
                f"cell {path!r} is called {count} times in one forward ({lines[path]}): a loop over time "
                "would be unrolled at that length; use nn.LSTM, nn.GRU or nn.RNN with the same weights "
                "instead, or export one step a call with the state as input and output"
            )
            loop.steps = count
            raise loop


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


def tracing_refusal(error: Exception, module: nn.Module, recorder: Recorder) -> LstmEdgeError:
    """Say why ``torch.export`` could not trace ``module``."""
    if isinstance(error, LstmEdgeError):
        return error
    name, text = type(module).__name__, " ".join(str(error).split())
    try:
        check_calls(recorder)
    except UnsupportedError as loop:
        return loop
    if "numpy" in recorder.seen:
        return UnsupportedError(
            f"{name} takes a tensor to NumPy ({recorder.seen['numpy']}), where no file can follow; compute "
            "it with torch's own operators"
        )
    line = own_line(error)
    at_line = f" ({line})" if line else ""
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        if "list" in recorder.seen:
            return UnsupportedError(
                f"{name} makes a list of a tensor ({recorder.seen['list']}), which a file would hold as "
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
            f"{name} works at one size only{at_line}: {_specialised(text)}; a Python loop over an axis, "
            "len(x), int(x.size(...)) or a layer of fixed size does this. Use tensor operations over the "
            "whole axis, or give that axis as a number"
        )
    if "complex" in recorder.seen:
        return _complex(recorder.seen["complex"])
    return UnsupportedError(f"{name} can't be traced{at_line}: {text[:400]}")


def _complex(line: str) -> UnsupportedError:
    return UnsupportedError(
        f"forward computes with complex tensors ({line}), which ONNX's operators do not take; compute the "
        "spectrum outside and pass its magnitude or its real and imaginary parts in"
    )


def random_refusal(name: str, seen: Mapping[str, str]) -> UnsupportedError:
    """Return the exception to raise where an output is another one on every call."""
    if "sampling" in seen:
        return UnsupportedError(
            f"forward samples: it draws random numbers ({seen['sampling']}), and so gives another {name} on "
            "every call; return the distribution's parameters and sample outside, or pass the numbers in"
        )
    return UnsupportedError(
        f"forward gives another {name} on every call; draw random numbers outside, keep states outside, and "
        "pass them in"
    )


def translation_refusal(error: Exception, seen: Mapping[str, str]) -> LstmEdgeError:
    """Say which operator PyTorch's ONNX translation lacks, or what ``forward`` does that ONNX has not.

    Args:
        error: PyTorch's.
        seen: see ``Recorder.seen``.
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
                return random_refusal("output", seen)
            return UnsupportedError(
                f"torch.onnx has no translation for the operator {operator}; write it with operators that "
                "ONNX has, or move it out of the module"
            )
    text = " ".join(str(causes[-1]).split())
    return UnsupportedError(f"the traced network can't be written as ONNX: {text[:400]}")


def _specialised(text: str) -> str:
    found = re.search(r"specialized it to be a constant \((\d+)\)", text) or re.search(
        r"specialized .*?to (?:a )?constant.*?(\d+)", text
    )
    return f"an axis that was given a name is fixed at {found[1]} in its code" if found else text[:300]
