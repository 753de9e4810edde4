"""Modules that are hard to export, at sizes that were not traced.

PYTEST_DONT_REWRITE: the assertions of modules are what the tests are about.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compared import export_and_compare as export
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_runtime import load


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 1)


class Pools(Layer):
    """The usual network of convolutions and an LSTM."""

    def forward(self, x):
        y = F.max_pool1d(x.transpose(1, 2), 3, stride=2, padding=1)
        y = y + nn.MaxPool1d(5, stride=2, padding=2)(x.transpose(1, 2))
        return self.rnn(y.transpose(1, 2))[0]


class Interpolates(Layer):
    def forward(self, x):
        y = nn.MaxPool1d(2)(self.rnn(x)[0].transpose(1, 2))
        return F.interpolate(y, size=x.shape[1], mode="linear", align_corners=False)


class Packs(Layer):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]


class Rotates(Layer):
    """Complex weights, as linear recurrent units have."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(
            torch.complex(torch.randn(5, 5), torch.randn(5, 5)) / 4
        )

    def forward(self, x):
        return (self.rnn(x)[0].to(self.turn.dtype) @ self.turn @ self.turn).real


class Masks(Layer):
    """The smallest number of the dtype in a row that may be all masked, and no
    infinities."""

    def forward(self, x):
        y = torch.nan_to_num(self.rnn(torch.nan_to_num(x))[0])
        return y.masked_fill(x[..., :1] < 0, torch.finfo(y.dtype).min).softmax(-1)


class Squeezes(Layer):
    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1]).squeeze()


class Decodes(Layer):
    """A forecast of as many steps as a step has features: a loop of a fixed length."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(4, 5, batch_first=True)
        self.cell = nn.LSTMCell(4, 5)
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        state = tuple(layers[0] for layers in self.encoder(x)[1])
        y = x[:, -1]
        steps = []
        for _ in range(4):
            state = self.cell(y, state)
            y = y + self.out(state[0])
            steps.append(y)
        return torch.stack(steps, 1)


class Scales(Layer):
    """Normalize steps with a small epsilon, and multiply by a factor of nearly 1."""

    def forward(self, x):
        spread = torch.var(1e-4 * x, dim=2, keepdim=True, unbiased=False)
        return self.rnn(1e-4 * x / (spread + 1e-8).sqrt())[0] * 1.000001


class Ranks(Layer):
    """Indices of features, for which a row of NaN has no order."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y.topk(2, -1).indices, F.one_hot(y.argmax(-1), 5).float()


class ChunksTheBatch(Layer):
    """Two forms of each row in one call."""

    def forward(self, x):
        y, z = self.rnn(torch.cat([x, -x]))[0].chunk(2)
        return y - z


class SplitsTheBatch(Layer):
    def forward(self, x):
        y, z = self.rnn(torch.cat([x, -x]))[0].split(x.size(0))
        return y - z


def data(n, length):
    return torch.randn(n, length, 4, generator=torch.Generator().manual_seed(length))


def lengths(n, length):
    return torch.tensor([length, *[max(1, length - 2)] * (n - 1)])


MODULES = [
    Pools,
    Interpolates,
    Packs,
    Rotates,
    Decodes,
    Masks,
    Scales,
    ChunksTheBatch,
    SplitsTheBatch,
]


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_the_file_agrees_at_sizes_that_were_not_traced(kind):
    torch.manual_seed(0)
    module = kind().eval()
    takes = kind is Packs

    def inputs(n, length):
        return (data(n, length), lengths(n, length)) if takes else (data(n, length),)

    artifact = export(module, inputs(2, 8))
    model = load(artifact.model)
    for n, length in ((1, 3), (3, 40), (2, 7)):
        with torch.no_grad():
            expected = module(*inputs(n, length)).numpy()
        x, *valid = (tensor.numpy() for tensor in inputs(n, length))
        got = model.run(x, lengths=valid[0] if valid else None)[0]["output"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_indices_of_a_row_of_nan_may_be_in_any_order():
    export(Ranks().eval(), data(2, 8))


def test_a_loop_of_a_length_of_its_own_is_in_the_file_and_its_cell_keeps_no_state():
    artifact = export(Decodes().eval(), data(2, 8))
    assert [state.input for state in artifact.manifest.states] == [
        "encoder.h_0",
        "encoder.c_0",
    ]
    assert any(
        "'cell'" in note and "stays in the graph" in note for note in artifact.notes
    )


def test_infinities_are_replaced_by_the_largest_number_of_float32():
    module = Masks().eval()
    model = load(export(module, data(2, 8)).model)
    x = data(1, 4)
    x[0, 1, 0] = torch.inf
    x[0, 2, 1] = -torch.inf
    x[0, 3, 2] = torch.nan
    with torch.no_grad():
        np.testing.assert_allclose(
            model.run(x.numpy())[0]["output"], module(x).numpy(), rtol=0, atol=1e-5
        )


def test_a_squeeze_of_the_batch_needs_two_rows():
    artifact = export(Squeezes().eval(), data(2, 8))
    assert str(artifact.manifest.ranges["N"]) == "2.."
