"""Packed sequences inside ``forward``, in every way that PyTorch lets people write them."""

import numpy as np
import onnxruntime
import pytest
import torch
from beside import export_beside as export
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError

X, SORTED, UNSORTED = torch.randn(3, 6, 5), torch.tensor([6, 4, 2]), torch.tensor([2, 6, 4])


class Packs(nn.Module):
    def __init__(self, bidirectional=False):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=bidirectional)

    def pack(self, x, lengths, enforce_sorted=False):
        return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)


def agree(module, example, draw, sizes=((1, 1), (1, 5), (4, 1), (3, 9), (2, 20))):
    artifact = export(module.eval(), example)
    session = onnxruntime.InferenceSession(artifact.model)
    names = [spec.name for spec in artifact.manifest.outputs]
    for n, length in sizes:
        x, lengths = draw(n, length)
        feeds = {"x": x.numpy(), "lengths": lengths.numpy()}
        for state in artifact.manifest.states:
            shape = [n if axis == "N" else axis for axis in state.axes]
            feeds[state.input] = np.full(shape, state.reset, np.float32)
        with torch.no_grad():
            expected = module(x, lengths)
        got = session.run(names, feeds)
        for array, tensor in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=1e-5, err_msg=f"{n}, {length}")
    return artifact


def short(n, length):
    """No row reaches the padded length, so that PyTorch's padded output is shorter than the input."""
    return torch.randn(n, length, 5), torch.randint(1, max(2, length - 1), (n,)).clamp(max=length)


def falling(n, length):
    return torch.randn(n, length, 5), torch.randint(1, length + 1, (n,)).sort(descending=True)[0]


class Trimmed(Packs):
    def forward(self, x, lengths):
        output, counts = pad_packed_sequence(self.rnn(self.pack(x, lengths))[0], batch_first=True)
        return output, output.mean(1), counts


def test_without_total_length_the_output_ends_with_the_longest_row():
    artifact = agree(Trimmed(), (X, UNSORTED), short)
    assert artifact.manifest.outputs[0].axes == ("N", "longest", 6)


class PaddedLonger(Packs):
    def forward(self, x, lengths):
        packed = self.rnn(self.pack(x, lengths))[0]
        return pad_packed_sequence(packed, batch_first=True, padding_value=-1.0, total_length=40)[0]


def test_a_total_length_beyond_the_input_and_a_padding_value():
    artifact = agree(PaddedLonger(), (X, UNSORTED), short)
    assert artifact.manifest.outputs[0].axes == ("N", 40, 6)


