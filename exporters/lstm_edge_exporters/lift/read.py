"""From an ONNX file to a graph that can be lifted, or one line that says why not."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.external_data_helper import (
    ExternalDataInfo,
    _get_all_tensors,
    load_external_data_for_model,
    uses_external_data,
)
from onnx_ir.passes.common import InlinePass
from onnxscript.optimizer import fold_constants, remove_unused_nodes

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import (
    ContractError,
    FileFormatError,
    InputError,
    LstmEdgeError,
    first_line,
)
from lstm_edge_runtime.files import is_program, read_content
from lstm_edge_runtime.manifest import KEY, Array
from lstm_edge_runtime.ort import open_session

from ..door import normalize
from ..graph import RANDOM, data_inputs, describe_value
from ..options import is_axis_name
from ..recurrent import label

_OLDEST_OPSET = 7
"""The first opset whose LSTM, GRU and RNN have the inputs of later ones."""
_ROUNDING = ("DynamicQuantize", "MatMulInteger", "ConvInteger")
"""Operators of int8 files."""
Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class Original:
    """A file to lift."""

    content: bytes
    """The file with its weights, as it is."""
    graph: ir.Model
    """Its graph in the form that all stages read."""


def read_graph(source: Source) -> Original:
    """Read a file, or its content: functions inlined, nodes sorted.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, of an old opset, or one that onnxruntime
            rejects.
        InputError: the file is one of this project's own artifacts already.
        ContractError: an int8 file.
    """
    proto = _read(source)
    content = proto.SerializeToString()
    open_session(content, name="the file")  # before others print the names in it
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        model.graph.sort()
        # initializers may be among the inputs before version 4
        model.graph.inputs[:] = data_inputs(model.graph)
        model.ir_version = max(model.ir_version, 4)
        _rename_axes(model)
        model = normalize(model)
    except LstmEdgeError:
        raise
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM:
            raise ContractError(
                f"{label(node)} draws random numbers; export the model in eval mode"
            )
        if node.op_type.startswith(_ROUNDING):
            raise ContractError(
                f"{label(node)} rounds by the values of each call, so chunks can't"
                " equal the full sequence; lift the float file, then quantize it"
            )
    return Original(content, model)


def _rename_axes(model: ir.Model) -> None:
    """Make the name of every axis an identifier, in place: ``seq-len`` is ``seq_len``.

    A sum such as ``P+L`` stays as it is; a name without letters and digits is dropped.
    """
    shaped = [value for value in _values(model) if value.shape is not None]
    names = {name for value in shaped for name in _axis_names(value)}
    new_names: dict[str | None, str | None] = {name: name for name in names}
    for name in sorted(names):
        if not (is_axis_name(name) or _is_sum(name)):
            new_names[name] = _unused_name(name, new_names.values())
    for value in shaped:
        dims = value.shape or ()
        value.shape = ir.Shape(
            [dim if isinstance(dim, int) else new_names.get(dim.value) for dim in dims]
        )


def _axis_names(value: ir.Value) -> list[str]:
    """Return the names of a value's axes."""
    dims = [dim for dim in value.shape or () if not isinstance(dim, int)]
    return [dim.value for dim in dims if dim.value]


