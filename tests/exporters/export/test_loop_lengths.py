"""Loops over time that do something else from some step on, far beyond those of a trace."""

import math
import re
from collections import deque
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError

X = torch.linspace(-1, 1, 2 * 7 * 3).reshape(2, 7, 3)
LIMIT = 450


class Decaying(nn.Module):
    """A loop over time: ``step(x_t, h, t)`` returns the next h."""

    late = LIMIT

    def __init__(self):
        super().__init__()
        self.options = SimpleNamespace(late=LIMIT)

    def begin(self, x):
        self.count = 0
        self.line = deque(maxlen=400)
        self.delays = [x.new_zeros(x.size(0), 3)] * 441

    def forward(self, x):
        self.begin(x)
        h = x.new_zeros(x.size(0), 3)
        outs = []
        for t in range(x.size(1)):
            h = self.step(x[:, t], h, t, outs)
            outs.append(h)
        return torch.stack(outs, 1)


class Counted(Decaying):
    def step(self, x, h, t, outs):
        self.count += 1
        return x - h if self.is_late(self.count) else x + 0.5 * h


class OfAttribute(Counted):
    def is_late(self, count):
        return count > self.late


class OfOptions(Counted):
    def is_late(self, count):
        return count > self.options.late


class OfGlobal(Counted):
    def is_late(self, count):
        return count > LIMIT


class OfSum(Counted):
    def is_late(self, count):
        return count > 300 + self.late


class OfFraction(Counted):
    def is_late(self, count):
        return count * 0.002 > 1.0


class OfQuotient(Counted):
    def is_late(self, count):
        return count / 100.0 > 7.5


class OfProduct(Counted):
    def is_late(self, count):
        return count > 100.0 * 6.5


class OfSchedule(Counted):
    schedule = np.concatenate([np.zeros(600), np.ones(30_000)])

    def is_late(self, count):
        return bool(self.schedule[count])


class OfTime(Decaying):
    def begin(self, x):
        self.time = timedelta(0)

    def step(self, x, h, t, outs):
        self.time += timedelta(milliseconds=20)
        return x - h if self.time > timedelta(seconds=10) else x + 0.5 * h


class OfSeconds(Decaying):
    def begin(self, x):
        self.seconds = 0.0

    def step(self, x, h, t, outs):
        self.seconds += 0.02
        return x - h if self.seconds > 10.0 else x + 0.5 * h


class OfGain(Decaying):
    def begin(self, x):
        self.gain = 1.0

    def step(self, x, h, t, outs):
        self.gain *= 0.995
        return x - h if self.gain < 0.05 else x + 0.5 * h


class OfDigits(Decaying):
    def begin(self, x):
        self.low = 0
        self.high = 0

    def step(self, x, h, t, outs):
        self.low += 1
        if self.low == 32:
            self.low = 0
            self.high += 1
        if self.high == 32:
            self.high = 0
            return x
        return x + 0.5 * h


class Periodic(Counted):
    def is_late(self, count):
        return count % 512 == 0


class OfLength(Decaying):
    def step(self, x, h, t, outs):
        return x - h if len(outs) > 350 else x + 0.5 * h


class Line(Decaying):
    def step(self, x, h, t, outs):
        self.line.append(x)
        return self.line[0] + 0.5 * h


class Echo(Decaying):
    def step(self, x, h, t, outs):
        y = x + 0.7 * self.delays.pop(0)
        self.delays.append(y)
        return y


@pytest.mark.parametrize(
    "kind",
    [
        OfAttribute,
        OfOptions,
        OfGlobal,
        OfSum,
        OfFraction,
        OfQuotient,
        OfProduct,
        OfSchedule,
        OfTime,
        OfSeconds,
        OfGain,
        OfDigits,
        Periodic,
        OfLength,
        Line,
        Echo,
    ],
)
def test_what_many_steps_change_fails_the_comparison(kind):
    with pytest.raises(CheckFailedError, match="keep the count in a tensor"):
        export(kind().eval(), X)


class FadeIn(Decaying):
    def step(self, x, h, t, outs):
        gain = float(np.clip(t / 400, 0.0, 1.0))
        return (1 - gain) * h + gain * x


class Distance(Decaying):
    def step(self, x, h, t, outs):
        return x + h * abs(t - 400) / 1000


class Remainder(Decaying):
    def step(self, x, h, t, outs):
        return x + 0.001 * h * math.fmod(t, 400)


@pytest.mark.parametrize("kind", [FadeIn, Distance, Remainder])
def test_functions_of_c_do_not_read_the_number_of_a_step(kind):
    with pytest.raises(UnsupportedError, match="computes with the number of a step"):
        export(kind().eval(), X)


class Far(Counted):
    def is_late(self, count):
        return count > 48_000


def test_a_count_beyond_what_can_be_compared_is_refused_with_its_number():
    with pytest.raises(UnsupportedError, match=r"reads the number 48000 \(in is_late"):
        export(Far().eval(), X)


class Rate(Decaying):
    def step(self, x, h, t, outs):
        return x + h / 48_000


def test_a_large_number_without_a_count_is_no_limit():
    assert export(Rate().eval(), X).manifest.streamable


@pytest.mark.parametrize("size", [96, 128, 441, 1024])
def test_a_branch_at_multiples_of_a_length_is_refused(size):
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            if x.size(1) % size:
                x = F.pad(x, (0, 0, 0, size - x.size(1) % size))
            return self.gru(x)[0][:, -1]

    branch = re.escape(f"another branch at L={size} than")
    with pytest.raises(UnsupportedError, match=branch):
        export(Padded().eval(), X)


class Frames(nn.Module):
    """A loop over frames of four steps, which stops to change."""

    def forward(self, x):
        frames = F.pad(x, (0, 0, 0, -x.size(1) % 4)).unflatten(1, (-1, 4)).sum(2)
        h = x.new_zeros(x.size(0), 3)
        count, outs = 0, []
        for t in range(frames.size(1)):
            h = 0.5 * h + frames[:, t] if count < LIMIT else h
            count = count + 1
            outs.append(h)
        return torch.stack(outs, 1)


def test_a_loop_over_frames_is_compared_at_as_many_frames():
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    with pytest.raises(
        CheckFailedError, match=r"L=40\d\d\d.*keep the count in a tensor"
    ):
        export(Frames().eval(), X, config)
