"""From an ONNX file to a graph that can be lifted, or one line that says why not."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx.external_data_helper import (
    ExternalDataInfo,
    _get_all_tensors,
    load_external_data_for_model,
    uses_external_data,
)
from onnx_ir.passes.common import InlinePass
from onnxscript.optimizer import fold_constants, remove_unused_nodes

from lstm_edge_runtime.errors import ContractError, FileFormatError, InputError, first_line
from lstm_edge_runtime.manifest import KEY, Array
from lstm_edge_runtime.ort import open_session
from lstm_edge_runtime.reading import read_content

from ..graph import RANDOM, data_inputs, infer_shapes, to_bytes
from ..recurrent import label

_OLDEST_OPSET = 7
"""From this opset on LSTM, GRU and RNN have today's inputs and attributes."""
_ROUNDING = ("DynamicQuantize", "MatMulInteger", "ConvInteger")
"""Operators of int8 files."""
_ROUNDS = 6
"""Most times that sizes are inferred and folded: a branch that is taken tells sizes behind it."""
Source = str | os.PathLike[str] | bytes


def read_graph(source: Source) -> ir.Model:
    """Read a file, or its content: functions inlined, nodes sorted, shapes inferred.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, of an old opset, or one that onnxruntime rejects.
        InputError: the file is one of this project's own artifacts already.
        ContractError: an int8 file.
    """
    proto = _read(source)
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        model.graph.sort()
        infer_shapes(model)
        content = to_bytes(model)
    except FileFormatError:
        raise
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    open_session(content, name="the file")
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM:
            raise ContractError(f"{label(node)} gives other numbers on every call; export for inference")
        if node.op_type.startswith(_ROUNDING):
            raise ContractError(
                f"{label(node)} rounds by the values of each call, so chunks can't equal the full sequence; "
                "lift the float file, then quantize it"
            )
    return model


def check_keeps_weights(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Refuse to write over a file with weights of ``source``; ``source`` itself may be replaced.

    Raises:
        InputError: ``output`` is such a file, or a link to one.
    """
    if not Path(source).is_file():
        return
    tensors = _get_all_tensors(onnx.load(os.fspath(source), load_external_data=False))
    beside = {ExternalDataInfo(each).location for each in tensors if uses_external_data(each)}
    if os.path.realpath(output) in {os.path.realpath(Path(source).parent / name) for name in beside}:
        raise InputError(f"{output} has weights of {source} and would be replaced; name another file")


def put_constants(model: ir.Model, constants: Mapping[str, float]) -> dict[str, Array]:
    """Replace inputs by numbers, in place; return them as arrays.

    Raises:
        InputError: no such input, or one of several elements.
    """
    inputs = {str(value.name): value for value in data_inputs(model.graph)}
    arrays = {}
    for name, number in constants.items():
        value = inputs.get(name)
        if value is None or value.dtype is None:
            raise InputError(f"no input {name!r}; the inputs are {', '.join(inputs)}")
        shape = [size if isinstance(size, int) else 1 for size in value.shape or ()]
        if np.prod(shape) != 1:
            raise InputError(f"input {name} has {len(shape)} axes; only a single number can be replaced")
        arrays[name] = np.full(shape, number, value.dtype.numpy())
        if value.dtype.is_integer() and number % 1:
            raise InputError(f"input {name} is {value.dtype.numpy()}, which can't represent {number:g}")
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(arrays[name], name=name)
        model.graph.register_initializer(value)
    return arrays


def decide_branches(model: ir.Model) -> None:
    """Fold sizes and conditions that are constant, and with them every ``If`` that they decide, in place.

    Floats are left as they are, so that the graph computes what it did to the last digit.
    """
    for _ in range(_ROUNDS):
        before = model.graph.num_nodes()
        infer_shapes(model)
        fold_constants(model, onnx_shape_inference=True, should_fold=_is_about_sizes)
        remove_unused_nodes(model)
        if model.graph.num_nodes() == before:
            break
    model.graph.sort()


def _is_about_sizes(node: ir.Node) -> bool | None:
    """Return True for what computes integers, False for floats; an ``If`` is left to the optimizer."""
    if node.op_type == "If":
        return None
    known = [value.dtype for value in node.outputs]
    return all(dtype is not None and not dtype.is_floating_point() for dtype in known)


def _read(source: Source) -> onnx.ModelProto:
    name, content = read_content(source)
    try:
        model = onnx.load_from_string(content)
    except Exception as error:  # protobuf's DecodeError
        raise FileFormatError(f"{name} is truncated, or not an ONNX file; copy it again") from error
    opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
    if not model.graph.node or not opset:
        raise FileFormatError(f"{name} contains no ONNX graph; export or copy it again")
    if opset < _OLDEST_OPSET:
        raise FileFormatError(
            f"{name} has opset {opset}, expected {_OLDEST_OPSET} or later; "
            f"convert it with onnx.version_converter"
        )
    if any(each.key == KEY for each in model.metadata_props):
        raise InputError(f"{name} carries lstm-edge's manifest already: its states are inputs and outputs")
    if isinstance(source, bytes) and any(map(uses_external_data, _get_all_tensors(model))):
        raise FileFormatError("its weights are in another file; load it by its path")
    try:
        if not isinstance(source, bytes):
            load_external_data_for_model(model, str(Path(source).resolve().parent))
    except Exception as error:  # protobuf's DecodeError, onnx's checker's errors, OSError and ValueError
        raise FileFormatError(
            f"{name}, or its weights in another file, can't be read ({first_line(error)}); "
            "export or copy it again, whole"
        ) from error
    return model
