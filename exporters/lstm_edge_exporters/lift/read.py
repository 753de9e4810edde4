"""From an ONNX file to a graph that can be lifted, or one line that says why not."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.external_data_helper import (
    _get_all_tensors,
    load_external_data_for_model,
    uses_external_data,
)
from onnx_ir.passes.common import InlinePass
from onnxscript.optimizer import fold_constants, remove_unused_nodes

from lstm_edge_runtime.errors import (
    ContractError,
    FileFormatError,
    InputError,
    first_line,
)
from lstm_edge_runtime.files import read_content
from lstm_edge_runtime.manifest import KEY, Array
from lstm_edge_runtime.ort import open_session

from ..graph import RANDOM, data_inputs, describe_value, to_bytes
from ..recurrent import label

_OLDEST_OPSET = 7
"""From this opset on LSTM, GRU and RNN have today's inputs and attributes."""
_ROUNDING = ("DynamicQuantize", "MatMulInteger", "ConvInteger")
"""Operators of int8 files."""
Source = str | os.PathLike[str] | bytes


def read_graph(source: Source) -> ir.Model:
    """Read a file, or its content: functions inlined, nodes sorted.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, of an old opset, or one that onnxruntime
            rejects.
        InputError: the file is one of this project's own artifacts already.
        ContractError: an int8 file.
    """
    proto = _read(source)
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        model.graph.sort()
        model.graph.inputs[:] = data_inputs(
            model.graph
        )  # initializers may be among them before version 4
        model.ir_version = max(model.ir_version, 4)
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    open_session(to_bytes(model), name="the file")
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM:
            raise ContractError(
                f"{label(node)} gives other numbers on every call; export for inference"
            )
        if node.op_type.startswith(_ROUNDING):
            raise ContractError(
                f"{label(node)} rounds by the values of each call, so chunks can't"
                " equal the full sequence; lift the float file, then quantize it"
            )
    return model


def put_constants(model: ir.Model, constants: Mapping[str, float]) -> dict[str, Array]:
    """Replace inputs by numbers, in place; return them as arrays, or raise
    ``InputError``.
    """
    inputs = {str(value.name): value for value in data_inputs(model.graph)}
    arrays = {}
    for name, number in constants.items():
        value = inputs.get(name)
        if value is None or value.dtype is None:
            raise InputError(f"no input {name!r}; the inputs are {', '.join(inputs)}")
        shape = [size if isinstance(size, int) else 1 for size in value.shape or ()]
        if np.prod(shape) != 1 or (value.dtype.is_integer() and number % 1):
            raise InputError(
                f"input {describe_value(value)} can't be the number {number:g}"
            )
        arrays[name] = np.full(shape, number, value.dtype.numpy())
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(arrays[name], name=name)
        model.graph.register_initializer(value)
    return arrays


def decide_branches(model: ir.Model) -> None:
    """Fold sizes and conditions that are constant, and with them every ``If`` that they
    decide, in place.

    Floats are left as they are, so that the graph computes what it did to the last
    digit.
    """
    for _ in range(6):  # a branch that is taken tells sizes behind it
        before = model.graph.num_nodes()
        fold_constants(model, onnx_shape_inference=True, should_fold=_is_about_sizes)
        remove_unused_nodes(model)
        if model.graph.num_nodes() == before or all(
            node.op_type != "If" for node in model.graph
        ):
            break
    model.graph.sort()


def _is_about_sizes(node: ir.Node) -> bool | None:
    """Return True for what computes integers, False for floats; an ``If`` is left to
    the optimizer.
    """
    if node.op_type == "If":
        return None
    return all(
        value.dtype and not value.dtype.is_floating_point() for value in node.outputs
    )


def _read(source: Source) -> onnx.ModelProto:
    name, content = read_content(source)
    try:
        model = onnx.load_from_string(content)
        if not isinstance(source, bytes):
            load_external_data_for_model(model, str(Path(source).resolve().parent))
    # protobuf's DecodeError, onnx's checker's errors, OSError and ValueError
    except Exception as error:
        raise FileFormatError(
            f"{name} is truncated, not an ONNX file, or its weights in another file"
            f" can't be read ({first_line(error)}); copy it again, whole"
        ) from error
    if any(map(uses_external_data, _get_all_tensors(model))):
        raise FileFormatError("its weights are in another file; load it by its path")
    opset = max(
        (
            entry.version
            for entry in model.opset_import
            if entry.domain in ("", "ai.onnx")
        ),
        default=0,
    )
    if not model.graph.node or opset < _OLDEST_OPSET:
        raise FileFormatError(
            f"{name} has {len(model.graph.node)} nodes and opset {opset}, expected"
            f" {_OLDEST_OPSET} or later; export it again, or convert it with"
            " onnx.version_converter"
        )
    if any(entry.key == KEY for entry in model.metadata_props):
        raise InputError(
            f"{name} carries lstm-edge's manifest already: its states are inputs and"
            " outputs"
        )
    return model
