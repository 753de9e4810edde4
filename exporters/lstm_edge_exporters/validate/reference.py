"""What a file may be compared with: a PyTorch module, or another ONNX file."""

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator

from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line

from ..numerics.recurrent_operators import GRU, LSTM, RNN
from ._file import Runner, open_file
from ._subject import Against
from .checks.contract import recurrent_layers

__all__ = ["OnnxReference", "against_file"]

Array = npt.NDArray[Any]

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


class OnnxReference:
    """An ONNX file as the reference: onnxruntime for its own dtype, numpy for float64."""

    def __init__(self, path: Path, run: Runner) -> None:
        """Read the file.

        Raises:
            UnsupportedError: an operator that can't be evaluated in float64.
        """
        model = onnx.load(str(path))
        foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
        if foreign:
            raise UnsupportedError(
                f"{path} uses operators of {', '.join(foreign)}, which have no float64 run; "
                "compare with the float file or the PyTorch module that it was made from"
            )
        self._run = run
        self._model = _widen(model)
        self._double = ReferenceEvaluator(self._model, new_ops=[LSTM, GRU, RNN])
        self._names = [output.name for output in model.graph.output]

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return every output as onnxruntime computes it on the CPU with one thread.

        Raises:
            RuntimeError: the file does not run on ``feeds``.
        """
        try:
            return self._run(feeds)
        except Exception as error:
            raise RuntimeError(first_line(error)) from error

    def shaken(self, draw: int) -> "OnnxReference":
        """Return a copy whose recurrent nodes err in float64 by one float32 place at every step."""
        copied = copy.copy(self)
        rng = np.random.default_rng(draw)
        ops = [type(op.__name__, (op,), {"shake": rng}) for op in (LSTM, GRU, RNN)]
        copied._double = ReferenceEvaluator(self._model, new_ops=ops)
        return copied

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output in float64; raises as ``run``."""
        wide = {
            name: array.astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }
        try:
            return dict(zip(self._names, self._double.run(None, wide), strict=True))
        except Exception as error:
            raise RuntimeError(first_line(error)) from error


def against_file(path: str | os.PathLike[str]) -> Against:
    """Compare with another ONNX file, which must keep a state contract of its own.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
        InputError: its contract is broken.
        UnsupportedError: it can't be run in float64.
    """
    file = open_file(path)
    if file.model is None:
        raise InputError(f"{path} can't be a reference: {file.broken}")
    contract = file.contract
    model = onnx.load(str(file.path), load_external_data=False)
    return Against(
        reference=OnnxReference(file.path, file.runner()),
        about=f"{file.path.name} (ONNX)",
        inputs=tuple(spec.name for spec in contract.inputs) + tuple(each.input for each in contract.states),
        outputs=tuple(spec.name for spec in contract.outputs)
        + tuple(each.output for each in contract.states),
        layers=recurrent_layers(model),
        examples=dict(contract.golden.inputs) if contract.golden else {},
    )


def _widen(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose every float tensor, input, output and cast is float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for value in (*wide.graph.input, *wide.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type in _FLOATS:
            kind.elem_type = onnx.TensorProto.DOUBLE
    _widen_graph(wide.graph)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = onnx.TensorProto.DOUBLE
            for inner in (attribute.g, *attribute.graphs):
                _widen_graph(inner)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
