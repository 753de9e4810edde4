"""A PyTorch module as what a file is compared with."""

import copy
import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from ..export.config import ExportConfig
from ..export.pipeline import convert_module, own_copy
from ..numerics.call import Signature, flatten_output
from ..numerics.layout import Layout
from ..numerics.reference import TorchReference
from ..numerics.rounding import Rounding
from ..numerics.threads import one_thread
from ._file import ModelFile
from ._subject import Against

__all__ = ["against_module"]

Array = npt.NDArray[Any]


class _OnOneThread:
    """Runs a reference on one thread: it then sums in the same order whatever the machine's core count.

    For networks of this kind a second thread gains nothing, and on a busy machine the two wait for one
    another at every step.
    """

    def __init__(self, reference: TorchReference) -> None:
        self._reference = reference
        self.layout = reference.layout

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        with one_thread():
            return self._reference.run(feeds)

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        with one_thread():
            return self._reference.run64(feeds)

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> Mapping[str, Array]:
        with one_thread():
            return self._reference.perturbed(feeds, rounding)


def against_module(
    module: nn.Module, file: ModelFile, example: Any = None, *, about: str = "", sha256: str = ""
) -> Against:
    """Compare with ``module``, called as the file's inputs are named.

    Args:
        module: the trained network; copied, never changed.
        file: the file under test, with its contract whole.
        example: what ``forward`` takes, as for ``export``; None takes the file's golden inputs by the names
            of ``forward``'s parameters.
        about: what to call the module in the report.
        sha256: of the checkpoint that the module's weights come from, for a note where the file names
            another.

    Raises:
        InputError: the example does not fit, or the module's inputs and outputs are not the file's.
        UnsupportedError: the file's states are not arguments of ``forward``, and the module can't be traced
            to find them in it.
    """
    if file.model is None:
        raise InputError(f"{file.path} can't be compared: {file.broken}")
    contract = file.contract
    own = own_copy(module)
    example = _example(own, file) if example is None else example
    signature = Signature.of(own, example)
    graph = onnx.load(str(file.path), load_external_data=False).graph
    with torch.no_grad():
        made = flatten_output(signature.call(copy.deepcopy(own), signature.example))
    outputs = tuple(output.name for output in graph.output)[: len(made)]
    states = tuple(state.input for state in contract.states if state.input not in signature.names)
    reference = TorchReference(own, signature, outputs, layout=Layout.of(contract))
    if states:
        axes: dict[str, Axes] = {spec.name: spec.axes for spec in contract.inputs}
        axes |= {state.input: state.axes for state in contract.states}
        config = ExportConfig(
            inputs={name: axes[name] for name in signature.names if name in axes},
            outputs=outputs,
            lengths=contract.lengths,
            batch=contract.batch or "N",
            sequence=contract.sequence or "L",
        )
        prepared = convert_module(module, example, config)
        found = {state.input: state.output for state in prepared.manifest.states}
        states = tuple(name for name in found if name not in signature.names)
        outputs += tuple(found[name] for name in states if found[name] not in outputs)
        reference = prepared.reference
    examples = {
        name: tensor.detach().cpu().numpy()
        for name, tensor in zip(signature.names, signature.example, strict=True)
    }
    return Against(
        reference=_OnOneThread(reference),
        about=about or type(own).__name__,
        inputs=(*signature.names, *states),
        outputs=outputs,
        layers=_layers(own),
        examples=examples,
        values=reference.index_values(examples),
        sha256=sha256,
    )


def _example(module: nn.Module, file: ModelFile) -> dict[str, torch.Tensor]:
    golden = file.contract.golden
    parameters = inspect.signature(module.forward).parameters
    floats = [each.dtype for each in module.parameters() if each.is_floating_point()]
    found = {
        name: _as_own(torch.from_numpy(np.array(array)), floats)
        for name, array in (golden.inputs.items() if golden else ())
        if name in parameters
    }
    if not found:
        raise InputError(
            f"{file.path} carries no golden inputs named as the parameters of {type(module).__name__}."
            f"forward ({', '.join(parameters)}); give an example"
        )
    return found


def _as_own(tensor: Tensor, floats: list[torch.dtype]) -> Tensor:
    """Return a float in the dtype of the module's parameters: a file is float32 whatever its module is."""
    return tensor.to(floats[0]) if floats and tensor.is_floating_point() else tensor


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
