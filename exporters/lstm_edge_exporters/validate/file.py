"""The file under test: opened by the runtime's own rules, then run on plain named arrays."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import ContractError, InputError, ManifestError
from lstm_edge_runtime.manifest import Axes, Manifest
from lstm_edge_runtime.ort import CPU, Provider, SessionOptions, open_session, run_by_name

__all__ = ["ModelFile", "Runner", "every_node", "open_file", "recurrent_layers"]

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Every input by name in, every output by name out."""


_INT8 = frozenset(
    """DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat MatMulNBits ConvInteger
    QLinearMatMul QLinearConv QGemm QuantizeLinear DynamicQuantizeLinear DequantizeLinear""".split()  # noqa: SIM905
)
"""Operators that compute with, or decode, 8 bits or fewer."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file and the manifest it keeps, or why it keeps none."""

    path: Path
    sha256: str
    model: Model | None
    """None where the manifest and the graph contradict one another."""
    broken: str
    """In what they do; empty where they agree."""

    @property
    def manifest(self) -> Manifest:
        """The file's own, or what was read off the graph of a file without one."""
        assert self.model is not None
        return self.model.interface

    @property
    def has_manifest(self) -> bool:
        """Whether the file states anything itself."""
        return self.model is not None and self.model.manifest is not None

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The graph, without data that lies outside the file."""
        return onnx.load(str(self.path), load_external_data=False)

    @property
    def graph_axes(self) -> dict[str, Axes]:
        """The axes of every input and output as the graph declares them; ``?`` where it gives no name."""
        return {
            value.name: tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
                for dim in value.type.tensor_type.shape.dim
            )
            for value in (*self.proto.graph.input, *self.proto.graph.output)
        }

    @property
    def precision(self) -> str:
        """What the nodes and their weights compute in: ``fp32``, ``fp64``, ``fp16`` or ``int8``."""
        graph = self.proto.graph
        stored = {tensor.data_type for tensor in graph.initializer}
        passed = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
        kinds = onnx.TensorProto
        if stored & {kinds.INT8, kinds.UINT8} or any(
            node.op_type in _INT8 for node in every_node(self.proto)
        ):
            return "int8"
        if kinds.FLOAT16 in stored | passed:
            return "fp16"
        return "fp64" if kinds.DOUBLE in passed else "fp32"

    @property
    def opset(self) -> int:
        """Of ONNX's own operators."""
        versions = (each.version for each in self.proto.opset_import if each.domain in ("", "ai.onnx"))
        return max(versions, default=0)

    def runner(self, threads: int = 1, providers: tuple[Provider, ...] = (CPU,)) -> Runner:
        """Open a session of its own.

        Raises:
            ProviderError: a provider is not really in use.
            FileFormatError: onnxruntime can't read the file.
        """
        session = open_session(str(self.path), SessionOptions(providers=providers, threads=threads))
        dtypes = {
            each.name: np.dtype(_DTYPES.get(each.type, "float32"))
            for each in session.get_inputs()
            if each.type in _DTYPES
        }

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            own = {name: array.astype(dtypes.get(name, array.dtype)) for name, array in feeds.items()}
            return run_by_name(session, own)

        return run


_RECURRENT = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN", "DynamicQuantizeLSTM": "LSTM"}
_DTYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64"}
"""A file may take its floats narrower or wider than the reference."""


def open_file(path: str | os.PathLike[str]) -> ModelFile:
    """Open the file under test.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or unsafe.
        InputError: in ORT format, which says too little of its graph.
    """
    path = Path(path)
    if path.suffix == ".ort":
        raise InputError(f"{path} is in ORT format; validate the .onnx file that it was made from")
    model, broken = None, ""
    try:
        model = load(path, device="cpu", threads=1, engine="onnxruntime")
    except (ContractError, ManifestError) as error:
        broken = str(error)
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), model, broken)


def recurrent_layers(model: onnx.ModelProto) -> Counter[str]:
    """Count the recurrent nodes by kind, those of inner graphs and functions included."""
    return Counter(_RECURRENT[node.op_type] for node in every_node(model) if node.op_type in _RECURRENT)


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Return every node, those of inner graphs and functions included."""
    waiting: list[Sequence[onnx.NodeProto]] = [model.graph.node, *(f.node for f in model.functions)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [graph.node for graph in (attribute.g, *attribute.graphs) if graph.node]
