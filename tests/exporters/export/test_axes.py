"""Which axes are found free, whatever the size of the example."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.errors import UnsupportedError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)


class Absent(Net):
    def forward(self, x):
        return self.rnn(x)[0]


class Given(Net):
    def forward(self, x, h, c):
        return self.rnn(x, (h, c))


class Packs(Net):
    def forward(self, x, lengths):
        return self.rnn(pack_padded_sequence(x, lengths, batch_first=True))[1][0]


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 5)
        self.rnn = nn.GRU(5, 6)

    def forward(self, token, hidden):
        return self.rnn(self.embedding(token.unsqueeze(0)), hidden)


STATE = torch.zeros(1, 1, 6)
ONES = [
    (Absent(), torch.randn(1, 9, 5), {"x": ("N", "L", 5)}),
    (Absent(), torch.randn(1, 1, 5), {"x": ("N", "L", 5)}),
    (
        Given(),
        (torch.randn(1, 9, 5), STATE, STATE),
        {"x": ("N", "L", 5), "h": (1, "N", 6), "c": (1, "N", 6)},
    ),
    (
        Packs(),
        (torch.randn(1, 9, 5), torch.tensor([9])),
        {"x": ("N", "L", 5), "lengths": ("N",)},
    ),
    (Decoder(), (torch.tensor([3]), STATE), {"token": ("N",), "hidden": (1, "N", 6)}),
    (nn.LSTM(1, 6, batch_first=True), torch.randn(1, 9, 1), {"input": ("N", "L", 1)}),
    (
        nn.LSTM(5, 6),
        (torch.randn(7, 5), (STATE[0], STATE[0])),
        {"input": ("L", 5), "hx_0": (1, 6)},
    ),
]


@pytest.mark.parametrize(
    ("module", "example", "axes"), ONES, ids=lambda value: type(value).__name__
)
def test_an_example_of_one_row_or_one_step_bakes_nothing(module, example, axes):
    manifest = export(module.eval(), example).manifest
    given = {spec.name: spec.axes for spec in manifest.inputs}
    given |= {state.input: state.axes for state in manifest.states}
    assert {name: given[name] for name in axes} == axes


class Wearable(nn.Module):
    """A head behind layers: with one row, PyTorch takes its strides for numbers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(5, 6, 3, padding=1)
        self.rnn = nn.GRU(6, 6, batch_first=True)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x.transpose(1, 2))))
        return self.head(self.rnn(y.transpose(1, 2))[0])


@pytest.mark.parametrize("stream", [False, True])
def test_one_row_limits_no_batch(stream):
    manifest = export(
        Wearable().eval(), torch.randn(1, 30, 5), ExportConfig(stream=stream)
    ).manifest
    assert (manifest.inputs[0].axes, manifest.ranges) == (("N", "L", 5), {})
    assert manifest.delays == ({"output": 1} if stream else {})
    assert len(manifest.equivalence["cases"]) >= 6


class CountsRows(Net):
    def forward(self, x):
        zeros = torch.zeros(1, np.prod(x.shape[:1], dtype=int).item(), 6)
        return self.rnn(x, (zeros, zeros))[0]


def test_a_batch_that_the_code_fixes_is_refused_unless_it_is_given_as_a_number():
    x = torch.randn(3, 7, 5)
    with pytest.raises(UnsupportedError, match="fixes axis 0 of x at 3"):
        export(CountsRows().eval(), x)
    artifact = export(CountsRows().eval(), x, ExportConfig(inputs={"x": (3, "L", 5)}))
    assert artifact.manifest.axes["x"] == (3, "L", 5)


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 5), ("N", 3)), ((3, 7, 5), ("N", "L", 3))]
)
def test_a_module_without_recurrent_layers_has_its_first_free_axes_for_batch_and_time(
    shape, axes
):
    module = nn.Linear(5, 3).eval()
    assert export(module, torch.randn(shape)).manifest.outputs[0].axes == axes
    made = export(module, torch.randn(3, 5), ExportConfig(inputs={"input": ("N", 5)}))
    assert made.manifest.outputs[0].axes == ("N", 3)


