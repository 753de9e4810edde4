import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge.lstm1 import LSTM1, fit_scale
from lstm_edge_runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)

C = 3
INPUTS = 5
H = 8
L = 7
N = 4


class Tutorial(nn.Module):
    """The network as tutorials write it: a bare nn.LSTM and the head over every final
    hidden state."""

    def __init__(self, classes, inputs, hidden, layers, **options):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, **options)
        kinds = {"dtype": options.get("dtype")}
        self.width = options.get("proj_size") or hidden
        self.fc_1 = nn.Linear(self.width, 128, **kinds)
        self.fc = nn.Linear(128, classes, **kinds)
        self.relu = nn.ReLU()

    def forward(self, x, state=None):
        _, (h_n, c_n) = self.lstm(x, state)
        out = self.relu(h_n.view(-1, self.width))
        return self.fc(self.relu(self.fc_1(out))), h_n, c_n


def pair(layers=1, **options):
    """Return two networks with the same parameters; named as in the tutorials, they
    load from each other."""
    torch.manual_seed(3)
    ours = LSTM1(C, INPUTS, H, layers, L, **options)
    theirs = Tutorial(C, INPUTS, H, layers, **options)
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


def states(options, scale=1.0):
    rows = options.get("layers", 1) * (2 if options.get("bidirectional") else 1)
    sizes = options.get("proj_size") or H, H
    return [
        scale * torch.randn(rows, N, size, dtype=options.get("dtype")) for size in sizes
    ]


