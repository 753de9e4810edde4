"""Axes that take some sizes only: promised by the tracer, stated, or refused with the
line."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import AxisRange


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=True)
        self.wide = nn.Conv1d(4, 4, 16)


class Doubles(Net):
    """Does something else for long inputs."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] > 200 else y


class Single(Net):
    """A branch for single steps."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] == 1 else y


class DoublesByElements(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.numel() > 5000 else y


class Wide(Net):
    """A kernel of 16 in front of the layer."""

    def forward(self, x):
        return self.rnn(self.wide(x.transpose(1, 2)).transpose(1, 2))[0]


class Reflects(Net):
    """Padding by 3 needs 4 steps."""

    def forward(self, x):
        return self.rnn(
            F.pad(x.transpose(1, 2), (3, 3), mode="reflect").transpose(1, 2)
        )[0]


class PadsTo4(Net):
    def forward(self, x):
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        return self.rnn(x)[0]


class DoublesByFloat(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.size(1) * 0.5 > 1000 else y


X = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (DoublesByElements, r"x\.numel\(\) > 5000"),
        (DoublesByFloat, r"x\.size\(1\) \* 0\.5 > 1000"),
        (PadsTo4, r"if x\.shape\[1\] % 4:"),
    ],
)
def test_a_condition_on_sizes_is_refused_with_its_line(module, line):
    with pytest.raises(
        UnsupportedError,
        match=rf"forward does something else than at the example.*{line}",
    ):
        export(module().eval(), X)


@pytest.mark.parametrize(
    ("module", "limits"),
    [
        (Wide, AxisRange(16)),
        (Reflects, AxisRange(4)),
        (Doubles, AxisRange(1, 200)),
        (Single, AxisRange(2)),
    ],
)
def test_the_sizes_that_operators_need_are_stated(module, limits):
    made = export(module().eval(), X)
    assert made.manifest.ranges == {"L": limits}
