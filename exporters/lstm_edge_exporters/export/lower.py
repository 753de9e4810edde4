"""From a traced program to a graph of ONNX's operators in float64; recurrent calls are
one node each.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy  # type: ignore[import-untyped]
import torch
from onnx_ir.passes import common
from onnxscript.rewriter import RewritePass
from torch.export import ExportedProgram

from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import AxisRange

from ..cast import DTYPE_ATTRIBUTES
from ..graph import axes_of, constant, infer_shapes, set_line
from ..sizes import TimeAxis, set_input_axes, set_time_axes
from ._torch_internals import (
    REWRITE_RULES,
    FoldConstantsPass,
    decompose,
    pytree,
    registry,
    translate,
)
from .advice import refusal, stack_line
from .capture import Program, axis_text, growing, quietly
from .convolutions import name_convolutions
from .floats import default_dtype
from .hoist import hoist
from .roll import loop_sizes, roll
from .splits import drop_whole_slices, read_pieces, split_by_slices
from .translations import TRANSLATIONS

_ROOTS = (math.sqrt(number) for number in (2, 0.5, 2 / math.pi))
_NUMBERS = (
    math.pi,
    180 / math.pi,
    math.pi / 180,
    math.log(2),
    math.log(10),
    1 / 3,
    1 / 6,
    *_ROOTS,
)
"""Irrational numbers in the translations."""
_LARGE = 10**8
"""Elements of constants that are computed: norms of weights, batch norms in
convolutions."""


@cache
def _translations() -> Any:
    """Return the translations of ``torch.onnx`` and those of sizes; making them takes
    long.
    """
    translations = registry()
    for function, translation in TRANSLATIONS.items():
        translations.register_op(function, translation)
    return translations


@dataclass(frozen=True)
class Lowered:
    """A translated program."""

    model: ir.Model
    """The graph, in float64."""
    sizes: Mapping[str, sympy.Expr]
    """Sizes as expressions of axes, by their names in the graph."""
    ranges: Mapping[str, AxisRange]
    """The sizes of each dynamic axis; a loop may need two steps."""


def lower(program: Program, names: Sequence[str]) -> Lowered:
    """Translate ``program`` to a graph in float64 whose inputs are called ``names``."""
    decomposed = program.exported
    with quietly(), default_dtype(torch.float64):
        try:
            decomposed = decompose(program.exported, _translations())
            model = translate(decomposed, _translations())
            common.InlinePass()(model)
            name_convolutions(model.graph)
            _record_lines(model)
            split_by_slices(model)
            drop_whole_slices(model)
            _widen(model, decomposed)
            traced = _sizes_by_text(program, decomposed)
            _name_axes(model, traced)
            for value, name in zip(model.graph.inputs, names, strict=True):
                value.shape = ir.Shape(program.axes[name])
            ranges = roll(
                model, program.ranges, loops=program.loops, batch=program.batch
            )
            _simplify(model)
            for value, name in zip(model.graph.inputs, names, strict=True):
                value.name = name
        except LstmEdgeError:
            raise
        except Exception as error:
            lines = {
                str(node.target): stack_line(node.meta)
                for node in decomposed.graph.nodes
            }
            raise refusal("has no translation to ONNX", error, lines) from error
    sizes = {
        str(axis_text(size)): size
        for size in (*traced.values(), *loop_sizes(program.loops))
    }
    return Lowered(model, sizes, ranges)


def _record_lines(model: ir.Model) -> None:
    """Record the line of the source of every node, in place."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        traced = node.meta.get("node")
        if traced is not None:
            set_line(node, stack_line(traced.meta))


def record_time_axes(
    model: ir.Model, sizes: Mapping[str, sympy.Expr], sequence: str | None
) -> None:
    """Record the axes of every value that grow with time, in place."""
    infer_shapes(model)
    set_input_axes(model.graph, sequence)
    of_time = {text: size for text, size in sizes.items() if sequence in growing(size)}
    known: dict[tuple[int, str], TimeAxis] = {}
    for node in model.graph:
        for value in node.outputs:
            axes = []
            for index, text in enumerate(axes_of(value)):
                if text not in of_time:
                    continue
                key = (index, str(text))
                if key not in known:
                    known[key] = _time_axis(index, of_time[str(text)], str(sequence))
                axes.append(known[key])
            set_time_axes(value, axes)


