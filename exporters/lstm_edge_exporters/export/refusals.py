"""What can't be exported right, said with what to write instead."""

import re
from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from torch.jit import ScriptModule

from lstm_edge_runtime.errors import InputError, LstmEdgeError, UnsupportedError

from ..numerics.reference import Injection
from .record import Recorder

__all__ = ["check_calls", "check_module", "check_starts", "tracing_refusal", "translation_refusal"]

_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>|"
                          r"No decompositions registered for .*?([\w:.]+)")  # fmt: skip


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
    for path, count in calls.items():
        if count > 1:
            raise UnsupportedError(
                f"cell {path!r} is called {count} times in one forward: a loop over time would be unrolled "
                "at that length; use nn.LSTM, nn.GRU or nn.RNN with the same weights instead, or export one "
                "step a call with the state as input and output"
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


def tracing_refusal(error: Exception, module: nn.Module, recorder: Recorder) -> LstmEdgeError:
    """Say why ``torch.export`` could not trace ``module``."""
    if isinstance(error, LstmEdgeError):
        return error
    name, text = type(module).__name__, " ".join(str(error).split())
    try:
        check_calls(recorder)
    except UnsupportedError as loop:
        return loop
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return UnsupportedError(
            f"{name} decides by the values of a tensor ({text[:160]}): a loop or an if on lengths or data "
            "would be fixed at the example's values; use torch.where or a mask"
        )
    if "specialized" in text or "Constraints violated" in text or re.search(r"[\[(, *]s\d+\b", text):
        return UnsupportedError(
            f"{name} works at one size only: {_specialised(text)}; a Python loop over an axis, len(x), "
            "int(x.size(...)) or a layer of fixed size does this. Use tensor operations over the whole axis, "
            "or give that axis as a number"
        )
    return UnsupportedError(f"{name} can't be traced: {text[:400]}")


def translation_refusal(error: Exception) -> LstmEdgeError:
    """Say which operator PyTorch's ONNX translation lacks."""
    causes: list[BaseException] = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        found = _NO_OPERATOR.search(str(cause))
        if found:
            operator = ".".join(part for part in found.groups() if part)
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
