"""Networks with loops over time, from published code and from examples of PyTorch's."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from loop_helper import scan
from torch import nn

X = {"x": ("N", "L", 3)}
NETWORKS = {}
"""Every network by its name."""


@dataclass(frozen=True)
class Network:
    """A module class, and how it is exported."""

    kind: type
    inputs: dict
    """Axes of the inputs."""
    streams: bool
    """True if steps with states carried compute the full sequence."""
    node: str
    """Operator that the loop becomes."""

    def example(self):
        """Return an example of 2 rows and 6 steps."""
        sizes = {"N": 2, "L": 6}
        tensors = []
        for name, axes in self.inputs.items():
            shape = [sizes.get(axis, axis) for axis in axes]
            is_count = name in ("lengths", "steps")
            whole = torch.tensor([6, 3]).reshape(shape) if is_count else None
            tensors.append(torch.randn(shape) if whole is None else whole)
        return tuple(tensors)


def network(inputs=None, *, streams=True, node="Scan"):
    """Add a class to ``NETWORKS``."""

    def add(kind):
        NETWORKS[kind.__name__] = Network(kind, inputs or X, streams, node)
        return kind

    return add


class Linears(nn.Module):
    """A module with linear layers by name."""

    def __init__(self, **sizes):
        super().__init__()
        for name, size in sizes.items():
            setattr(self, name, nn.Linear(*size))


@network(node="LSTM")
class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        c = torch.zeros_like(h)
        outs = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outs.append(h)
        return self.head(torch.stack(outs, 1))


@network()
class LayerNormLSTM(Linears):
    def __init__(self):
        super().__init__(i=(3, 16), head=(4, 2))
        self.r = nn.Linear(4, 16, bias=False)
        self.norm = nn.LayerNorm(16)
        self.cell_norm = nn.LayerNorm(4)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 4)
        c = torch.zeros(x.shape[0], 4)
        for x_t in x.unbind(1):
            i, f, g, o = self.norm(self.i(x_t) + self.r(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.cell_norm(c))
        return self.head(h)


@network({"x": ("L", "N", 3)})
class Peephole(Linears):
    def __init__(self):
        super().__init__(w=(7, 16))
        self.p = nn.Parameter(torch.randn(3, 4) * 0.3)

    def forward(self, x):
        steps, rows, _ = x.shape
        h = x.new_zeros(rows, 4)
        c = x.new_zeros(rows, 4)
        out = x.new_zeros(steps, rows, 4)
        for t in range(steps):
            i, f, g, o = self.w(torch.cat([x[t], h], 1)).chunk(4, 1)
            i = torch.sigmoid(i + self.p[0] * c)
            f = torch.sigmoid(f + self.p[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.p[2] * c) * torch.tanh(c)
            out[t] = h
        return out


@network({"x": ("N", "L", 1, 5, 5)})
class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1 + 4, 16, 3, padding=1)

    def forward(self, x):
        b, steps, _, height, width = x.size()
        h = torch.zeros(b, 4, height, width, device=x.device)
        c = torch.zeros(b, 4, height, width)
        outs = []
        for k in range(steps):
            gates = self.conv(torch.cat([x[:, k], h], 1))
            i, f, o, g = torch.split(gates, 4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outs.append(h.unsqueeze(1))
        return torch.cat(outs, 1)


@network(node="GRU")
class NoneFirst(Linears):
    def __init__(self):
        super().__init__(out=(4, 1))
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        h = None
        ys = []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t, :], h)
            ys.append(self.out(h))
        return torch.cat(ys, dim=1)


@network(node="GRU")
class TwoLayers(Linears):
    def __init__(self):
        super().__init__(out=(4, 1))
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])

    def forward(self, x):
        hs = [torch.zeros(x.size(0), 4) for _ in self.cells]
        ys = []
        for t in range(x.size(1)):
            z = x[:, t]
            for i, cell in enumerate(self.cells):
                hs[i] = cell(z, hs[i])
                z = hs[i]
            ys.append(z)
        return self.out(torch.stack(ys, dim=1))


@network(node="GRU")
class Layered(Linears):
    def __init__(self):
        super().__init__(out=(4, 1))
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])

    def forward(self, x):
        inp = x
        for cell in self.cells:
            h = torch.zeros(x.size(0), 4)
            outs = []
            for t in range(inp.size(1)):
                h = cell(inp[:, t], h)
                outs.append(h)
            inp = torch.stack(outs, 1)
        return self.out(inp), h


@network()
class MinGRU(Linears):
    def __init__(self):
        super().__init__(z=(3, 4), h=(3, 4), out=(4, 1))

    def forward(self, x):
        z = torch.sigmoid(self.z(x))
        g = self.h(x)
        h = torch.zeros(x.size(0), 4)
        out = []
        for t in range(x.size(1)):
            h = (1 - z[:, t]) * h + z[:, t] * g[:, t]
            out.append(h)
        return self.out(torch.stack(out, 1))


@network()
class Mamba(Linears):
    def __init__(self):
        super().__init__(x=(3, 6), b=(6, 5), c=(6, 5), dt=(6, 6), out=(6, 2))
        self.a = nn.Parameter(-torch.rand(6, 5))

    def forward(self, x):
        u = F.silu(self.x(x))
        dt = F.softplus(self.dt(u))
        decay = torch.exp(dt.unsqueeze(-1) * self.a)
        added = dt.unsqueeze(-1) * self.b(u).unsqueeze(2)
        c = self.c(u)
        rows, steps, width = u.shape
        h = torch.zeros(rows, width, 5, device=u.device)
        ys = []
        for i in range(steps):
            h = decay[:, i] * h + added[:, i] * u[:, i].unsqueeze(-1)
            ys.append(torch.einsum("bdn,bn->bd", h, c[:, i, :]))
        return self.out(torch.stack(ys, dim=1))


@network()
class Spiking(Linears):
    def __init__(self):
        super().__init__(a=(3, 5), b=(5, 2))

    def forward(self, x):
        mem1 = torch.zeros(x.size(0), 5)
        mem2 = torch.zeros(x.size(0), 2)
        spikes = []
        potentials = []
        for step in range(x.size(1)):
            mem1 = 0.9 * mem1 + self.a(x[:, step])
            spike = (mem1 > 1).float()
            mem1 = mem1 - spike
            mem2 = 0.8 * mem2 + self.b(spike)
            spikes.append((mem2 > 1).float())
            potentials.append(mem2)
        return torch.stack(spikes, 1), torch.stack(potentials, 1)


@network({**X, "h": ("N", 4), "c": ("N", 4)}, node="LSTM")
class Arguments(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x, h, c):
        outs = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outs.append(h)
        return torch.stack(outs, 1), h, c


@network({**X, "lengths": ("N",)})
class Lengths(Linears):
    def __init__(self):
        super().__init__(out=(4, 2))
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x, lengths):
        h = torch.zeros(x.size(0), 4)
        for t in range(x.size(1)):
            new = self.cell(x[:, t], h)
            h = torch.where((t < lengths).unsqueeze(1), new, h)
        return self.out(h)


@network()
class TwoStepsBack(Linears):
    def __init__(self):
        super().__init__(w=(11, 4))

    def forward(self, x):
        a = torch.zeros(x.size(0), 4)
        b = torch.zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            new = torch.tanh(self.w(torch.cat([x[:, t], a, b], -1)))
            b = a
            a = new
            outs.append(new)
        return torch.stack(outs, 1)


@network()
class Biquad(nn.Module):
    """A filter of second order."""

    def forward(self, x):
        x1 = x2 = y1 = y2 = torch.zeros_like(x[:, 0])
        outs = []
        for t in range(x.size(1)):
            y = 0.2 * x[:, t] + 0.3 * x1 + 0.1 * x2 + 0.5 * y1 - 0.3 * y2
            x2, x1 = x1, x[:, t]
            y2, y1 = y1, y
            outs.append(y)
        return torch.stack(outs, 1)


@network()
class ThirdOrder(nn.Module):
    """A filter of third order, whose oldest values all start as one tensor."""

    def forward(self, x):
        x1 = x2 = x3 = y1 = y2 = y3 = torch.zeros_like(x[:, 0])
        outs = []
        for t in range(x.size(1)):
            y = 0.2 * x[:, t] + 0.3 * x1 + 0.1 * x2 + 0.05 * x3
            y = y + 0.4 * y1 - 0.2 * y2 + 0.1 * y3
            x3, x2, x1 = x2, x1, x[:, t]
            y3, y2, y1 = y2, y1, y
            outs.append(y)
        return torch.stack(outs, 1)


@network()
class AddedInPlace(nn.Module):
    """Each step is added to what its buffer holds."""

    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        y = x.clone()
        for t in range(x.size(1)):
            h = torch.tanh(0.5 * h + x[:, t])
            y[:, t] += h
        return y


@network(streams=False)
class Fired(nn.Module):
    """Spikes are bools, and the last one decides."""

    def forward(self, x):
        v = x.new_zeros(x.size(0), 3)
        fired = torch.zeros(x.shape, dtype=torch.bool)
        for t in range(x.size(1)):
            v = (
                v + x[:, t]
                if t == 0
                else torch.where(~fired[:, t - 1], 0.9 * v + x[:, t], v * 0)
            )
            fired[:, t] = v > 1
        return fired.float()


@network(node="GRU")
class LearnedStart(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.h0 = nn.Parameter(torch.randn(4))

    def forward(self, x):
        h = self.h0.expand(x.size(0), -1)
        outs = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            outs += [h]
        return torch.stack(outs).transpose(0, 1)


@network(node="GRU")
class NumberInFrontOfACell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t] + 0.1 * t, h)
            outs.append(h * (t + 1))
        return torch.stack(outs, 1)


@network({"x": ("L", "N", 3), "steps": ("N", 1)})
class TimeSinceEvent(Linears):
    """Three uses of the step's number: shifted, as a float, and compared by row."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x, steps):
        h = x.new_zeros(x.size(1), 2, 4)
        outs = []
        for t in range(x.size(0)):
            z = self.w(x[t]).unsqueeze(1) + self.u(h) + 0.01 * t
            new = torch.tanh(z) * (t + 1 > steps).unsqueeze(2)
            h = new / (2 * t + 3) + 0.5 * h
            outs.append(h)
        return torch.stack(outs)


