"""A file without a time axis whose layers take several steps a call: each call is a whole window."""

import warnings

import numpy as np
import pytest
import torch
from beside import export_beside as export
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError


class Plain(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True, **options)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


class Last(Plain):
    """The time axis is lost on the way."""

    def forward(self, x):
        return super().forward(x[:, -5:])


class Given(Plain):
    def forward(self, x, h, c):
        y, (h, c) = self.rnn(x, (h, c))
        return y[:, -1], h, c


class PackedTwice(Plain):
    def __init__(self):
        super().__init__()
        self.second = nn.GRU(4, 4, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, lengths = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        packed = pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
        return self.second(packed)[1][-1]


FIXED = ExportConfig(inputs={"x": ("N", 9, 3)})
X, ZEROS = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 2, 4)
WINDOWS = [
    (Plain(), X, FIXED, "9 steps"),
    (Plain(bidirectional=True), X, FIXED, "9 steps"),
    (Last(), X, None, "5 steps"),
    (
        Given(),
        (X, ZEROS, ZEROS),
        ExportConfig(inputs={"x": ("N", 9, 3), "h": (1, "N", 4), "c": (1, "N", 4)}),
        "9 steps",
    ),
    (
        PackedTwice(),
        (X, torch.tensor([9, 4])),
        ExportConfig(inputs={"x": ("N", 9, 3), "lengths": ("N",)}),
        "9 steps",
    ),
]


@pytest.mark.parametrize(
    ("module", "example", "config", "steps"), WINDOWS, ids=["fixed", "both", "lost", "given", "packed"]
)
def test_a_window_is_no_step(module, example, config, steps):
    artifact = export(module.eval(), example, config)
    manifest = artifact.manifest
    assert manifest.states == ()
    assert not manifest.streamable
    assert steps in manifest.unstreamable
    assert any("no states are carried" in note for note in artifact.notes)
    model = load(artifact.model)
    with pytest.raises(ContractError, match="a call is a whole window"):
        model.stream()
    with pytest.raises(ContractError, match="a call is a whole window"):
        model.streams(2)


def test_states_that_are_told_stay_and_the_file_is_not_streamed():
    config = ExportConfig(**{**vars(WINDOWS[3][2]), "states": {"h": "output_1", "c": "output_2"}})
    artifact = export(*WINDOWS[3][:2], config)
    assert [state.input for state in artifact.manifest.states] == ["h", "c"]
    assert not artifact.manifest.streamable


def test_a_layer_called_for_one_step_is_a_step():
    artifact = export(Plain().eval(), X[:, :1], ExportConfig(inputs={"x": ("N", 1, 3)}))
    assert artifact.manifest.streamable
    load(artifact.model).stream().step(np.zeros((1, 3), np.float32))


class Flattened(Plain):
    """No other number of steps fits its last layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(9 * 4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0].reshape(x.shape[0], 36))


def test_a_lifted_file_of_fixed_windows_says_so_and_is_not_streamed(tmp_path):
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Flattened().eval(), (X[:1],), path, dynamo=False)
    lifted = lift(path)
    assert "9 steps" in lifted.manifest.unstreamable
    assert lifted.manifest.unstreamable == lifted.manifest.unstreamable
    lifted.save(tmp_path / "lifted.onnx")
    with load(tmp_path / "lifted.onnx") as model, pytest.raises(ContractError, match="9 steps"):
        model.stream()
