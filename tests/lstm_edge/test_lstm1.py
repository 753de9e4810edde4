import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge.lstm1 import LSTM1, fit_scale
from lstm_edge_runtime.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

C, INPUTS, H, L, N = 3, 5, 8, 7, 4


class Tutorial(nn.Module):
    """The network as tutorials write it: a bare nn.LSTM and the head over every final hidden state."""

    def __init__(self, classes, inputs, hidden, layers, **options):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, **{"batch_first": True, **options})
        kinds = {"dtype": options.get("dtype")}
        self.width = options.get("proj_size") or hidden
        self.fc_1 = nn.Linear(self.width, 128, **kinds)
        self.fc = nn.Linear(128, classes, **kinds)
        self.relu = nn.ReLU()

    def forward(self, x, state=None):
        _, (h_n, c_n) = self.lstm(x, state)
        out = self.relu(h_n.view(-1, self.width))
        return self.fc(self.relu(self.fc_1(out))), (h_n, c_n)


def pair(layers=1, **options):
    torch.manual_seed(3)
    ours = LSTM1(C, INPUTS, H, layers, L, **options)
    theirs = Tutorial(C, INPUTS, H, layers, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours.eval(), theirs.eval()


def same(ours, theirs, x, state=None):
    logits, (h_n, c_n) = ours.forward_with_state(x, state)
    expected, (h_expected, c_expected) = theirs(x, state)
    assert torch.equal(logits, expected)
    assert torch.equal(h_n, h_expected)
    assert torch.equal(c_n, c_expected)
    if state is not None:
        assert all(map(torch.equal, ours(x, *state), (expected, h_expected, c_expected)))
    return logits


OPTIONS = [
    {},
    {"layers": 3},
    {"bias": False},
    {"bidirectional": True},
    {"bidirectional": True, "layers": 2},
    {"proj_size": 4},
    {"proj_size": 4, "layers": 2, "bidirectional": True},
    {"dtype": torch.float64},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_and_state_equal_nn_lstm_and_the_head_bit_for_bit(options):
    ours, theirs = pair(**options)
    layers, directions = options.get("layers", 1), 2 if options.get("bidirectional") else 1
    dtype = options.get("dtype", torch.float32)
    x = torch.randn(N, L, INPUTS, dtype=dtype)
    assert same(ours, theirs, x).shape == (layers * directions * N, C)
    state = (
        torch.randn(layers * directions, N, options.get("proj_size") or H, dtype=dtype),
        torch.randn(layers * directions, N, H, dtype=dtype),
    )
    same(ours, theirs, x, state)
    assert not torch.equal(ours(x, *state)[0], ours(x))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_lengths_equal_a_packed_sequence_and_each_row_run_alone(options):
    ours, theirs = pair(**options)
    x = torch.randn(N, L, INPUTS, dtype=options.get("dtype", torch.float32))
    lengths = torch.tensor([3, 7, 1, 5])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    logits, (h_n, c_n) = ours.forward_with_state(x, lengths=lengths)
    expected, (h_expected, c_expected) = theirs(packed)
    assert torch.equal(logits, expected)
    assert torch.equal(h_n, h_expected)
    assert torch.equal(c_n, c_expected)
    assert torch.equal(ours(packed), expected)
    assert torch.equal(ours(x, lengths=lengths.tolist()), expected)
    alone = [ours.forward_with_state(x[n : n + 1, : lengths[n]])[1][0] for n in range(N)]
    torch.testing.assert_close(h_n, torch.cat(alone, dim=1))


def test_batch_first_false_takes_time_first():
    ours, theirs = pair(batch_first=False, layers=2)
    x = torch.randn(L, N, INPUTS)
    same(ours, theirs, x)
    lengths = torch.tensor([7, 2, 5, 1])
    first, _ = pair(batch_first=True, layers=2)
    assert torch.equal(ours(x, lengths=lengths), first(x.transpose(0, 1), lengths=lengths))


@pytest.mark.parametrize("options", [{}, {"layers": 2}, {"bidirectional": True}, {"proj_size": 2}], ids=str)
def test_unbatched_input_counts_as_one_row(options):
    ours, theirs = pair(**options)
    x = torch.randn(L, INPUTS)
    rows = options.get("layers", 1) * (2 if options.get("bidirectional") else 1)
    assert same(ours, theirs, x).shape == (rows, C)


def test_dropout_draws_as_nn_lstm_does_in_training_and_is_off_in_eval():
    ours, theirs = pair(layers=2, dropout=0.5)
    x = torch.randn(N, L, INPUTS)
    assert torch.equal(ours(x), ours(x))
    ours.train()
    theirs.train()
    torch.manual_seed(1)
    logits = ours(x)
    torch.manual_seed(1)
    assert torch.equal(logits, theirs(x)[0])
    assert not torch.equal(logits, ours(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"layers": 3}, {"bidirectional": True, "layers": 2}, {"proj_size": 4, "bidirectional": True}],
)
def test_the_last_readout_reads_the_top_layer_with_both_directions_side_by_side(options):
    torch.manual_seed(3)
    options = dict(options)
    net = LSTM1(C, INPUTS, H, options.pop("layers", 1), L, readout="last", **options).eval()
    x = torch.randn(N, L, INPUTS)
    output, (h_n, _) = net.lstm(x)
    width = options.get("proj_size") or H
    top = h_n[-1] if not options.get("bidirectional") else torch.cat([h_n[-2], h_n[-1]], dim=1)
    assert torch.equal(top[:, :width], output[:, -1, :width])
    expected = net.fc(torch.relu(net.fc_1(torch.relu(top))))
    assert torch.equal(net(x), expected)
    assert net(x).shape == (N, C)
    assert net(x[0]).shape == (1, C)


def test_both_readouts_are_equal_for_one_layer():
    stacked, _ = pair()
    last = LSTM1(C, INPUTS, H, 1, L, readout="last")
    last.load_state_dict(stacked.state_dict())
    x = torch.randn(N, L, INPUTS)
    assert torch.equal(last(x), stacked(x))


def test_stacked_rows_are_layer_major():
    net, _ = pair(layers=2)
    x = torch.randn(N, L, INPUTS)
    logits = net(x)
    torch.testing.assert_close(net(x[1:2]), logits[[1, N + 1]])


@settings(deadline=None, max_examples=25, derandomize=True)
@given(n=st.integers(1, 5), length=st.integers(1, 12), cut=st.integers(1, 11), layers=st.integers(1, 3))
def test_a_sequence_in_two_chunks_with_the_state_carried_ends_where_the_whole_does(n, length, cut, layers):
    net, _ = pair(layers=layers, dtype=torch.float64)
    x = torch.randn(n, length + cut, INPUTS, dtype=torch.float64)
    _, state = net.forward_with_state(x[:, :cut])
    torch.testing.assert_close(net(x[:, cut:], *state)[0], net(x))


def test_the_tutorial_call_and_checkpoint_work_as_they_are():
    theirs = Tutorial(C, INPUTS, H, 2)
    assert set(LSTM1(C, INPUTS, H, 2, L).state_dict()) == set(theirs.state_dict())
    LSTM1(num_classes=C, input_size=INPUTS, hidden_size=H, num_layers=2, seq_length=L).load_state_dict(
        theirs.state_dict()
    )


def test_options_make_the_same_network_again():
    net = LSTM1(
        C, INPUTS, H, 2, L, readout="last", bias=False, batch_first=False, dropout=0.25, bidirectional=True
    )
    again = LSTM1(**net.options)
    assert again.options == net.options
    again.load_state_dict(net.state_dict())
    assert set(net.options) == set(inspect.signature(LSTM1).parameters) - {"device", "dtype"}


def test_zero_states_are_made_on_the_device_and_in_the_dtype_of_x():
    net = LSTM1(C, INPUTS, H, 1, L, device="meta", dtype=torch.bfloat16)
    logits, (h_n, c_n) = net.forward_with_state(
        torch.empty(N, L, INPUTS, device="meta", dtype=torch.bfloat16)
    )
    assert {t.device.type for t in (logits, h_n, c_n)} == {"meta"}
    assert {t.dtype for t in (logits, h_n, c_n)} == {torch.bfloat16}


def test_an_unknown_readout_and_sizes_that_are_not_positive_are_refused_by_name():
    with pytest.raises(InputError, match="readout is 'first', expected one of stacked, last"):
        LSTM1(C, INPUTS, H, 1, L, readout="first")
    with pytest.raises(InputError, match="hidden_size is 0, expected a positive integer"):
        LSTM1(C, INPUTS, 0, 1, L)


def test_lengths_with_unbatched_input_are_refused():
    with pytest.raises(InputError, match="lengths require batched input"):
        LSTM1(C, INPUTS, H, 1, L)(torch.randn(L, INPUTS), lengths=[3])


@pytest.mark.parametrize("lengths", [[8, 1, 1, 1], [0, 1, 1, 1], [-1, 7, 7, 7]])
def test_lengths_out_of_range_are_refused_by_row(lengths):
    with pytest.raises(InputError, match=rf"lengths\[0\] is {lengths[0]}, expected 1 to 7"):
        LSTM1(C, INPUTS, H, 1, L)(torch.randn(N, L, INPUTS), lengths=lengths)


@pytest.mark.parametrize(
    "lengths", [[3], [1, 2, 3, 4, 5], torch.ones(4), torch.ones(4, 1, dtype=torch.int64)]
)
def test_lengths_of_another_shape_or_dtype_are_refused(lengths):
    with pytest.raises(InputError, match=r"lengths is .*, expected int64 \(4,\)"):
        LSTM1(C, INPUTS, H, 1, L)(torch.randn(N, L, INPUTS), lengths=lengths)


def test_scales_and_added_values_take_and_return_raw_units():
    torch.manual_seed(0)
    net = LSTM1(2, 3, H, 1, L, readout="last", added=(2, 0)).double().eval()
    x = 10 + torch.randn(N, L, 3, dtype=torch.float64)
    lengths = torch.tensor([3, 7, 1, 5])
    now = x[torch.arange(N), lengths - 1][:, [2, 0]]
    plain = net(x, lengths=lengths)
    torch.testing.assert_close(plain - now, net.outputs(net.lstm(x[:, :])[0])[torch.arange(N), lengths - 1])
    mean, std = torch.tensor([9.0, 10, 11]), torch.tensor([2.0, 0.5, 1])
    before = net((x - mean) / std, lengths=lengths) - ((now - mean[[2, 0]]) / std[[2, 0]])
    net.set_scales((mean, std), (torch.tensor([1.0, 2]), torch.tensor([3.0, 4])))
    expected = before * torch.tensor([3.0, 4]) + torch.tensor([1.0, 2]) + now
    torch.testing.assert_close(net(x, lengths=lengths), expected)
    last = torch.arange(N), lengths - 1
    for valid in (lengths, None):
        hidden, state = net.hidden_at(x, lengths[:, None] - 1, lengths=valid)
        torch.testing.assert_close(net.outputs(hidden[:, 0], x[last]), expected)
    _, state = net.hidden_at(x, lengths[:, None] - 1, lengths=lengths)
    torch.testing.assert_close(state, net.forward_with_state(x, None, lengths)[1])
    assert torch.equal(net.now(x), x[..., [2, 0]])


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (([0.0], [1.0]), r"the mean of x is \(1,\), expected \(2,\)"),
        (([0.0, 0], [1.0, 0]), "is not finite and positive"),
        (([0.0, float("nan")], [1.0, 1]), "is not finite and positive"),
    ],
)
def test_scales_that_do_not_fit_are_refused(scale, message):
    with pytest.raises(InputError, match=message):
        LSTM1(C, 2, H, 1, L).set_scales(tuple(map(torch.tensor, scale)))


def test_added_features_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"added is \(5,\), expected 1 indices below 2"):
        LSTM1(1, 2, H, 1, L, readout="last", added=(5,))
    with pytest.raises(InputError, match="requires readout='last'"):
        LSTM1(1, 2, H, 1, L, added=(1,))


def test_a_column_that_only_rounding_varies_keeps_its_scale():
    mean, std = fit_scale(torch.tensor([[1e6, 1.0], [1e6 + 0.06, 3.0]]))
    assert std.tolist() == [1.0, 1.0]
    assert mean.tolist() == pytest.approx([1e6, 2.0])