def _unused_name(name: str, taken: Collection[str | None]) -> str | None:
    """Return an identifier like ``name`` that is not taken; None if it has no word."""
    stem = "_".join(re.findall(r"[A-Za-z0-9]+", name))
    if not stem:
        return None
    stem = stem if is_axis_name(stem) else f"axis_{stem}"
    while stem in taken:
        stem += "_"
    return stem


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the inputs and computed values of a graph and of its bodies."""
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _is_sum(name: str) -> bool:
    """Return True for a sum of names and numbers, as manifests have it."""
    return parse_sum(name) != ({name: 1}, 0)


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
        if np.prod(shape) != 1 or not _holds(value.dtype.numpy(), number):
            raise InputError(
                f"input {describe_value(value)} can't be the number {number:g}"
            )
        arrays[name] = np.full(shape, number).astype(value.dtype.numpy())
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(arrays[name], name=name)
        model.graph.register_initializer(value)
    return arrays


def _holds(dtype: np.dtype[Any], number: float) -> bool:
    """Return True if an array of this dtype can hold the number, a float rounded."""
    if dtype.kind == "b":
        return number in (0, 1)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return float(number).is_integer() and limits.min <= number <= limits.max
    return dtype.kind == "f" and abs(number) <= np.finfo(dtype).max


def decide_branches(model: ir.Model) -> None:
    """Fold constant sizes and conditions, and every ``If`` that they decide, in place.

    Floats are not folded, so that the results of the graph stay the same bit for bit.
    """
    for _ in range(6):  # a branch that is taken tells sizes behind it
        before = model.graph.num_nodes()
        fold_constants(model, onnx_shape_inference=True, should_fold=_is_about_sizes)
        remove_unused_nodes(model)
        is_decided = all(node.op_type != "If" for node in model.graph)
        if is_decided or model.graph.num_nodes() == before:
            break
    model.graph.sort()


def _is_about_sizes(node: ir.Node) -> bool | None:
    """Return True for a node that computes integers, False for floats, None for an
    ``If``, which the optimizer decides.
    """
    if node.op_type == "If":
        return None
    return all(
        value.dtype and not value.dtype.is_floating_point() for value in node.outputs
    )


def _name_domain(model: onnx.ModelProto) -> int:
    """Let opsets of the domain ``ai.onnx`` be those of its short name, in place; return
    the opset.
    """
    standard = [x for x in model.opset_import if x.domain in ("", "ai.onnx")]
    opset = max((entry.version for entry in standard), default=0)
    others = [x for x in model.opset_import if x.domain not in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", opset), *others])
    return opset


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold weights of the file ``path``, next to it.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it is not an ONNX file.
    """
    name, content = read_content(path)
    tensors = _get_all_tensors(_parse(name, content))
    infos = [
        ExternalDataInfo(tensor) for tensor in tensors if uses_external_data(tensor)
    ]
    files = [path.parent / info.location for info in infos]
    return [file for file in dict.fromkeys(files) if file.exists()]


def _parse(name: str, content: bytes) -> onnx.ModelProto:
    """Return the content of a file, without weights in other files."""
    try:
        return onnx.load_from_string(content)
    except Exception as error:  # protobuf's DecodeError is in no public module
        raise FileFormatError(
            f"{name} is truncated or not an ONNX file ({first_line(error)}); copy it"
            " again, whole"
        ) from error


def _read(source: Source) -> onnx.ModelProto:
    """Return the content of a file with its weights; refuse files that can't be lifted."""
    name, content = read_content(source)
    if is_program(name, content):
        raise InputError(
            f"{name} is a program of lstm-edge: its states are inputs and outputs"
            " already; use it as it is"
        )
    model = _parse(name, content)
    try:
        if not isinstance(source, bytes):
            load_external_data_for_model(model, str(Path(source).resolve().parent))
    except Exception as error:  # onnx's checker's errors, OSError and ValueError
        raise FileFormatError(
            f"{name}: its weights in another file can't be read ({first_line(error)});"
            " copy both again, whole"
        ) from error
    if any(map(uses_external_data, _get_all_tensors(model))):
        raise FileFormatError("its weights are in another file; load it by its path")
    opset = _name_domain(model)
    if not model.graph.node or opset < _OLDEST_OPSET:
        raise FileFormatError(
            f"{name} has {len(model.graph.node)} nodes and opset {opset}, expected"
            f" {_OLDEST_OPSET} or later; export it again, or convert it with"
            " onnx.version_converter"
        )
    if any(entry.key == KEY for entry in model.metadata_props):
        raise InputError(
            f"{name} carries lstm-edge's manifest: its states are inputs and outputs"
            " already; use it as it is"
        )
    return model
