"""Loops over time on devices: native programs and C compute what the module does."""

import numpy as np
import pytest
import torch
from loop_networks import NETWORKS

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.floats import Floats, copy_as
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

STEPS = 20
FEW = (
    "Cell",
    "LayerNormLSTM",
    "ConvLSTM",
    "Mamba",
    "Spiking",
    "TwoStepsBack",
    "RunningMean",
)
"""Networks for every run of the tests."""
WITH_SIGNALS_ONLY = [
    name
    for name, network in NETWORKS.items()
    if network.streams
    and name not in ("Arguments", "Lengths", "Refractory", "TimeSinceEvent")
]
"""Networks whose inputs are all signals, and whose states are numbers."""


def exported(name):
    torch.manual_seed(len(name))
    network = NETWORKS[name]
    module = network.kind().eval()
    config = ExportConfig(inputs=network.inputs)
    return module, export(module, network.example(), config)


def signals(name):
    """Inputs of one row and ``STEPS`` steps, by name, with the time axis first."""
    sizes = {"N": 1, "L": STEPS}
    rng = np.random.default_rng(7)
    arrays = {}
    for key, axes in NETWORKS[name].inputs.items():
        shape = [sizes.get(axis, axis) for axis in axes]
        arrays[key] = rng.standard_normal(shape).astype(np.float32)
    return arrays


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.system if name in FEW else pytest.mark.slow
        )
        for name in WITH_SIGNALS_ONLY
    ],
)
def test_a_program_and_c_step_through_a_loop_as_the_module_does(name):
    module, artifact = exported(name)
    arrays = signals(name)
    tensors = [torch.from_numpy(x).double() for x in arrays.values()]
    with torch.no_grad(), Floats(torch.float64):
        result = copy_as(module, torch.float64)(*tensors)
    outputs = result if isinstance(result, tuple) else (result,)
    manifest = artifact.manifest
    spec = manifest.outputs[0]
    time = manifest.time_axis(spec.axes)
    expected = outputs[0].numpy()
    expected = expected[-1:] if time is None else np.moveaxis(expected, time, 0)
    stream = load(to_native(artifact.model)).stream()
    axes = {key: NETWORKS[name].inputs[key].index("L") for key in arrays}
    for step in range(STEPS):
        sample = {key: x.take(step, axes[key])[0] for key, x in arrays.items()}
        values = stream.step(sample if len(sample) > 1 else sample.popitem()[1])
        first = values[spec.name] if isinstance(values, dict) else values
        if time is not None:
            want = expected[step].reshape(first.shape)
            assert np.abs(first - want).max() < 1e-5
    if time is None:
        assert np.abs(first - expected.reshape(first.shape)).max() < 1e-5
    assert to_c(artifact.model, "net").files  # compiled, and its self-test has passed


@pytest.mark.system
def test_a_state_of_booleans_is_refused_by_its_name():
    _, artifact = exported("Refractory")
    with pytest.raises(UnsupportedError, match="state resting_0 is bool"):
        to_native(artifact.model)
