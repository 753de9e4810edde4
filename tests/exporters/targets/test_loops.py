"""Loops over time on devices: native programs and C compute what the module does."""

from functools import cache

import numpy as np
import pytest
import torch
from loop_networks import NETWORKS, Linears
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.floats import Floats, copy_as
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

X = {"x": ("N", "L", 3)}
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
ON_DEVICES = [name for name, network in NETWORKS.items() if network.streams]
"""All networks that stream."""


def rows(mark):
    """Return the names of ``ON_DEVICES``: few with ``mark``, the others slow."""
    return [
        pytest.param(name, marks=mark if name in FEW else [pytest.mark.slow])
        for name in ON_DEVICES
    ]


@cache
def exported(name):
    torch.manual_seed(len(name))
    network = NETWORKS[name]
    module = network.kind().eval()
    config = ExportConfig(inputs=network.inputs)
    return module, export(module, network.example(), config)


def arrays_of(name):
    """Return inputs of one row and ``STEPS`` steps, by name; states are zeros."""
    sizes = {"N": 1, "L": STEPS}
    rng = np.random.default_rng(7)
    arrays = {}
    for key, axes in NETWORKS[name].inputs.items():
        shape = [sizes.get(axis, axis) for axis in axes]
        if key in ("lengths", "steps"):
            arrays[key] = np.full(shape, 9)
        elif key in ("h", "c"):
            arrays[key] = np.zeros(shape, np.float32)
        else:
            arrays[key] = rng.standard_normal(shape).astype(np.float32)
    return arrays


def in_float64(module, arrays):
    """Return the first output of a module in float64."""
    tensors = [torch.from_numpy(array) for array in arrays.values()]
    doubles = [x.double() if x.is_floating_point() else x for x in tensors]
    with torch.no_grad(), Floats(torch.float64):
        result = copy_as(module, torch.float64)(*doubles)
    first = result[0] if isinstance(result, tuple) else result
    return first.numpy()


@pytest.mark.parametrize("name", rows([]))
def test_a_program_steps_through_a_loop_as_the_module_does(name):
    module, artifact = exported(name)
    arrays = arrays_of(name)
    manifest = artifact.manifest
    spec = manifest.outputs[0]
    time = manifest.time_axis(spec.axes)
    expected = in_float64(module, arrays)
    expected = expected[-1:] if time is None else np.moveaxis(expected, time, 0)
    stream = load(to_native(artifact.model)).stream()
    inputs = {
        key: axes for key, axes in NETWORKS[name].inputs.items() if key not in "hc"
    }
    for step in range(STEPS):
        sample = {}
        for key, axes in inputs.items():
            array = arrays[key]
            sample[key] = (
                array.take(step, axes.index("L"))[0] if "L" in axes else array[0]
            )
        values = stream.step(sample if len(sample) > 1 else sample["x"])
        first = values[spec.name] if isinstance(values, dict) else values
        if time is not None:
            want = expected[step].reshape(first.shape)
            assert np.abs(first - want).max() < 1e-5
    if time is None:
        assert np.abs(first - expected.reshape(first.shape)).max() < 1e-5


@pytest.mark.parametrize("name", rows([pytest.mark.system]))
def test_c_of_a_loop_is_compiled_and_equal_to_its_golden_cases(name):
    """The golden cases are computed in float64."""
    _, artifact = exported(name)
    assert to_c(artifact.model, "net").files


def tanh_loop(x, w, u):
    """Return the states of a loop over ``x (N, L, I)``."""
    h = x.new_zeros(x.size(0), 4)
    outs = []
    for t in range(x.size(1)):
        h = torch.tanh(w(x[:, t]) + u(h))
        outs.append(h)
    return torch.stack(outs, 1)


class BehindAStride(Linears):
    """A loop over every second step."""

    def __init__(self):
        super().__init__(w=(4, 4), u=(4, 4))
        self.conv = nn.Conv1d(3, 4, 2, stride=2)

    def forward(self, x):
        frames = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return tanh_loop(frames, self.w, self.u)


class InFrontOfAStride(Linears):
    """A loop of two steps per frame."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))
        self.conv = nn.Conv1d(4, 4, 2, stride=2)

    def forward(self, x):
        y = tanh_loop(x, self.w, self.u)
        return self.conv(y.transpose(1, 2)).transpose(1, 2)


class OverRepeatedSteps(Linears):
    """A loop of two steps for each step of the input."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        return tanh_loop(x.repeat_interleave(2, 1), self.w, self.u)


@pytest.mark.system
@pytest.mark.parametrize("kind", [BehindAStride, InFrontOfAStride, OverRepeatedSteps])
def test_a_program_and_c_run_a_loop_as_often_as_a_unit_has_frames(kind):
    torch.manual_seed(3)
    module = kind().eval()
    config = ExportConfig(inputs={"x": ("N", "L", 3)}, stream=True)
    artifact = export(module, torch.randn(2, 12, 3), config)
    x = torch.randn(1, STEPS, 3)
    expected = module(x)[0].detach().numpy()
    stream = load(to_native(artifact.model)).stream()
    chunks = np.split(x[0].numpy(), [2, 3, 10])
    frames = np.concatenate([stream.process(chunk) for chunk in chunks])
    np.testing.assert_allclose(frames, expected, rtol=0, atol=1e-5)
    assert to_c(artifact.model, "net").files  # compiled, and its self-test has passed