class Convolved(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.conv = kind(3, 4, 3, padding=1, **options)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (nn.Conv1d, {}),
        (nn.Conv1d, {"padding_mode": "circular"}),
        (nn.ConvTranspose1d, {}),
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_convolution_has_its_channels_for_a_fixed_axis(kind, options, rows):
    torch.manual_seed(7)
    module = Convolved(kind, **options).eval()
    manifest = export(module, torch.randn(rows, 6, 3)).manifest
    assert manifest.inputs[0].axes == ("N", "L", 3)
    assert manifest.ranges == {}


class Letters(nn.Module):
    """Words read letter by letter, then as a sequence."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.letters = nn.GRU(4, 3, batch_first=True)
        self.words = nn.LSTM(3, 5, batch_first=True)

    def forward(self, text):
        n, words, letters = text.shape
        _, last = self.letters(self.embedding(text.view(n * words, letters)))
        return self.words(last[-1].view(n, words, -1))[0]


def test_the_batch_is_what_no_layer_reads_as_time():
    manifest = export(Letters().eval(), torch.randint(0, 20, (3, 4, 7))).manifest
    assert manifest.inputs[0].axes == ("N", "L2", "L")
    assert manifest.batch == "N"


class Joined(nn.Module):
    """The series of a batch one after the other."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.gru = nn.GRU(features, 3, batch_first=True)

    def forward(self, x):
        return self.gru(x.reshape(1, -1, self.features))[0]


@pytest.mark.parametrize(
    ("shape", "features", "axes"),
    [
        ((2, 9, 4), 4, ("N", "L", 4)),
        ((1, 9, 4), 4, ("N", "L", 4)),
        ((9, 4), 4, ("L", 4)),
        ((2, 9), 1, ("N", "L")),
    ],
)
def test_axes_that_a_layer_reads_as_one_are_batch_and_time(shape, features, axes):
    torch.manual_seed(6)
    manifest = export(Joined(features).eval(), torch.randn(shape)).manifest
    assert manifest.inputs[0].axes == axes
    assert manifest.sequence == "L"


class RowsOfTwoAxes(Net):
    def forward(self, x):
        n, m, steps, features = x.shape
        y = self.rnn(x.reshape(n * m, steps, features))[0]
        return y.reshape(n, m, steps, -1)


class RowsOfTwoInputs(Net):
    def forward(self, a, b):
        return self.rnn(torch.cat([a, b]))[0]


@pytest.mark.parametrize(
    ("kind", "shapes", "axes"),
    [
        (RowsOfTwoAxes, [(2, 4, 7, 5)], [("N", "N2", "L", 5)]),
        (RowsOfTwoInputs, [(2, 7, 5), (4, 7, 5)], [("N", "L", 5), ("N2", "L", 5)]),
    ],
)
def test_axes_that_a_layer_reads_as_rows_are_named_in_the_order_of_the_inputs(
    kind, shapes, axes
):
    torch.manual_seed(6)
    example = tuple(torch.randn(shape) for shape in shapes)
    manifest = export(kind().eval(), example).manifest
    assert [spec.axes for spec in manifest.inputs] == axes


class OverBands(nn.Module):
    """A bidirectional GRU over frequency, and a GRU over time."""

    def __init__(self):
        super().__init__()
        self.bands = nn.GRU(3, 4, batch_first=True, bidirectional=True)
        self.time = nn.GRU(8, 5, batch_first=True)

    def forward(self, x, labels):
        rows, steps, bands, width = x.shape
        y = self.bands(x.reshape(rows * steps, bands, width))[0].mean(1)
        return self.time(y.reshape(rows, steps, 8))[0]


def test_an_unused_input_and_an_axis_that_may_be_time_are_named():
    artifact = export(OverBands().eval(), (torch.randn(2, 12, 6, 3), torch.zeros(2)))
    assert any("does not read labels" in note for note in artifact.notes)
    assert "if time is axis L2 of x and not L, name it" in artifact.reason