@network()
class LayerInFrontOfALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y, _ = self.gru(x)
        mean = torch.zeros_like(y[:, 0])
        outs = []
        for t in range(y.size(1)):
            mean = mean + (y[:, t] - mean) / (t + 1)
            outs.append(mean)
        return torch.stack(outs, 1)


@network()
class RunningMean(Linears):
    def __init__(self):
        super().__init__(w=(3, 4))

    def forward(self, x):
        mean = torch.zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            mean = mean + (self.w(x[:, t]) - mean) / (t + 1)
            outs.append(mean)
        return torch.stack(outs, 1)


@network({**X, "m": ("N", "L", 1)})
class Zipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x, m):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for x_t, m_t in zip(x.unbind(1), m.unbind(1), strict=True):
            kept = torch.sigmoid(m_t)
            h = (1 - kept) * self.cell(x_t, h) + kept * h
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class Enumerated(Linears):
    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        out = x.new_zeros(x.size(0), x.size(1), 4)
        for t, x_t in enumerate(torch.unbind(x, dim=1)):
            h = torch.relu(self.w(x_t) + self.u(h))
            out[:, t, :] = h
        return out


@network({"x": ("L", "N", 3)})
class Iterated(Linears):
    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(1), 4)
        outs = []
        for x_t in x:
            h = torch.tanh(self.w(x_t) + self.u(h))
            outs.append(h)
        return torch.stack(outs)


