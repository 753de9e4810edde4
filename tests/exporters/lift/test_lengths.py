"""Rows of unequal length, rows that are sorted inside the graph, and lengths that can't be changed."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError

INT = 7


class Packs(torch.nn.Module):
    """Sorts its rows by length, as ``enforce_sorted=False`` does, once or before every layer."""

    def __init__(self, kind, *, zeros=False, again=False):
        super().__init__()
        self.first = getattr(torch.nn, kind)(3, 4, 2, batch_first=True)
        self.second = torch.nn.GRU(4, 5, batch_first=True) if again else None
        self.zeros = zeros

    def forward(self, x, lengths):
        y, last = self._run(self.first, x, lengths)
        if self.second is not None:
            y, last = self._run(self.second, y, lengths)
        return y, last[0] if isinstance(last, tuple) else last

    def _run(self, layer, x, lengths):
        start = None
        if self.zeros:
            start = torch.zeros(layer.num_layers, x.size(0), layer.hidden_size)
            start = (start, start) if isinstance(layer, torch.nn.LSTM) else start
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, last = layer(packed, start)
        return pad_packed_sequence(y, batch_first=True)[0], last


def torchscript(module, opset=17):
    """Return the file that PyTorch's deprecated exporter writes."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.randn(3, 5, 3), torch.tensor([5, 2, 4])),
            buffer,
            dynamo=False,
            opset_version=opset,
            input_names=["x", "lengths"],
            output_names=["y", "last"],
            dynamic_axes={"x": {0: "N", 1: "L"}, "lengths": {0: "N"}},
        )
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [("LSTM", {}), ("GRU", {"zeros": True}), ("LSTM", {"zeros": True}), ("GRU", {"again": True})],
    ids=["absent", "zeros", "zero-pair", "twice"],
)
def test_a_row_keeps_its_state_when_the_order_of_lengths_changes(kind, options):
    torch.manual_seed(0)
    module = Packs(kind, **options).eval()
    lifted = lift(torchscript(module))
    assert lifted.manifest.lengths == "lengths"
    assert lifted.report.unstreamable == ""
    assert lifted.report.left == ()
    model, x = load(lifted.model), torch.randn(2, 8, 3)
    got, state = model.run(x[:, :4].numpy(), lengths=[2, 4])
    got, state = model.run(x[:, 4:].numpy(), state, lengths=[4, 2])
    for row, kept in enumerate([[0, 1, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]):
        with torch.no_grad():
            _, last = module(x[[row]][:, kept], torch.tensor([6]))
        np.testing.assert_allclose(got["last"][:, row], last[:, 0].numpy(), rtol=0, atol=1e-6)


def test_the_streams_of_a_batch_whose_chunks_change_in_length_are_those_of_single_streams():
    torch.manual_seed(0)
    model = load(lift(torchscript(Packs("LSTM").eval())).model)
    x = np.random.default_rng(0).standard_normal((2, 8, 3)).astype(np.float32)
    batch, single = model.streams(2), [model.stream(), model.stream()]
    ids = [batch.add(), batch.add()]
    for parts in ((x[0, :2], x[1, :4]), (x[0, 2:6], x[1, 4:6])):
        lengths = [len(part) for part in parts]
        padded = np.stack([np.pad(part, [(0, max(lengths) - len(part)), (0, 0)]) for part in parts])
        got = batch.process(padded, ids, lengths)
        for place, stream in enumerate(single):
            alone = stream.process(parts[place])
            np.testing.assert_allclose(got["last"][place], alone["last"], rtol=0, atol=1e-6)


def sorted_by(network, operator):
    """Rows put in the order of their lengths by an operator that the lift does not follow, or does."""
    net = network()
    count = net.add("Shape", ["lengths"])
    values, order = net.add("TopK", ["lengths", count], 2)
    rows = net.add("Transpose", ["x"], perm=[1, 0, 2])
    if operator == "GatherND":
        rows = net.add("GatherND", [rows, net.squeeze(order, 1, operator="Unsqueeze")])
    else:
        rows = net.add("Gather", [rows, order], axis=0)
    x = net.add("Transpose", [rows], perm=[1, 0, 2])
    net.recurrent("GRU", x, 3, 4, lengths=net.add("Cast", [values], to=6), outputs=("Y", "Y_h"))
    last = net.nodes[-1].output[1]
    _, back = net.add("TopK", [order, count], 2, largest=0)
    net.add("Gather", [last, back], ["last"], axis=1)
    return net.model({"x": ["L", "N", 3], "lengths": (INT, ["N"])}, ["last"]).SerializeToString()


def test_rows_sorted_in_a_way_that_states_can_not_follow_are_said_to_be_so(network):
    lifted = lift(sorted_by(network, "GatherND"))
    assert lifted.manifest.unstreamable == lifted.report.unstreamable
    assert "rows are in another order inside" in lifted.report.unstreamable
    with pytest.raises(ContractError, match="another order"):
        load(lifted.model).stream()
    assert lift(sorted_by(network, "Gather")).report.unstreamable == ""


def test_states_follow_rows_whatever_puts_them_in_order(network):
    net = network()
    first = net.add("ReduceSum", [net.slice("x", 0, 1, 0), net.const(np.array([0, 2]))], keepdims=0)
    _, order = net.add("TopK", [first, net.add("Shape", [first])], 2)
    net.recurrent("GRU", net.add("Gather", ["x", order], axis=1), 3, 4, outputs=("Y_h",))
    net.add("Identity", [net.nodes[-1].output[1]], ["last"])
    model = load(lift(net.model({"x": ["L", "N", 3]}, ["last"]).SerializeToString()).model)
    x, state = np.random.default_rng(0).standard_normal((4, 3, 3)).astype(np.float32), None
    alone = None
    for step in x:
        _, state = model.run(step[None], state)
        _, alone = model.run(step[None, [1]], alone)
    np.testing.assert_allclose(state["h_0"][:, [1]], alone["h_0"], rtol=0, atol=1e-6)


def test_layers_that_run_on_behind_a_rows_length_do_not_serve_padded_chunks(network):
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, lengths="lengths", outputs=("Y",))
    net.recurrent("GRU", net.squeeze(y, 1), 4, 4, outputs=("Y_h",))
    net.add("Identity", [net.nodes[-1].output[1]], ["last"])
    model = net.model({"x": ["L", "N", 3], "lengths": (6, ["N"])}, ["last"])
    lifted = lift(model.SerializeToString())
    assert not lifted.manifest.padded_states
    assert lifted.report.unstreamable == ""


