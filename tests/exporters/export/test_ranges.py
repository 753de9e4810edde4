"""Axes that take some sizes only: promised by the tracer, stated, or refused with the line."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError
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
        return self.rnn(F.pad(x.transpose(1, 2), (3, 3), mode="reflect").transpose(1, 2))[0]


class PadsTo4(Net):
    def forward(self, x):
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        return self.rnn(x)[0]


class Pools(Net):
    """Pools over time, whose size torch.export would fix."""

    def forward(self, x):
        return self.rnn(F.max_pool1d(x.transpose(1, 2), 2).transpose(1, 2))[0]


X = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (DoublesByElements, r"x\.numel\(\) > 5000"),
        (PadsTo4, r"if x\.shape\[1\] % 4:"),
    ],
)
def test_a_condition_on_sizes_is_refused_with_its_line(module, line):
    with pytest.raises(UnsupportedError, match=rf"forward does something else than at the example.*{line}"):
        export(module().eval(), X)


def test_within_sizes_that_are_given_a_condition_may_hold():
    config = ExportConfig(ranges={"L": AxisRange(1, 200)})
    made = export(Doubles().eval(), X, config)
    assert made.manifest.ranges == {"L": AxisRange(1, 200)}
    config = ExportConfig(ranges={"L": AxisRange(4, None, 4)})
    made = export(PadsTo4().eval(), X, config)
    assert made.manifest.ranges == {"L": AxisRange(4, None, 4)}
    with load(made.model) as model, pytest.raises(InputError, match=r"accepts 4\.\.:4; use 8"):
        model.run(X[:, :6].numpy())


@pytest.mark.parametrize(
    ("module", "limits"),
    [
        (Wide, AxisRange(16)),
        (Reflects, AxisRange(4)),
        (Pools, AxisRange(2)),
        (Doubles, AxisRange(1, 200)),
        (Single, AxisRange(2)),
    ],
)
def test_the_sizes_that_operators_need_are_stated(module, limits):
    made = export(module().eval(), X)
    assert made.manifest.ranges == {"L": limits}


def test_a_wider_range_than_the_module_takes_is_refused():
    with pytest.raises(UnsupportedError, match=r"2\.\. is asked for, 16\.\. is what forward takes"):
        export(Wide().eval(), X, ExportConfig(ranges={"L": AxisRange(2)}))
