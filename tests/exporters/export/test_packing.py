"""Packed sequences inside ``forward``, in every way that PyTorch lets people write
them."""

import numpy as np
import onnxruntime
import pytest
import torch
from compared import export_and_compare as export
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError

X = torch.randn(3, 6, 5)
SORTED = torch.tensor([6, 4, 2])
UNSORTED = torch.tensor([2, 6, 4])


class Packs(nn.Module):
    def __init__(self, bidirectional=False):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True, bidirectional=bidirectional)

    def pack(self, x, lengths, enforce_sorted=False):
        return pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=enforce_sorted
        )


def agree(module, example, draw, sizes=((1, 1), (1, 5), (4, 1), (3, 9), (2, 20))):
    artifact = export(module.eval(), example)
    session = onnxruntime.InferenceSession(artifact.model)
    for n, length in sizes:
        x, lengths = draw(n, length)
        feeds = {"x": x.numpy(), "lengths": lengths.numpy()}
        for state in artifact.manifest.states:
            shape = [n if axis == "N" else axis for axis in state.axes]
            feeds[state.input] = np.full(shape, state.reset, np.float32)
        with torch.no_grad():
            expected = module(x, lengths)
        got = session.run(None, feeds)  # states come last
        for array, tensor in zip(
            got, expected if isinstance(expected, tuple) else (expected,), strict=False
        ):
            np.testing.assert_allclose(
                array, tensor.numpy(), rtol=0, atol=1e-5, err_msg=f"{n}, {length}"
            )
    return artifact


def short(n, length):
    """No row reaches the padded length, so that PyTorch's padded output is shorter than
    the input."""
    return torch.randn(n, length, 5), torch.randint(1, max(2, length - 1), (n,)).clamp(
        max=length
    )


def falling(n, length):
    return (
        torch.randn(n, length, 5),
        torch.randint(1, length + 1, (n,)).sort(descending=True)[0],
    )


class Trimmed(Packs):
    def forward(self, x, lengths):
        output, counts = pad_packed_sequence(
            self.rnn(self.pack(x, lengths))[0], batch_first=True
        )
        return output, output.mean(1), counts


def test_without_total_length_the_output_ends_with_the_longest_row():
    artifact = agree(Trimmed(), (X, UNSORTED), short)
    assert artifact.manifest.outputs[0].axes == ("N", "longest", 6)


class Counted(Packs):
    def forward(self, x, lengths):
        packed, _ = self.rnn(self.pack(x, lengths))
        return pad_packed_sequence(packed, batch_first=True, total_length=x.size(1))


def test_counts_of_the_segments_of_a_chunk_are_added_up():
    artifact = agree(Counted(), (X, UNSORTED), short)
    assert artifact.manifest.counts == ("output_1",)
    with load(artifact.model) as model:
        batch = model.streams(2, reset_every=4)  # a chunk of 6 is run as 4 and 2
        result = batch.process(X[:2].numpy(), [batch.add(), batch.add()])
    assert result["output_1"].tolist() == [6, 6]


class Chained(nn.Module):
    """A PackedSequence passed between two layers, with changed data; time first."""

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
    assert not artifact.verified.skipped  # every case has sorted lengths
    assert (artifact.nodes["LSTM"], artifact.nodes["GRU"]) == (1, 2)
    assert [state.input for state in artifact.manifest.states] == [
        "first.h_0",
        "first.c_0",
        "second.h_0",
    ]


class SortsItself(Packs):
    def forward(self, x, lengths):
        ordered, order = lengths.sort(descending=True)
        packed = self.pack(x[order], ordered.cpu(), enforce_sorted=True)
        output, _ = pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.size(1)
        )
        return output[order.argsort()]


def test_a_module_that_sorts_by_itself_takes_lengths_in_any_order():
    agree(SortsItself(bidirectional=True), (X, UNSORTED), short)


class LengthsFromMask(Packs):
    def forward(self, x, lengths):
        counts = (x[..., 0] != 0).sum(1)
        return self.rnn(self.pack(x, counts))[1][0][-1] + lengths.unsqueeze(1) * 0


def test_lengths_computed_from_the_input():
    def masked(n, length):
        x, lengths = short(n, length)
        x[..., 0] = torch.where(
            torch.arange(length)[None] < lengths[:, None], x[..., 0].abs() + 0.1, 0
        )
        return x, lengths

    agree(LengthsFromMask(), (X, UNSORTED), masked)


def test_narrow_lengths_are_taken_as_they_come():
    def narrow(n, length):
        x, lengths = short(n, length)
        return x, lengths.int()

    artifact = agree(Trimmed(), (X, UNSORTED.int()), narrow)
    assert artifact.manifest.inputs[1].dtype == "int32"
    assert artifact.manifest.lengths == "lengths"


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
        export(
            Returns().eval(),
            (X, UNSORTED),
            ExportConfig(inputs={"x": ("N", "L", 5), "lengths": ("N",)}),
        )