@network(node="LSTM")
class SplitInOnes(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        state = None
        outs = []
        for x_t in x.split(1, dim=1):
            y, state = self.lstm(x_t, state)
            outs.append(torch.relu(y))
        return torch.cat(outs, dim=1)


@network()
class Chunked(Linears):
    def __init__(self):
        super().__init__(w=(7, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for chunk in x.chunk(x.size(1), dim=1):
            h = torch.tanh(self.w(torch.cat([chunk.squeeze(1), h], -1)))
            outs.append(h)
        return torch.stack(outs, 1)


@network(streams=False)
class ExponentialMean(Linears):
    def __init__(self):
        super().__init__(out=(3, 2))

    def forward(self, x):
        means = [x[:, 0]]
        for t in range(1, x.size(1)):
            means.append(0.9 * means[-1] + 0.1 * x[:, t])
        return self.out(torch.stack(means, 1))


@network(streams=False)
class Differences(Linears):
    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1) - 1):
            h = torch.tanh(self.w(x[:, t + 1] - x[:, t]) + self.u(h))
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class DictOfStates(Linears):
    def __init__(self):
        super().__init__(w=(3, 8), u=(4, 8))

    def forward(self, x):
        state = {"h": x.new_zeros(x.size(0), 4), "c": x.new_zeros(x.size(0), 4)}
        outs = []
        for t in range(x.size(1)):
            f, g = (self.w(x[:, t]) + self.u(state["h"])).chunk(2, -1)
            c = torch.sigmoid(f) * state["c"] + torch.tanh(g)
            state = {"h": torch.tanh(c), "c": c}
            outs.append(state["h"])
        return torch.stack(outs, 1)


@network(node="GRU")
class Helped(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        return torch.stack(scan(self.cell, x, x.new_zeros(x.size(0), 4)), 1)


@network()
class LiquidTimeConstant(Linears):
    def __init__(self):
        super().__init__(w=(7, 4))
        self.tau = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        v = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            for _ in range(6):
                f = torch.sigmoid(self.w(torch.cat([x[:, t], v], -1)))
                v = (v + 0.1 * f) / (1 + 0.1 * (1 / self.tau + f))
            outs.append(v)
        return torch.stack(outs, 1)


@network(streams=False)
class OtherFirstStep(Linears):
    def __init__(self):
        super().__init__(first=(3, 4), w=(3, 4), u=(4, 4))

    def forward(self, x):
        outs = []
        for t in range(x.size(1)):
            z = self.first(x[:, t]) if t == 0 else self.w(x[:, t]) + self.u(outs[-1])
            h = torch.tanh(z)
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class PreviousInput(Linears):
    def __init__(self):
        super().__init__(w=(6, 4), u=(4, 4))

    def forward(self, x):
        previous = torch.zeros_like(x[:, 0])
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1)):
            z = torch.cat([x[:, t], x[:, t] - previous], -1)
            h = torch.tanh(self.w(z) + self.u(h))
            previous = x[:, t]
        return h