def expect_equal_steps(module, artifact):
    """Compare the steps of a program with the module on one row."""
    x = torch.randn(1, STEPS, 3)
    stream = load(to_native(artifact.model)).stream()
    steps = np.stack([stream.step(sample) for sample in x[0].numpy()])
    expected = module(x)[0].detach().numpy()
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)


class Upsampled(nn.Module):
    """A loop with a transposed convolution that has a bias."""

    def __init__(self, **options):
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 4, **options)
        self.w = nn.Linear(7, 8)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            pairs = self.w(torch.cat([x[:, t], h], 1)).view(-1, 4, 2)
            h = torch.tanh(self.up(pairs).mean(-1))
            outs.append(h)
        return torch.stack(outs, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 1, "stride": 3, "groups": 4},
        {"kernel_size": 2, "stride": 3, "output_padding": 1},
        {"kernel_size": 3, "groups": 2, "dilation": 2},
    ],
)
def test_a_program_adds_the_bias_of_a_transposed_convolution(options):
    torch.manual_seed(4)
    module = Upsampled(**options).eval()
    expect_equal_steps(module, export(module, torch.randn(2, 6, 3)))


class Assigns(Linears):
    """A loop that writes parts of its state."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 3, 4)
        outs = []
        for t in range(x.size(1)):
            h[:, 1:] = h[:, :-1].clone()
            h[:, 0] = torch.tanh(self.w(x[:, t]) + self.u(h[:, 2]))
            h[:, :, ::2] = 0.5 * h[:, :, 1::2]
            outs.append(h.mean(1))
        return torch.stack(outs, 1)


class Shifts(Linears):
    """A loop that shifts its state by padding."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            shifted = nn.functional.pad(h, (1, -2), value=0.5)
            h = torch.tanh(self.w(x[:, t]) + nn.functional.pad(shifted, (-1, 2)))
            outs.append(h)
        return torch.stack(outs, 1)


@pytest.mark.parametrize("kind", [Assigns, Shifts])
def test_a_program_writes_parts_of_a_state_and_drops_elements(kind):
    torch.manual_seed(4)
    module = kind().eval()
    artifact = export(module, torch.randn(2, 6, 3), ExportConfig(inputs=X))
    expect_equal_steps(module, artifact)


class Clocked(Linears):
    """A state that changes at every third step, by a count of the module's own."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        count = torch.full((x.size(0), 1), -7)
        outs = []
        for t in range(x.size(1)):
            new = torch.tanh(self.w(x[:, t]) + self.u(h))
            h = torch.where(count % 3 == 1, new, h)
            count = count + 1
            outs.append(h + (count % -4))
        return torch.stack(outs, 1)


class Kalman(nn.Module):
    """A Kalman filter of a position and its speed: stored matrices in front."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[1.0, 0.1], [0.0, 1.0]]))
        self.h = nn.Parameter(torch.tensor([[1.0, 0.2]]))

    def forward(self, x):
        m = x.new_zeros(x.size(0), 2, 1)
        p = torch.eye(2).repeat(x.size(0), 1, 1)
        outs = []
        for t in range(x.size(1)):
            m = self.a @ m
            p = self.a @ p @ self.a.T + 0.01 * torch.eye(2)
            gain = p @ self.h.T / (self.h @ p @ self.h.T + 0.1)
            m = m + gain @ (x[:, t, :1].unsqueeze(2) - self.h @ m)
            p = (torch.eye(2) - gain @ self.h) @ p
            outs.append(m.squeeze(2))
        return torch.stack(outs, 1)


class Wrapped(Linears):
    """A phase that wraps with its sign."""

    def __init__(self):
        super().__init__(w=(3, 4))

    def forward(self, x):
        phase = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            phase = torch.fmod(phase + self.w(x[:, t]), 1.5)
            outs.append(phase)
        return torch.stack(outs, 1)


@pytest.mark.system
@pytest.mark.parametrize("kind", [Clocked, Kalman])
def test_whole_remainders_and_products_of_matrices_run_on_devices(kind):
    torch.manual_seed(4)
    module = kind().eval()
    artifact = export(module, torch.randn(2, 6, 3), ExportConfig(inputs=X))
    x = torch.randn(1, STEPS, 3)
    expected = module(x)[0].detach().numpy()
    stream = load(to_native(artifact.model)).stream()
    steps = np.stack([stream.step(sample) for sample in x[0].numpy()])
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)
    assert to_c(artifact.model, "net").files


@pytest.mark.system
def test_a_remainder_with_the_sign_of_the_dividend_is_refused_on_devices():
    torch.manual_seed(5)
    artifact = export(Wrapped().eval(), torch.randn(2, 6, 3), ExportConfig(inputs=X))
    with pytest.raises(UnsupportedError, match=r"Mod.*torch\.floor"):
        to_native(artifact.model)
