"""Another ONNX file as what a file is compared with."""

import os

import onnx

from lstm_edge_runtime.errors import InputError

from ..numerics.layout import Layout
from ..numerics.onnx_reference import OnnxReference, index_values
from ._file import open_file
from ._subject import Against
from .checks.contract import recurrent_layers

__all__ = ["against_file"]


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
    model = onnx.load(str(file.path))
    return Against(
        reference=OnnxReference(model, file.runner(), Layout.of(contract), str(path)),
        about=f"{file.path.name} (ONNX)",
        inputs=tuple(spec.name for spec in contract.inputs) + tuple(each.input for each in contract.states),
        outputs=tuple(spec.name for spec in contract.outputs)
        + tuple(each.output for each in contract.states),
        layers=recurrent_layers(model),
        values=index_values(model),
        examples=dict(contract.golden.inputs) if contract.golden else {},
    )
