"""Operators that tensors are made with inside ``forward``, results of no axes, and
inputs that do not fit."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compared import export_and_compare as export
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters import export as export_only
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError

SEEDED = torch.Generator().manual_seed(0)
X = torch.randn(2, 9, 3, generator=SEEDED)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 5, batch_first=True)


class Windowed(Net):
    def __init__(self, window, **options):
        super().__init__()
        self.window = window
        self.options = options

    def forward(self, x):
        return self.rnn(x * self.window(3, **self.options))[0]


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    "window",
    [
        torch.hann_window,
        torch.hamming_window,
        torch.blackman_window,
        torch.bartlett_window,
        torch.kaiser_window,
    ],
)
def test_a_window_made_in_forward_is_a_constant(window, periodic):
    artifact = export(Windowed(window, periodic=periodic).eval(), X)
    assert {name for name in artifact.nodes if "Window" in name} == set()


@pytest.mark.parametrize(
    "window",
    [
        lambda points: torch.kaiser_window(points, False, 5.0),
        lambda points: torch.kaiser_window(points, periodic=True, beta=5.0),
        lambda points: torch.hamming_window(points, True, 0.6, 0.4),
        lambda points: torch.hamming_window(points, False, alpha=0.6),
    ],
)
def test_the_parameters_of_a_window_made_in_forward_are_taken(window):
    export(Windowed(window).eval(), X)


class Spectrum(Net):
    def forward(self, x):
        window = torch.hann_window(8)
        spectrum = torch.stft(
            x[..., 0], 8, 4, window=window, center=False, return_complex=True
        )
        return self.rnn(spectrum.abs().transpose(1, 2)[..., :3])[0]


def test_a_spectrum_with_a_window_made_in_forward_exports():
    x = torch.randn(2, 40, 1, generator=torch.Generator().manual_seed(0))
    assert export(Spectrum().eval(), x).nodes["Conv"] == 1


class LogSums(nn.Module):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        return x.logcumsumexp(self.axis)


def wide_steps():
    """Return steps ``(60, 3)`` whose exponentials overflow, and one that is -inf."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 3, generator=generator).cumsum(0) * 100
    x[7, 1] = -float("inf")
    return x