OPTIONS = [
    {},
    {"layers": 3},
    {"bias": False},
    {"bidirectional": True, "layers": 2},
    {"proj_size": 4},
    {"proj_size": 4, "layers": 2, "bidirectional": True},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_results_equal_nn_lstm_and_the_head_bit_for_bit_also_with_lengths(options):
    ours, theirs = pair(**options)
    x = torch.randn(N, L, INPUTS, dtype=options.get("dtype", torch.float32))
    lengths = torch.tensor([3, 7, 1, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    state = states(options)
    zeros = states(options, 0.0)
    assert torch.equal(ours(x), theirs(x)[0])
    assert all(map(torch.equal, ours(x, *state), theirs(x, state)))
    assert all(map(torch.equal, ours(x, *zeros), theirs(x)))
    assert not torch.equal(ours(x, *state)[0], ours(x))
    assert torch.equal(ours(x, lengths=lengths), theirs(packed)[0])
    assert all(map(torch.equal, ours(x, *state, lengths), theirs(packed, state)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 3},
        {"bidirectional": True, "layers": 2},
        {"proj_size": 4, "bidirectional": True},
    ],
)
def test_the_last_readout_reads_the_top_layer_with_both_directions_side_by_side(
    options,
):
    torch.manual_seed(3)
    options = dict(options)
    net = LSTM1(
        C, INPUTS, H, options.pop("layers", 1), L, readout="last", **options
    ).eval()
    x = torch.randn(N, L, INPUTS)
    output, (h_n, _) = net.lstm(x)
    width = options.get("proj_size") or H
    top = (
        h_n[-1]
        if not options.get("bidirectional")
        else torch.cat([h_n[-2], h_n[-1]], dim=1)
    )
    assert torch.equal(top[:, :width], output[:, -1, :width])
    assert torch.equal(net(x), net.fc(torch.relu(net.fc_1(torch.relu(top)))))
    assert net(x).shape == (N, C)


def test_a_sequence_in_two_chunks_with_the_state_carried_ends_where_the_whole_does():
    net, _ = pair(layers=3, dtype=torch.float64)
    x = torch.randn(5, 12, INPUTS, dtype=torch.float64)
    _, *state = net(x[:, :7], *torch.zeros(2, 3, 5, H, dtype=torch.float64))
    torch.testing.assert_close(net(x[:, 7:], *state)[0], net(x))


@pytest.mark.parametrize(
    "lengths", [[8, 1, 1, 1], [7, 0, 1, 1], [3], [1.0] * 4, [[1]] * 4]
)
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(
        InputError, match=r"lengths is \[.*, expected int64 \(N,\) of 1 to 7"
    ):
        LSTM1(C, INPUTS, H, 1, L)(
            torch.randn(N, L, INPUTS), lengths=torch.tensor(lengths)
        )


def test_scales_and_added_values_take_and_return_raw_units():
    torch.manual_seed(0)
    net = LSTM1(2, 3, H, 1, L, readout="last", added=(2, 0)).double().eval()
    x = 10 + torch.randn(N, L, 3, dtype=torch.float64)
    lengths = torch.tensor([3, 7, 1, 5])
    last = torch.arange(N), lengths - 1
    now = x[last][:, [2, 0]]
    plain = net(x, lengths=lengths)
    torch.testing.assert_close(plain - now, net.outputs(net.lstm(x)[0])[last])
    mean = torch.tensor([9.0, 10, 11])
    std = torch.tensor([2.0, 0.5, 1])
    before = net((x - mean) / std, lengths=lengths) - (
        (now - mean[[2, 0]]) / std[[2, 0]]
    )
    net.set_scales((mean, std), (torch.tensor([1.0, 2]), torch.tensor([3.0, 4])))
    expected = before * torch.tensor([3.0, 4]) + torch.tensor([1.0, 2]) + now
    torch.testing.assert_close(net(x, lengths=lengths), expected)
    for valid in (lengths, None):
        hidden, state = net.hidden_at(x, lengths[:, None] - 1, lengths=valid)
        torch.testing.assert_close(net.outputs(hidden[:, 0], x[last]), expected)
        zeros = torch.zeros(2, 1, N, H, dtype=torch.float64)
        torch.testing.assert_close(state, net(x, *zeros, valid)[1:])
    assert torch.equal(net.now(x), x[..., [2, 0]])


@pytest.mark.parametrize(
    ("options", "scale", "message"),
    [
        ({}, ([0.0], [1.0]), r"the mean of x is \[0.0\], expected 2 finite numbers"),
        (
            {},
            ([0.0, 0], [1.0, 0]),
            "the std of x is .*expected 2 finite numbers, all positive",
        ),
        ({}, ([0.0, float("nan")], [1.0, 1]), "the mean of x is .*expected 2 finite"),
        ({"readout": "first"}, None, "readout is 'first', expected stacked or last"),
        (
            {"readout": "last", "added": (5,)},
            None,
            r"added is \(5,\), expected 1 indices below 2",
        ),
        ({"added": (1,)}, None, "and readout last"),
    ],
)
def test_options_and_scales_that_do_not_fit_are_refused(options, scale, message):
    with pytest.raises(InputError, match=message):
        LSTM1(1, 2, H, 1, L, **options).set_scales(
            scale and tuple(map(torch.tensor, scale))
        )


@pytest.mark.parametrize(("classes", "inputs"), [(0, 2), (2, 0), (-1, 2)])
def test_sizes_below_one_are_refused(classes, inputs):
    with pytest.raises(InputError, match="expected at least 1"):
        LSTM1(classes, inputs, H, 1, L)


def test_one_state_without_the_other_is_refused():
    net = LSTM1(C, INPUTS, H, 1, L)
    x = torch.randn(N, L, INPUTS, generator=torch.Generator().manual_seed(1))
    state = torch.ones(1, N, H)
    with pytest.raises(InputError, match="got h_0 without c_0; pass both states"):
        net(x, state)
    with pytest.raises(InputError, match="got c_0 without h_0; pass both states"):
        net(x, c_0=state)


def test_scales_of_which_one_does_not_fit_change_nothing():
    net = LSTM1(1, 2, H, 1, L)
    good = torch.tensor([1.0, 2]), torch.tensor([3.0, 4])
    with pytest.raises(InputError, match="the std of y"):
        net.set_scales(good, (torch.zeros(1), torch.zeros(1)))
    with pytest.raises(InputError, match="the std of x"):
        net.set_scales((good[0], torch.zeros(2)))
    assert net.x_mean is None
    assert net.x_std is None


def test_a_column_that_only_rounding_varies_keeps_its_scale():
    mean, std = fit_scale(torch.tensor([[1e6, 1.0], [1e6 + 0.06, 3.0]]))
    assert std.tolist() == [1.0, 1.0]
    assert mean.tolist() == pytest.approx([1e6, 2.0])
