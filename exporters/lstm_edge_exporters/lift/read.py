"""From an ONNX file to a graph that passes can work on, or one line that says why not.

The file is read whole, its external data included; onnxruntime opens it once; functions are inlined, nodes
sorted, ``layout=1`` rewritten and shapes inferred.
"""

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx.external_data_helper import load_external_data_for_model
from onnx_ir.passes.common import InlinePass

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.onnx_reader import read_onnx
from lstm_edge_runtime.ort import open_session

from ..graph import infer_shapes, to_bytes
from ..recurrent import to_layout_0

__all__ = ["check_keeps_weights", "read_graph"]

_OLDEST_OPSET = 7
"""From here on LSTM, GRU and RNN take the inputs and attributes that they have today."""


def read_graph(source: str | os.PathLike[str] | bytes) -> tuple[ir.Model, onnx.ModelProto]:
    """Read a file, or a file's content; return its graph, and the file's own message with weights inside.

    Nodes that the file lists before what they read are sorted, and ``layout=1`` is rewritten, in both.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, of an opset below 7, with external data that is missing, too
            short, or outside the file's own folder; or a graph that onnxruntime does not take.
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
    if not batchwise:  # onnxruntime does not open it as it is
        open_session(content, name="the file")
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        before = list(model.graph.all_nodes())
        model.graph.sort()
        infer_shapes(model)
        if to_layout_0(model) or list(model.graph.all_nodes()) != before:
            content = to_bytes(model)
            proto = onnx.load_from_string(content)
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    if batchwise:
        open_session(content, name="the file")
    return model, proto


def check_keeps_weights(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Refuse to write over a file that holds weights of ``source``; ``source`` itself may be replaced.

    Raises:
        InputError: ``output`` is such a file, or a link to one.
        FileFormatError: ``source`` is truncated or foreign, or its external data is not beside it.
    """
    if not (path := Path(source)).is_file():
        return
    if os.path.realpath(output) in read_onnx(path.read_bytes(), path.resolve().parent).external_paths():
        raise InputError(f"{output} holds weights of {source} and would be replaced; name another file")


def _read(source: str | os.PathLike[str] | bytes) -> onnx.ModelProto:
    if isinstance(source, bytes):
        name, content, folder = "the model", source, None
    else:
        path = Path(source)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "not there"
            raise NotFoundError(f"{path} is {found}, expected an .onnx file")
        try:
            name, content, folder = str(path), path.read_bytes(), path.resolve().parent
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, which it exports under no typed name
        raise FileFormatError(f"{name} is truncated, or not an ONNX file; export or copy it again") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not model.graph.node or not opset:
        raise FileFormatError(f"{name} holds no ONNX graph; export or copy it again")
    if opset < _OLDEST_OPSET:
        raise FileFormatError(
            f"{name} has opset {opset}, expected {_OLDEST_OPSET} or later; "
            f"convert it with onnx.version_converter"
        )
    if any(entry.key == KEY for entry in model.metadata_props):
        raise InputError(f"{name} carries lstm-edge's manifest already: its states are inputs and outputs")
    try:
        read_onnx(content, folder).check()
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    _load_weights(model, content, name, folder)
    return model


def _load_weights(model: onnx.ModelProto, content: bytes, name: str, folder: Path | None) -> None:
    if folder is None:
        tensors = list(model.graph.initializer)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            raise FileFormatError(f"{name} keeps its weights in another file; lift it by its path")
        return
    try:
        read_onnx(content, folder).external_paths()
        load_external_data_for_model(model, str(folder))
    except Exception as error:  # ours, or onnx's checker's errors, OSError and ValueError
        raise FileFormatError(
            f"{name} keeps weights in another file that can't be used ({first_line(error)}); "
            "put it whole into the model's own folder"
        ) from error