@network(streams=False)
class Filter(nn.Module):
    def forward(self, x):
        y = torch.zeros_like(x)
        y[:, 0] = x[:, 0]
        for t in range(1, x.shape[1]):
            y[:, t] = 0.3 * x[:, t] + 0.7 * y[:, t - 1]
        return y


@network()
class MinimalGatedUnit(Linears):
    def __init__(self):
        super().__init__(f=(7, 4), g=(7, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            f = torch.sigmoid(self.f(torch.cat([x[:, t], h], 1)))
            g = torch.tanh(self.g(torch.cat([x[:, t], f * h], 1)))
            h = (1 - f) * h + f * g
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class ConvGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.Conv1d(5, 4, 3, padding=1)
        self.new = nn.Conv1d(5, 2, 3, padding=1)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 2, 3)
        outs = []
        for t in range(x.size(1)):
            x_t = x[:, t].reshape(-1, 1, 3).expand(-1, 3, -1)
            z, r = torch.sigmoid(self.gates(torch.cat([x_t, h], 1))).chunk(2, 1)
            n = torch.tanh(self.new(torch.cat([x_t, r * h], 1)))
            h = (1 - z) * n + z * h
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class LegendreMemory(Linears):
    def __init__(self):
        super().__init__(e=(3, 1), w=(3, 4), u=(4, 4), m=(5, 4))
        self.register_buffer("a", torch.eye(5) * 0.9 + 0.02 * torch.randn(5, 5))
        self.register_buffer("b", torch.rand(5, 1))

    def forward(self, x):
        h = torch.zeros(x.size(0), 4)
        m = torch.zeros(x.size(0), 5)
        outs = []
        for t in range(x.size(1)):
            m = m @ self.a.T + self.e(x[:, t]) @ self.b.T
            h = torch.tanh(self.w(x[:, t]) + self.u(h) + self.m(m))
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class StabilizedLSTM(Linears):
    def __init__(self):
        super().__init__(w=(3, 16), r=(4, 16))

    def forward(self, x):
        rows = x.size(0)
        h, c, n, m = (torch.zeros(rows, 4) for _ in range(4))
        outs = []
        for t in range(x.size(1)):
            i, f, z, o = (self.w(x[:, t]) + self.r(h)).chunk(4, -1)
            log_f = F.logsigmoid(f)
            new = torch.maximum(log_f + m, i)
            i = torch.exp(i - new)
            f = torch.exp(log_f + m - new)
            m = new
            c = f * c + i * torch.tanh(z)
            n = f * n + i
            h = torch.sigmoid(o) * c / n.clamp(min=1e-3)
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class WeightedKeyValue(Linears):
    def __init__(self):
        super().__init__(k=(3, 4), v=(3, 4), r=(3, 4))
        self.w = nn.Parameter(torch.rand(4))
        self.u = nn.Parameter(torch.rand(4))

    def forward(self, x):
        k = self.k(x)
        v = self.v(x)
        a = torch.zeros(x.size(0), 4)
        b = torch.zeros(x.size(0), 4)
        p = torch.full((x.size(0), 4), -30.0)
        outs = []
        for t in range(x.size(1)):
            q = torch.maximum(p, self.u + k[:, t])
            old = torch.exp(p - q)
            new = torch.exp(self.u + k[:, t] - q)
            outs.append((old * a + new * v[:, t]) / (old * b + new))
            q = torch.maximum(p - self.w, k[:, t])
            old = torch.exp(p - self.w - q)
            new = torch.exp(k[:, t] - q)
            a = old * a + new * v[:, t]
            b = old * b + new
            p = q
        return torch.sigmoid(self.r(x)) * torch.stack(outs, dim=1)


@network({**X, "mask": ("N", "L", 3), "delta": ("N", "L", 3)})
class DecayingGRU(Linears):
    def __init__(self):
        super().__init__(gamma_x=(3, 3), gamma_h=(3, 4), z=(10, 4), n=(10, 4))
        self.register_buffer("mean", torch.randn(3))

    def forward(self, x, mask, delta):
        h = torch.zeros(x.size(0), 4)
        last = torch.zeros(x.size(0), 3)
        outs = []
        for t in range(x.size(1)):
            d = delta[:, t]
            decay = torch.exp(-torch.relu(self.gamma_x(d)))
            last = torch.where(mask[:, t] > 0, x[:, t], last)
            filled = decay * last + (1 - decay) * self.mean
            h = h * torch.exp(-torch.relu(self.gamma_h(d)))
            z = torch.sigmoid(self.z(torch.cat([filled, h, mask[:, t]], 1)))
            n = torch.tanh(self.n(torch.cat([filled, z * h, mask[:, t]], 1)))
            h = (1 - z) * h + z * n
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class Zoneout(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(3, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        c = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            new_h, new_c = self.cell(x[:, t], (h, c))
            h = 0.1 * h + 0.9 * new_h
            c = 0.2 * c + 0.8 * new_c
            outs.append((h, c))
        hs, cs = zip(*outs, strict=True)
        return torch.stack(hs, 1), torch.stack(cs, 1)


@network()
class Feedback(Linears):
    def __init__(self):
        super().__init__(out=(4, 2))
        self.cell = nn.GRUCell(5, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        y = x.new_zeros(x.size(0), 2)
        outs = []
        for t in range(x.size(1)):
            h = self.cell(torch.cat([x[:, t], y], 1), h)
            y = self.out(h)
            outs.append(y)
        return torch.stack(outs, 1)


@network(streams=False)
class Encoded(Linears):
    def __init__(self):
        super().__init__(start=(3, 4), w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = torch.tanh(self.start(x.mean(1)))
        outs = []
        for t in range(x.size(1)):
            h = torch.tanh(self.w(x[:, t]) + self.u(h))
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class ListOfTheLoopBefore(Linears):
    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4), v=(4, 4))

    def forward(self, x):
        encoded = [torch.relu(self.w(x[:, t])) for t in range(x.size(1))]
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(len(encoded)):
            h = torch.tanh(self.v(encoded[t]) + self.u(h))
            outs.append(h)
        return torch.stack(outs, 1)


@network()
class Refractory(Linears):
    def __init__(self):
        super().__init__(w=(3, 4))

    def forward(self, x):
        v = torch.zeros(x.size(0), 4)
        resting = torch.zeros(x.size(0), 4, dtype=torch.bool)
        spikes = []
        for t in range(x.size(1)):
            v = torch.where(resting, torch.zeros_like(v), 0.9 * v + self.w(x[:, t]))
            resting = v > 0.5
            spikes.append(resting.to(x.dtype))
        return torch.stack(spikes, 1)


@network()
class CausalConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding=2)
        self.u = nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2))[:, :, : x.size(1)].transpose(1, 2)
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = torch.tanh(y[:, t] + self.u(h))
            outs.append(h)
        return torch.stack(outs, 1)


@network(node="GRU")
class LayerByLayer(nn.Module):
    """Layers one behind the other, each over the list of the layer before."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])

    def forward(self, x):
        inputs = x.unbind(1)
        h = x.new_zeros(x.size(0), 4)
        for cell in self.cells:
            h = torch.zeros_like(h)
            outs = []
            for t in range(len(inputs)):
                h = cell(inputs[t], h)
                outs.append(h)
            inputs = outs
        return torch.stack(inputs, 1)


@network(node="GRU")
class ListThatGrows(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        states = [x.new_zeros(x.size(0), 4)]
        for t in range(x.size(1)):
            states.append(self.cell(x[:, t], states[t]))
        return torch.stack(states[1:], 1)
