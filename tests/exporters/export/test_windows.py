"""A file without a time axis whose layers take several steps a call: each call is a
whole window."""

import onnx
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

from lstm_edge_exporters import ExportConfig, lift
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


FIXED = ExportConfig(inputs={"x": ("N", 9, 3)})
X = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
ZEROS = torch.zeros(1, 2, 4)
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
]


@pytest.mark.parametrize(
    ("module", "example", "config", "steps"),
    WINDOWS,
    ids=["fixed", "both", "lost", "given"],
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
    config = ExportConfig(
        **{**vars(WINDOWS[3][2]), "states": {"h": "output_1", "c": "output_2"}}
    )
    artifact = export(*WINDOWS[3][:2], config)
    assert [state.input for state in artifact.manifest.states] == ["h", "c"]
    assert not artifact.manifest.streamable


class Pooled(nn.Module):
    """An LSTM, one frame per six steps."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x):
        frames = self.rnn(x)[0][:, : x.shape[1] // 6 * 6]
        return frames.reshape(x.shape[0], x.shape[1] // 6, 6, 6).mean(2)


def test_no_golden_case_has_an_empty_output():
    artifact = export(Pooled().eval(), torch.randn(2, 24, 4))
    bare = onnx.load_from_string(artifact.model)
    del bare.metadata_props[:]
    golden = lift(bare.SerializeToString()).manifest.golden
    for case in (golden, *golden.more):
        assert all(array.size for array in case.outputs.values())
