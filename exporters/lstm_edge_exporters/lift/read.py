"""From an ONNX file to a graph that passes can work on, or one line that says why not.

The file is read whole, its external data included; onnxruntime opens it once; functions are inlined, nodes
sorted, ``layout=1`` rewritten and shapes inferred.
"""

import os
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import (
    ExternalDataInfo,
    _get_all_tensors,
    load_external_data_for_model,
    uses_external_data,
)
from onnx_ir.passes.common import InlinePass

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.reading import read_content

from ..graph import data_inputs, forget_shapes, infer_shapes, to_bytes
from ..isolation import open_isolated
from ..recurrent import to_layout_0
from .axes import transpose_reshapes
from .config import LiftConfig

_OLDEST_OPSET = 7
"""From this opset on LSTM, GRU and RNN have today's inputs and attributes."""


def read_graph(
    source: str | os.PathLike[str] | bytes, config: LiftConfig
) -> tuple[ir.Model, onnx.ModelProto, LiftConfig]:
    """Read a file, or a file's content, or a file's content.

    Returns:
        Its graph; the file's own message with weights inside; and the config with the states that the
        configuration next to it declares. Nodes that the file lists before what they read are sorted, and
        ``layout=1`` is rewritten, in both.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, of an opset below 7, with external data that is missing, too
            short, or outside the file's own folder; or a graph that onnxruntime rejects.
        InputError: the file is one of this project's own artifacts already.
    """
    proto = _read(source)
    try:
        content = proto.SerializeToString()
    except Exception as error:  # protobuf raises its own EncodeError past 2 GiB
        raise FileFormatError("with its external data the file passes 2 GiB; lift a smaller part") from error
    batchwise = any(
        entry.name == "layout" and entry.i for node in proto.graph.node for entry in node.attribute
    )
    if not batchwise:  # onnxruntime can't open it unchanged
        open_isolated(content, name="the file")
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        before = list(model.graph.all_nodes())
        model.graph.sort()
        forget_shapes(model)  # PyTorch's exporter declares the example's size for an axis that is dynamic
        infer_shapes(model)
        if to_layout_0(model) or list(model.graph.all_nodes()) != before:
            content = to_bytes(model)
            proto = onnx.load_from_string(content)
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    if batchwise:
        open_isolated(content, name="the file")
    config = _with_scalars(model, config)
    transpose_reshapes(model)
    return model, proto, config


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


def _with_scalars(model: ir.Model, config: LiftConfig) -> LiftConfig:
    """Take a size given to an input without axes for its value."""
    scalars = {
        value.name for value in data_inputs(model.graph) if value.shape is not None and not len(value.shape)
    }
    numbers = {
        name: axes[0]
        for name, axes in config.inputs.items()
        if name in scalars and len(axes) == 1 and isinstance(axes[0], int)
    }
    inputs = {name: axes for name, axes in config.inputs.items() if name not in numbers}
    return replace(config, inputs=inputs, constants={**config.constants, **numbers})


def _read(source: str | os.PathLike[str] | bytes) -> onnx.ModelProto:
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
