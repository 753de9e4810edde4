"""Rows of unequal length, and rows that are sorted inside the graph."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters import export
from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load


class Packs(torch.nn.Module):
    """Sorts its rows by length, as ``enforce_sorted=False`` does, once or before every
    layer."""

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
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        y, last = layer(packed, start)
        return pad_packed_sequence(y, batch_first=True)[0], last


class Masks(torch.nn.GRU):
    """Gives zeros behind each row's length."""

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        y, last = super().forward(packed)
        return pad_packed_sequence(y, batch_first=True, total_length=x.size(1))[0], last


class Trims(Masks):
    """Ends with the longest row."""

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return pad_packed_sequence(torch.nn.GRU.forward(self, packed)[0], True)[0]


def test_an_output_that_ends_with_the_longest_row_is_named_so():
    torch.manual_seed(0)
    example = {"x": torch.randn(3, 5, 3), "lengths": torch.tensor([5, 2, 4])}
    bare = onnx.load_from_string(export(Trims(3, 4, batch_first=True), example).model)
    del bare.metadata_props[:]
    lifted = lift(bare.SerializeToString())
    assert lifted.manifest.outputs[0].axes == ("N", "longest", 4)
    x = example["x"].numpy()
    outputs, _ = load(lifted.model).run(x, lengths=[2, 3, 1])
    assert outputs["output"].shape == (3, 3, 4)


def test_a_mask_of_lengths_does_not_keep_a_file_from_streaming():
    torch.manual_seed(0)
    example = {"x": torch.randn(3, 5, 3), "lengths": torch.tensor([5, 2, 4])}
    exported = export(Masks(3, 4, batch_first=True).eval(), example)
    assert exported.streamable
    assert exported.manifest.lengths == "lengths"
    bare = onnx.load_from_string(exported.model)
    del bare.metadata_props[:]
    lifted = lift(bare.SerializeToString())
    assert lifted.streamable
    assert lifted.manifest.lengths == "lengths"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {}),
        ("GRU", {"zeros": True}),
        ("LSTM", {"zeros": True}),
        ("GRU", {"again": True}),
    ],
    ids=["absent", "zeros", "zero-pair", "twice"],
)
def test_a_row_keeps_its_state_when_the_order_of_lengths_changes(
    torch_file, kind, options
):
    torch.manual_seed(0)
    module = Packs(kind, **options).eval()
    names = {"input_names": ["x", "lengths"], "output_names": ["y", "last"]}
    axes = {"x": {0: "N", 1: "L"}, "lengths": {0: "N"}}
    example = (torch.randn(3, 5, 3), torch.tensor([5, 2, 4]))
    lifted = lift(
        torch_file(
            module, example, dynamo=False, opset_version=17, dynamic_axes=axes, **names
        )
    )
    assert lifted.manifest.lengths == "lengths"
    assert lifted.manifest.unstreamable == ""
    model = load(lifted.model)
    x = torch.randn(2, 8, 3)
    got, state = model.run(x[:, :4].numpy(), lengths=[2, 4])
    got, state = model.run(x[:, 4:].numpy(), state, lengths=[4, 2])
    for row, kept in enumerate([[0, 1, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]):
        with torch.no_grad():
            _, last = module(x[[row]][:, kept], torch.tensor([6]))
        np.testing.assert_allclose(
            got["last"][:, row], last[:, 0].numpy(), rtol=0, atol=1e-6
        )
