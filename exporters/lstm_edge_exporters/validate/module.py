"""A PyTorch module as what a file is compared with."""

import inspect
from collections import Counter
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from lstm_edge_runtime.errors import InputError

from ..config import ExportConfig
from ..reference import TorchReference
from ..signature import Signature, flatten_output
from ._file import ModelFile
from ._subject import Against

__all__ = ["against_module"]


def against_module(
    module: nn.Module,
    file: ModelFile,
    example: Any = None,
    config: ExportConfig | None = None,
    about: str = "",
) -> Against:
    """Compare with ``module``, called as the file's inputs are named.

    Args:
        module: the trained network; copied, never changed.
        file: the file under test, with its contract whole.
        example: what ``forward`` takes, as for ``export``; None takes the file's golden inputs by the names
            of ``forward``'s parameters.
        config: the export's configuration, where it named outputs otherwise than the file's order does.
        about: what to call the module in the report.

    Raises:
        InputError: the example does not fit, or the module's inputs and outputs are not the file's.
    """
    signature = Signature.of(module, _example(module, file) if example is None else example)
    graph = onnx.load(str(file.path), load_external_data=False).graph
    with torch.no_grad():
        made = flatten_output(signature.call(module, signature.example))
    names = (config.outputs if config else ()) or tuple(output.name for output in graph.output)
    outputs = tuple(names)[: len(made)]
    return Against(
        reference=TorchReference(module, signature, outputs),
        about=about or type(module).__name__,
        inputs=signature.names,
        outputs=outputs,
        layers=_layers(module),
        examples={
            name: tensor.detach().cpu().numpy()
            for name, tensor in zip(signature.names, signature.example, strict=True)
        },
    )


def _example(module: nn.Module, file: ModelFile) -> dict[str, torch.Tensor]:
    golden = file.contract.golden
    parameters = inspect.signature(module.forward).parameters
    found = {
        name: torch.from_numpy(np.array(array))
        for name, array in (golden.inputs.items() if golden else ())
        if name in parameters
    }
    if not found:
        raise InputError(
            f"{file.path} carries no golden inputs named as the parameters of {type(module).__name__}."
            f"forward ({', '.join(parameters)}); give an example"
        )
    return found


def _layers(module: nn.Module) -> Counter[str]:
    """Count recurrent layers by the ONNX operator that each becomes."""
    found: Counter[str] = Counter()
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase):
            kind = layer.mode.split("_")[0]
            found[kind] += layer.num_layers
        elif isinstance(layer, nn.RNNCellBase):
            found[type(layer).__name__.removesuffix("Cell")] += 1
    return found