def test_a_running_log_of_sums_over_time_streams_and_does_not_overflow():
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    module = LogSums(1).eval()
    stream = load(export(module, X, config).model).stream()
    x = wide_steps()
    chunks = [stream.process(part) for part in (x[:25].numpy(), x[25:].numpy())]
    got = torch.from_numpy(np.concatenate(chunks)).double()
    expected = module(x.double()[None])[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_a_running_log_of_sums_over_features_does_not_overflow():
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    module = LogSums(-1).eval()
    x = wide_steps()[None]
    outputs, _ = load(export(module, X, config).model).run(x.numpy())
    got = torch.from_numpy(outputs["output"]).double()
    torch.testing.assert_close(got, module(x.double()), rtol=1e-5, atol=1e-4)


class Mean(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y, y.mean()


def test_a_result_of_no_axes_is_an_output():
    artifact = export(Mean().eval(), X)
    assert [spec.axes for spec in artifact.manifest.outputs] == [("N", "L", 5), ()]
    outputs, _ = load(artifact.model).run(X.numpy())
    assert outputs["output_1"].shape == ()


class Phase(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x):
        return torch.atan2(*self.line(x).unbind(-1))


def test_an_angle_is_right_in_each_quadrant_and_nan_for_nan():
    module = Phase().eval()
    artifact = export(module, X)
    module.line.weight.data = torch.eye(3)[:2]
    module.line.bias.data.zero_()
    angles = export(module, X)
    points = torch.tensor(
        [[y, x, 0.0] for y in (-2.0, 0.0, 2.0) for x in (-1.0, 0.0, 1.0)]
    )[None]
    got, _ = load(angles.model).run(points.numpy())
    want = module(points).detach()
    assert torch.allclose(torch.from_numpy(got["output"]), want, atol=1e-6)
    assert artifact.manifest.unstreamable == ""


class Decided(Net):
    def __init__(self, decide):
        super().__init__()
        self.decide = decide

    def forward(self, x):
        return self.decide(self.rnn(x)[0])


DECISIONS = {
    "where": lambda y: torch.where(y > 0, y < 0.1, y > -0.1),
    "where, scalar": lambda y: torch.where(y > 0, y < 0.1, False),
    "where, scalar first": lambda y: torch.where(y > 0, True, y < 0.1),
    "where, scalars": lambda y: torch.where(y > 0, True, False),
    "where, floats": lambda y: torch.where(y > 0, y, 0.0),
    "masked_fill": lambda y: (y > 0).masked_fill(y > 0.1, False),
    "masked_fill, number": lambda y: (y > 0).masked_fill(y > 0.1, 1),
    "masked_fill, floats": lambda y: y.masked_fill(y > 0.1, -2),
    "sign": torch.sign,
    "sgn": torch.sgn,
    "heaviside": lambda y: torch.heaviside(y, torch.full_like(y, 0.5)),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_those_of_pytorch(name):
    module = Decided(DECISIONS[name]).eval()
    outputs, _ = load(export(module, X).model).run(X.numpy())
    want = module(X).detach().numpy()
    np.testing.assert_allclose(outputs["output"], want, atol=1e-6)


PROTOTYPE = torch.randn(4, 5, generator=SEEDED)
SIMILARITIES = {
    "prototype": lambda y: F.cosine_similarity(y, PROTOTYPE[0].to(y), dim=-1),
    "prototypes": lambda y: nn.CosineSimilarity(3)(y[:, :, None], PROTOTYPE.to(y)),
    "signals": lambda y: torch.cosine_similarity(y, y.roll(1, -1), 2),
    "broadcast": lambda y: F.cosine_similarity(y, y[..., :1] + 2, dim=-1),
    "zero": lambda y: F.cosine_similarity(0 * y, y, dim=-1),
}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_similarity_streams(name):
    module = Decided(SIMILARITIES[name]).eval()
    artifact = export(module, X)
    assert artifact.manifest.unstreamable == ""
    outputs, _ = load(artifact.model).run(X.numpy())
    want = module(X).detach().numpy()
    np.testing.assert_allclose(outputs["output"], want, atol=1e-6)


class Indexed(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y[..., torch.arange(0, 4, step=2).tolist()], y[
            ..., torch.arange(end=4).tolist()
        ]


def test_irrational_numbers_of_operators_have_the_digits_of_float64():
    class Sums(Net):
        def forward(self, x):
            y = torch.deg2rad(x) + torch.rad2deg(x) + F.hardswish(x)
            y = y + F.gelu(x) + F.gelu(x, approximate="tanh")
            return self.rnn(y + torch.log10(1 + x * x) + torch.log2(1 + x * x))[0]

    export(Sums().eval(), X)


def test_a_range_with_named_ends_gives_its_numbers():
    artifact = export(Indexed().eval(), X)
    assert [spec.axes[-1] for spec in artifact.manifest.outputs] == [2, 4]


class Scaled(Net):
    def __init__(self, largest):
        super().__init__()
        self.largest = largest

    def forward(self, x):
        return self.rnn(x)[0] / (1 + self.largest(x.abs()))


LARGEST = {
    "all axes": lambda x: x.amax(),
    "all axes, kept": lambda x: torch.amax(x, (), keepdim=True),
    "one axis": lambda x: x.amax(-1, keepdim=True),
    "two axes": lambda x: torch.amin(x, dim=(1, 2)),
}


@pytest.mark.parametrize("largest", LARGEST.values(), ids=LARGEST.keys())
def test_the_largest_of_some_axes_or_of_all_is_exact(largest):
    torch.manual_seed(5)
    config = ExportConfig(inputs={"x": (1, "L", 3)})
    artifact = export(Scaled(largest).eval(), X[:1], config)
    assert artifact.verified.largest < 1e-13


class Padded(Net):
    def forward(self, x):
        return self.rnn(F.pad(x, (0, 0, 0, -x.shape[1] % 4)))[0]


class Bucketed(nn.Module):
    def __init__(self, find):
        super().__init__()
        self.find = find
        self.register_buffer("boundaries", torch.linspace(-1.0, 1.0, 5))
        self.embedding = nn.Embedding(6, 4)
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, x):
        bucket = self.find(self.boundaries, x[..., 0])
        return self.rnn(self.embedding(bucket))[0]


SEARCHES = {
    "bucketize": lambda bounds, x: torch.bucketize(x, bounds),
    "bucketize, right": lambda bounds, x: torch.bucketize(x, bounds, right=True),
    "searchsorted": torch.searchsorted,
    "searchsorted, right": lambda bounds, x: torch.searchsorted(
        bounds, x, side="right"
    ),
    "searchsorted, sorter": lambda bounds, x: torch.searchsorted(
        bounds.flip(0), x, sorter=torch.arange(4, -1, -1)
    ),
    "searchsorted, rows": lambda bounds, x: torch.searchsorted(
        bounds.expand(x.shape[0], -1).contiguous(), x
    ),
}


@pytest.mark.parametrize("find", SEARCHES.values(), ids=SEARCHES.keys())
def test_buckets_are_counted_in_a_stream(find):
    torch.manual_seed(4)
    module = Bucketed(find).eval()
    artifact = export(module, X)
    assert not artifact.manifest.unstreamable
    x = torch.tensor([-2.0, -1.0, -0.5, 0.2, 0.5, 1.0, 3.0]).reshape(1, -1, 1)
    x = x.expand(-1, -1, 3)
    expected = module(x).detach().numpy()
    outputs, _ = load(artifact.model).run(x.numpy())
    np.testing.assert_allclose(outputs["output"], expected, atol=1e-5)


class Shifted(Net):
    def __init__(self, pads):
        super().__init__()
        self.pads = pads

    def forward(self, x):
        return F.pad(self.rnn(x)[0], self.pads, value=0.5)


@pytest.mark.parametrize("pads", [(2, -2), (-1, -1), (-1, 3), (0, 0, 2, -2)])
def test_padding_by_a_negative_number_drops_elements(pads):
    torch.manual_seed(3)
    export(Shifted(pads).eval(), X)


def test_padding_to_a_whole_number_of_hops_exports():
    assert export(Padded().eval(), X).manifest.inputs[0].axes == ("N", "L", 3)


class Hops(Net):
    def forward(self, x):
        return self.rnn(x[:, : x.shape[1] - x.shape[1] % 4])[0]


def test_a_slice_of_unknown_size_is_refused_with_its_line():
    with pytest.raises(
        UnsupportedError, match=r"size can't be told.*test_operators.py:\d+: return"
    ):
        export(Hops().eval(), X)


class Packs(Net):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.rnn(packed)[1][0]


@pytest.mark.parametrize("lengths", [[9.0, 4.0], [-0.5, 0.7]])
def test_lengths_of_floats_are_refused_with_their_dtype(lengths):
    with pytest.raises(InputError, match=r"lengths has floats.*=N:int64"):
        export_only(Packs().eval(), (X, torch.tensor(lengths)))


class Twins(nn.Module):
    def forward(self, x, x_1):
        return x[0] + 2 * x[1] * x_1


def test_two_inputs_of_one_name_are_refused():
    with pytest.raises(InputError, match="both called x_1"):
        export_only(Twins(), ((X, X), X))


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.jit.script(nn.GRU(3, 5, batch_first=True))

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",  # by PyTorch's version
)
def test_a_torchscript_module_is_refused():
    module = Holds().eval()
    for scripted in (module, module.rnn):
        with pytest.raises(UnsupportedError, match=r"TorchScript module \(GRU\)"):
            export_only(scripted, X)


class Complex(Net):
    def forward(self, x):
        return torch.fft.fft(self.rnn(x)[0], dim=-1)


def test_complex_results_are_refused_with_what_to_return():
    with pytest.raises(UnsupportedError, match=r"magnitude, or torch\.view_as_real"):
        export_only(Complex().eval(), X)


class Buffered(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, float("nan"), 2.0]))

    def forward(self, x):
        return self.rnn(x * self.scale)[0]


