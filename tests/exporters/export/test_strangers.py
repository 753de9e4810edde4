"""Small copies of modules of public packages, run at sizes that were not traced."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compared import export_and_compare as export
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters.export.call import Call
from lstm_edge_runtime import load
from lstm_edge_runtime.axes import resolve


def floats(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def run(content, given):
    """Run a file on named inputs, missing ones at their reset value; return the first
    output."""
    session = onnxruntime.InferenceSession(content)
    feeds = {name: tensor.numpy() for name, tensor in given.items()}
    for state in load(content).manifest.states:
        shape = resolve(state.axes, {"N": len(next(iter(feeds.values())))})
        feeds.setdefault(state.input, np.full(shape, state.reset, state.dtype))
    return session.run(None, feeds)[0]


class PadsToAValidLength(nn.Module):
    """Audio denoisers: a length computed by ``int`` and ``math.ceil``, and cut back at
    the end."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv1d(1, 4, 8, 4)
        self.up = nn.ConvTranspose1d(4, 1, 8, 4)
        self.rnn = nn.LSTM(4, 4)

    def valid_length(self, length):
        return int(math.ceil((length - 8) / 4) * 4 + 8)

    def forward(self, x):
        length = x.shape[-1]
        x = self.down(F.pad(x, (0, self.valid_length(length) - length)))
        x = self.rnn(x.permute(2, 0, 1))[0].permute(1, 2, 0)
        return self.up(x)[..., :length]


class NormOverAllAxes(nn.Module):
    """Separation networks: axes from ``torch.arange(...).tolist()``."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4, batch_first=True)
        self.norm = nn.GroupNorm(1, 4)

    def forward(self, x):
        axes = torch.arange(1, len(x.shape)).tolist()
        x = x - x.mean(dim=axes, keepdim=True)
        return self.norm(self.rnn(x)[0].transpose(1, 2))


class OwnCell(nn.Module):
    """A cell of linear layers, with its state."""

    def __init__(self):
        super().__init__()
        self.ih = nn.Linear(5, 6)
        self.hh = nn.Linear(6, 6)

    def forward(self, x, h):
        return torch.tanh(self.ih(x) + self.hh(h))


class PaddingIsZero(nn.Module):
    """Recommenders: lengths counted from tokens, of which a random draw may leave
    none."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(9, 4, padding_idx=0)
        self.rnn = nn.GRU(4, 4, batch_first=True)

    def forward(self, tokens):
        count = (tokens != 0).sum(1)
        packed = pack_padded_sequence(
            self.items(tokens), count, batch_first=True, enforce_sorted=False
        )
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1)


TOKENS = torch.tensor([[3, 4, 5, 8], [1, 2, 7, 0]])
STRANGERS = [
    (PadsToAValidLength, lambda n, length: (floats(n, 1, 8 + length),)),
    (NormOverAllAxes, lambda n, length: (floats(n, length, 4),)),
    (OwnCell, lambda n, length: (floats(n, 5), floats(n, 6))),
    (PaddingIsZero, lambda n, length: (TOKENS.repeat(n, length)[:n, :length],)),
]


@pytest.mark.parametrize(
    ("kind", "inputs"), STRANGERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_module_that_once_went_wrong_is_right_at_sizes_that_were_not_traced(
    kind, inputs
):
    torch.manual_seed(0)
    module = kind().eval()
    artifact = export(module, inputs(2, 4))
    content = artifact.model
    names = Call.of(module, inputs(2, 4)).names
    for n, length in ((1, 2), (3, 7), (2, 50)):
        given = inputs(n, length)
        with torch.no_grad():
            expected = module(*given).numpy()
        got = run(content, dict(zip(names, given, strict=True)))
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=2e-5, err_msg=f"{n}, {length}"
        )
    inferred = onnx.load_from_string(content).graph.value_info
    assert "None" not in {
        axis.dim_param
        for value in inferred
        for axis in value.type.tensor_type.shape.dim
    }


class LoopsOverTime(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = OwnCell()

    def forward(self, x, hx=None):
        h = torch.zeros(x.size(0), 6) if hx is None else hx
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
        return h


class TakesApart(LoopsOverTime):
    def forward(self, x, hx):
        steps = x.unbind(1)
        for step in steps:
            hx = self.cell(step, hx)
        return hx


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", [LoopsOverTime, TakesApart])
def test_a_loop_is_exported_for_any_length_from_an_example_of_one_step(kind, rows):
    torch.manual_seed(0)
    module = kind().eval()

    def inputs(n, steps):
        return {"x": floats(n, steps, 5)} | (
            {"hx": floats(n, 6)} if kind is TakesApart else {}
        )

    content = export(module, inputs(rows, 1)).model
    assert load(content).manifest.axes["x"] == ("N", "L", 5)
    given = inputs(4, 7)
    with torch.no_grad():
        expected = module(**given).numpy()
    np.testing.assert_allclose(run(content, given), expected, rtol=0, atol=1e-5)