class Chained(nn.Module):
    """A PackedSequence goes from one layer to the next, its data changed on the way; time first."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(5, 6, bidirectional=True)
        self.mix = nn.Linear(12, 7)
        self.second = nn.GRU(7, 4, num_layers=2)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x.transpose(0, 1), lengths.cpu().long())
        packed, _ = self.first(packed)
        packed = PackedSequence(
            torch.sigmoid(self.mix(packed.data)),
            packed.batch_sizes,
            packed.sorted_indices,
            packed.unsorted_indices,
        )
        packed, last = self.second(packed)
        output, _ = pad_packed_sequence(packed, total_length=x.size(1))
        return output, last


def test_a_packed_sequence_is_fed_from_one_layer_to_the_next():
    artifact = agree(Chained(), (X, SORTED), falling)
    assert (artifact.nodes["LSTM"], artifact.nodes["GRU"]) == (1, 2)
    assert [state.input for state in artifact.manifest.states] == ["first.h_0", "first.c_0", "second.h_0"]


class DoubledData(Packs):
    """Padding is not zero in the padded data; padding again must make it so."""

    def forward(self, x, lengths):
        packed = self.rnn(self.pack(x, lengths))[0]
        changed = packed._replace(data=packed.data + 1)
        return pad_packed_sequence(changed, batch_first=True, total_length=x.size(1))[0]


def test_what_is_done_to_packed_data_does_not_reach_the_padding():
    agree(DoubledData(), (X, UNSORTED), short)


class SortsItself(Packs):
    def forward(self, x, lengths):
        ordered, order = lengths.sort(descending=True)
        packed = self.pack(x[order], ordered.cpu(), enforce_sorted=True)
        output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.size(1))
        return output[order.argsort()]


def test_a_module_that_sorts_by_itself_takes_lengths_in_any_order():
    agree(SortsItself(bidirectional=True), (X, UNSORTED), short)


class ReadsBatchSizes(Packs):
    def forward(self, x, lengths):
        packed = self.pack(x, lengths)
        _, (h, _) = self.rnn(packed)
        return h[-1] * packed.batch_sizes[0]


def test_the_first_batch_size_is_the_batch():
    agree(ReadsBatchSizes(), (X, UNSORTED), short)


class LengthsFromMask(Packs):
    def forward(self, x, lengths):
        found = (x[..., 0] != 0).sum(1)
        return self.rnn(self.pack(x, found))[1][0][-1] + lengths.unsqueeze(1) * 0


def test_lengths_computed_from_the_input():
    def masked(n, length):
        x, lengths = short(n, length)
        x[..., 0] = torch.where(torch.arange(length)[None] < lengths[:, None], x[..., 0].abs() + 0.1, 0)
        return x, lengths

    agree(LengthsFromMask(), (X, UNSORTED), masked)


def test_narrow_lengths_are_taken_as_they_come():
    def narrow(n, length):
        x, lengths = short(n, length)
        return x, lengths.int()

    artifact = agree(Trimmed(), (X, UNSORTED.int()), narrow)
    assert artifact.manifest.inputs[1].dtype == "int32"
    assert artifact.manifest.lengths == "lengths"


class PicksLast(Packs):
    def forward(self, x, lengths):
        return self.rnn(x)[0][torch.arange(x.size(0)), lengths - 1]


def test_narrow_lengths_pick_the_last_step_beside_wide_rows():
    agree(
        PicksLast(), (X, UNSORTED.int()), lambda n, length: (short(n, length)[0], short(n, length)[1].int())
    )


def test_a_file_with_narrow_lengths_runs_streams_and_serves_batches():
    class Last(Packs):
        def forward(self, x, lengths):
            return self.rnn(self.pack(x, lengths))[1][0][-1]

    module = Last().eval()
    artifact = export(module, (X, UNSORTED.int()))
    model = load(artifact.model)
    assert model.manifest.padded_states
    assert model.selftest().ok
    with torch.no_grad():
        ragged, full = module(X, UNSORTED).numpy(), module(X, torch.tensor([6, 6, 6])).numpy()
    x = X.numpy()
    for lengths in (UNSORTED.tolist(), UNSORTED.numpy(), UNSORTED.int().numpy()):
        np.testing.assert_allclose(model.run(x, lengths=lengths)[0]["output"], ragged, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.run(x)[0]["output"], full, rtol=0, atol=1e-6)
    stream, batch = model.stream(), model.streams(3)
    ids = [batch.add() for _ in range(3)]
    for step in range(6):
        own, each = stream.step(x[0, step]), batch.step(x[:, step], ids)
    np.testing.assert_allclose(own, full[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(each, full, rtol=0, atol=1e-6)
    for source in ids:
        batch.reset(source)
    np.testing.assert_allclose(batch.process(x, ids), full, rtol=0, atol=1e-6)


def test_lengths_beside_a_time_axis_that_is_fixed():
    class Last(Packs):
        def forward(self, x, lengths):
            return self.rnn(self.pack(x, lengths))[1][0][-1]

    module = Last().eval()
    inputs = {"x": ("N", 6, 5), "lengths": ("N",)}
    model = load(export(module, (X, UNSORTED), ExportConfig(inputs=inputs)).model)
    with torch.no_grad():
        expected = module(X, UNSORTED).numpy()
    got, _ = model.run(X.numpy(), lengths=UNSORTED.tolist())
    np.testing.assert_allclose(got["output"], expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="got no lengths"):
        model.run(X.numpy())


class List(Packs):
    def forward(self, x, lengths):
        return self.rnn(self.pack(x, lengths.tolist()))[1][0]


def test_a_list_of_lengths_is_refused_with_what_to_write():
    with pytest.raises(UnsupportedError, match="values of a tensor"):
        export(List().eval(), (X, UNSORTED))


class Returns(Packs):
    def forward(self, x, lengths):
        return self.rnn(self.pack(x, lengths))[0]


def test_a_packed_sequence_as_output_is_refused_with_what_to_write():
    with pytest.raises(InputError, match="pad_packed_sequence"):
        export(Returns().eval(), (X, UNSORTED), ExportConfig(inputs={"x": ("N", "L", 5), "lengths": ("N",)}))


class ContextFirst(Packs):
    """The lengths belong to the second of two sequences."""

    def __init__(self):
        super().__init__()
        self.context = nn.GRU(5, 4, batch_first=True)

    def forward(self, context, x, lengths):
        last = self.context(context)[1][-1]
        return torch.cat([last, self.rnn(self.pack(x, lengths))[1][0][-1]], dim=1)


def test_lengths_count_the_steps_of_the_layer_that_takes_them():
    module = ContextFirst().eval()
    model = load(export(module, (torch.randn(3, 4, 5), X, UNSORTED)).model)
    context, x, lengths = torch.randn(2, 4, 5), torch.randn(2, 9, 5), torch.tensor([9, 3])
    inputs = {"context": context.numpy(), "x": x.numpy()}
    with torch.no_grad():
        expected = module(context, x, lengths).numpy()
    got, _ = model.run(inputs, lengths=lengths.tolist())
    np.testing.assert_allclose(got["output"], expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match=r"expected 1\.\.9"):
        model.run(inputs, lengths=[10, 3])