def window(network, steps, operator="Conv"):
    """A network that takes ``steps`` steps a call and no other number."""
    net = network()
    fixed = net.add("Reshape", ["x", net.const(np.array([1, steps, 3]))])
    channels = net.add("Transpose", [fixed], perm=[0, 2, 1])
    seen = net.add("Conv", [channels, net.weight(3, 3, 3)], pads=[1, 1])
    net.recurrent("GRU", net.add("Transpose", [seen], perm=[2, 0, 1]), 3, 4, outputs=("Y_h",))
    net.add("Identity", [net.nodes[-1].output[1]], ["y"])
    return net.model({"x": [1, steps, 3]}, ["y"]).SerializeToString()


def test_a_length_that_can_not_be_changed_is_not_tried_and_not_called_streamable(network):
    lifted = lift(window(network, 5))
    assert lifted.report.chunks is None
    assert lifted.report.unstreamable == "chunks were not tried: every call takes 5 steps"
    with pytest.raises(ContractError, match="not tried"):
        load(lifted.model).stream()


def test_a_file_of_one_step_a_call_is_streamed_as_it_is(network):
    lifted = lift(window(network, 1))
    assert lifted.report.unstreamable == ""
    load(lifted.model).stream().step(np.ones((1, 1, 3), np.float32))