def test_a_buffer_with_nan_is_named():
    with pytest.raises(InputError, match="scale holds NaN"):
        export_only(Buffered().eval(), X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_dtype_are_noted(dtype):
    artifact = export(Mean().to(dtype).eval(), X.to(dtype))
    name = str(dtype).removeprefix("torch.")
    assert f"{name} weights are float32 in the file" in artifact.notes


def test_an_example_of_one_step_that_fixes_an_axis_is_noted():
    artifact = export(nn.Linear(3, 2).eval(), X[:, :1])
    (note,) = artifact.notes
    assert note.startswith("axis 1 of input is fixed at 1")


class Functional(nn.Module):
    """A layer, then a call of PyTorch's function that belongs to no layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.GRU(3, 5, batch_first=True)
        self.b = nn.GRU(5, 5, batch_first=True)

    def forward(self, x):
        y = self.a(x)[0]
        h = y.new_zeros(1, x.size(0), 5)
        weights = self.b._flat_weights
        return torch.gru(y, h, weights, True, 1, 0.0, False, False, True)[0]


def test_a_call_of_no_layer_does_not_take_the_name_of_the_layer_before():
    states = export(Functional().eval(), X).manifest.states
    assert [state.input for state in states] == ["a.h_0", "h_0"]


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": {"x": (None, "L", 3)}},
        {"inputs": {"x": ("N", "L", 3.0)}},
        {"inputs": {"x": ("N", True, 3)}},
        {"inputs": {"x": "NL"}},
        {"inputs": {"x": None}},
        {"inputs": None},
        {"outputs": None},
        {"outputs": ("y", None)},
        {"states": {"h": None}},
        {"states": [("h", "h_n")]},
        {"seed": "1"},
    ],
    ids=str,
)
def test_options_of_another_type_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))[:-1]):
        ExportConfig(**options)


class Axes(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        last = self.gru(x)[0][:, -1]
        last.unsqueeze_(1)
        return last.transpose_(1, 2)


def test_axes_of_a_part_change_in_place():
    assert export(Axes().eval(), X).manifest.outputs[0].axes == ("N", 4, 1)


@dataclasses.dataclass(slots=True)
class Slots:
    y: torch.Tensor


class Fields(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return Slots(self.gru(x)[0])


def test_a_dataclass_with_slots_names_outputs():
    assert export(Fields().eval(), X).manifest.outputs[0].name == "y"