def _time_axis(index: int, size: sympy.Expr, sequence: str) -> TimeAxis:
    """Return the axis of this size, which grows with time."""
    others = {symbol: 1 for symbol in size.free_symbols if str(symbol) != sequence}
    per_row = size.subs(others)
    (time,) = per_row.free_symbols

    def frames(steps: int) -> int:
        """Return the number of frames at a number of steps."""
        return int(per_row.subs(time, steps))

    return TimeAxis.of(index, frames, is_merged=bool(others))


def _sizes_by_text(
    program: Program, decomposed: ExportedProgram
) -> dict[str, sympy.Expr]:
    """Return the sizes in terms of axes by the text that the translation has for
    each.
    """
    tensors = pytree.tree_leaves(
        [node.meta.get("val") for node in decomposed.graph.nodes]
    )
    sizes = {}
    for tensor in tensors:
        for size in getattr(tensor, "shape", ()):
            if isinstance(size, torch.SymInt):
                sizes[str(size.node)] = size.node.expr.subs(program.symbols)
    return sizes


def _name_axes(model: ir.Model, sizes: Mapping[str, sympy.Expr]) -> None:
    """Write sizes as expressions of axes instead of the tracer's symbols."""
    texts = {text: axis_text(size) for text, size in sizes.items()}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if value.shape is not None:
                value.shape = ir.Shape([_axis(axis, texts) for axis in value.shape])


def _axis(
    axis: int | ir.SymbolicDim, texts: Mapping[str, int | str]
) -> int | str | None:
    """Return a number or name of an axis; one that is not traced has none."""
    if isinstance(axis, int):
        return axis
    return None if axis.value is None else texts.get(axis.value)


def _simplify(model: ir.Model) -> None:
    """Compute constants in float64, fold batch norms, remove unused values, number
    unnamed ones, in place.
    """
    folding = FoldConstantsPass(
        shape_inference=True, input_size_limit=_LARGE, output_size_limit=_LARGE
    )
    unused = common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass()  # type: ignore[no-untyped-call]
    steps = ir.passes.PassManager(
        [folding, RewritePass(REWRITE_RULES), *unused], steps=2, early_stop=True
    )
    lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    of_bodies = common.LiftSubgraphInitializersToMainGraphPass()
    # onnxruntime computes garbage where a body has one value twice among its outputs
    identities = (common.IdentityEliminationPass(), common.OutputFixPass())
    steps(model)
    read_pieces(model)
    ir.passes.Sequential(unused[0], lift, of_bodies)(model)
    hoist(model)
    ir.passes.Sequential(unused[0], *identities)(model)
    traced = re.compile(r"val_\d+")
    values = (
        value
        for node in model.graph.all_nodes()
        for value in (*node.inputs, *node.outputs)
        if value is not None
    )
    unnamed = list(
        dict.fromkeys(value for value in values if traced.fullmatch(str(value.name)))
    )
    for prefix in ("renamed_", "val_"):  # no name is taken while values are renamed
        for number, value in enumerate(unnamed):
            value.name = f"{prefix}{number}"


def _widen(model: ir.Model, program: ExportedProgram) -> None:
    """Turn every float32 of a translation into float64, in place; numbers get the
    program's digits back.
    """
    leaves = pytree.tree_leaves(
        [(node.args, node.kwargs) for node in program.graph.nodes]
    )
    numbers = [number for number in (*_NUMBERS, *leaves) if isinstance(number, float)]
    most = np.finfo(np.float32).max  # as torch.finfo has it in float32
    digits_of = {
        np.float32(x): x if np.isinf(x) else np.clip(x, -most, most) for x in numbers
    }
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        array = constant(node.outputs[0]) if node.op_type == "Constant" else None
        if array is not None and array.dtype == np.float32:
            digits: list[Any] = [
                digits_of.get(number, float(str(number))) for number in array.flat
            ]
            exact = np.array(digits, np.float64).reshape(array.shape)
            node.attributes.clear()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(exact))
        for name in DTYPE_ATTRIBUTES & node.attributes.keys():
            if node.attributes[name].as_int() == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.DOUBLE))
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.dtype = ir.DataType.DOUBLE
