"""Private names of PyTorch and onnxscript that the export needs, each wrapped in a
function or constant.

A new version of PyTorch that moves one of them changes this module alone.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from traceback import FrameSummary
from types import FrameType
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import rewriter
from onnxscript.function_libs.torch_lib.ops.common import merge_dims
from onnxscript.function_libs.torch_lib.ops.core import aten_index
from onnxscript.optimizer._constant_folding import FoldConstantsPass
from onnxscript.rewriter.rules.common import _basic_rules
from torch import nn
from torch._dynamo import OptimizedModule
from torch.export import ExportedProgram
from torch.fx.experimental import _config as _tracing
from torch.onnx._internal.exporter import _core
from torch.onnx._internal.exporter._registration import ONNXRegistry
from torch.utils import _pytree as pytree
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.symbol import SymT, symbol_is_type

__all__ = [
    "PACK",
    "PAD_PACKED",
    "REWRITE_RULES",
    "FoldConstantsPass",
    "Guard",
    "OptimizedModule",
    "assume",
    "aten_index",
    "decompose",
    "fixing_frame",
    "guards",
    "int_oo",
    "is_unbacked",
    "merge_dims",
    "original_module",
    "original_symbol",
    "pytree",
    "registry",
    "tracing_any_size",
    "translate",
    "watch_text",
    "without_modes",
]

assume: Any = torch._check
"""Let the tracer take a condition on sizes as true."""
without_modes: Any = torch._C.DisableTorchFunction
"""Call PyTorch inside without the modes that replace its functions."""
PACK: Any = torch._VF._pack_padded_sequence
"""The operator of ``pack_padded_sequence``."""
PAD_PACKED: Any = torch._VF._pad_packed_sequence
"""The operator of ``pad_packed_sequence``."""

_RULE_MODULES = (
    "_broadcast_to_matmul",
    "_cast_constant_of_shape",
    "_collapse_slices",
    "_fuse_batchnorm",
)
REWRITE_RULES = (
    *(rule for name in _RULE_MODULES for rule in getattr(rewriter, name).rules),
    *_basic_rules.basic_optimization_rules(),
)
"""onnxscript's rewrite rules, without the rules that treat 1e-8 as 0."""


@dataclass(frozen=True)
class Guard:
    """A condition on sizes that a trace rests on."""

    condition: Any
    """A sympy expression of the tracer's symbols."""
    frame: FrameSummary | None
    """The Python frame that asked for it."""


def guards(sizes: Sequence[Any]) -> list[Guard]:
    """Return the guards of the trace that ``sizes`` belong to; numbers belong to
    none.
    """
    for size in sizes:
        if isinstance(size, torch.SymInt):
            found = size.node.shape_env.guards
            return [
                Guard(guard.expr, _frame(guard.sloc.framework_loc)) for guard in found
            ]
    return []


def original_module(module: OptimizedModule) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped."""
    return module._orig_mod


def is_unbacked(symbol: Any) -> bool:
    """Return True if a symbol is a size that depends on data, or that the tracer could
    not tell.
    """
    return symbol_is_type(symbol, (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT))


def original_symbol(size: torch.SymInt) -> Any:
    """Return the expression that the tracer first gave a size, before it replaced
    it.
    """
    return size.node._expr


def watch_text(size: Any, written: Callable[[FrameType], None]) -> None:
    """Call ``written`` with the frame that turns a traced size into text, from now on;
    sizes computed from ``size`` are not watched.
    """
    if not isinstance(size, torch.SymInt):
        return
    text_of = size.node._graph_repr

    def tell() -> str:
        """Report the user's line, then return the text."""
        written(sys._getframe(2))  # behind the size's own method
        return str(text_of())

    size.node._graph_repr = tell


def fixing_frame(size: Any) -> FrameSummary | None:
    """Return the frame that made the tracer replace a size, None if it did not."""
    if not isinstance(size, torch.SymInt):
        return None
    sloc = size.node.shape_env.replacements_slocs.get(original_symbol(size))
    return None if sloc is None else _frame(sloc.framework_loc)


def _frame(location: object) -> FrameSummary | None:
    """Return the location of a guard; None outside of Python code."""
    return location if isinstance(location, FrameSummary) else None


def tracing_any_size() -> AbstractContextManager[None]:
    """Trace inside without branches for sizes of one."""
    return _tracing.patch(backed_size_oblivious=True)  # type: ignore[attr-defined,no-any-return]


def registry() -> ONNXRegistry:
    """Return the translations of ``torch.onnx``; making them takes long."""
    return ONNXRegistry.from_torchlib()


def decompose(program: ExportedProgram, translations: ONNXRegistry) -> ExportedProgram:
    """Return ``program`` in operators that ``translations`` has."""
    return _core._prepare_exported_program_for_export(program, registry=translations)


def translate(program: ExportedProgram, translations: ONNXRegistry) -> ir.Model:
    """Return the ONNX graph of a decomposed program."""
    return _core._exported_program_to_onnx_program(
        program, registry=translations, lower="at_conversion"
    ).model
