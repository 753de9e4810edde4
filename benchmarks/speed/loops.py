"""Loops over time: a step and a chunk, next to PyTorch and TorchScript.

    taskset -c 1 python -m benchmarks.speed.loops [--repeats N] [--only NAME ...]

PyTorch and TorchScript run ``forward`` on one step, or on the chunk. ``TorchScript,
.onnx`` is the file that torch.onnx writes of the scripted module, in onnxruntime; "-"
where it writes none, or one that differs. ``.onnx`` and ``.lep`` are streams of ours.
Everything is timed alternately in one process, in processor time: medians in
microseconds of a step. Run it on a quiet machine; it takes a minute.
"""

import contextlib
import io
import statistics
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.common import (
    Call,
    Times,
    apart,
    interleave,
    parser,
    print_machine,
    quiet,
    repeat,
    table,
)
from lstm_edge_exporters import export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load

CHUNK = 256
PYTORCH = "PyTorch"
SCRIPT = "TorchScript"
SCRIPT_FILE = "TorchScript, `.onnx`"
ONNXRUNTIME = "`.onnx`"
NATIVE = "`.lep`"
COLUMNS = (PYTORCH, SCRIPT, SCRIPT_FILE, ONNXRUNTIME, NATIVE)
PLAIN = "LSTM of 32"
NORMALIZED = "LSTM of 32 with layer norm"


class PlainLSTM(nn.Module):
    """The layer that all loops are compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        return self.lstm(x)[0]


class LayerNormLSTM(nn.Module):
    """An LSTM with layer norm of the gates and of the cell state."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Linear(8, 128)
        self.h = nn.Linear(32, 128, bias=False)
        self.norm = nn.LayerNorm(128)
        self.cell_norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 32)
        c = torch.zeros(x.size(0), 32)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            i, f, g, o = self.norm(self.x(x[:, t]) + self.h(h)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.cell_norm(c))
            outs.append(h)
        return torch.stack(outs, 1)


class LSTMCellLoop(nn.Module):
    """A loop around ``nn.LSTMCell``."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 64)
        c = torch.zeros(x.size(0), 64)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            outs.append(h)
        return torch.stack(outs, 1)


class GRUCellLoop(nn.Module):
    """A loop around ``nn.GRUCell``."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 64)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            outs.append(h)
        return torch.stack(outs, 1)


class PeepholeLSTM(nn.Module):
    """An LSTM whose gates see the cell state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(8 + 32, 128)
        self.p = nn.Parameter(torch.randn(3, 32) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 32)
        c = torch.zeros(x.size(0), 32)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            i, f, g, o = self.w(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            i = torch.sigmoid(i + self.p[0] * c)
            f = torch.sigmoid(f + self.p[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.p[2] * c) * torch.tanh(c)
            outs.append(h)
        return torch.stack(outs, 1)


class ClosedFormContinuous(nn.Module):
    """CfC: a network of one hidden layer with four heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8 + 32, 64)
        self.heads = nn.Linear(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 32)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            z = 1.7159 * torch.tanh(0.666 * self.backbone(torch.cat([x[:, t], h], 1)))
            a, b, g, k = self.heads(z).chunk(4, 1)
            gate = torch.sigmoid(g + k)
            h = torch.tanh(a) * (1.0 - gate) + gate * torch.tanh(b)
            outs.append(h)
        return torch.stack(outs, 1)


class LeakyIntegrateAndFire(nn.Module):
    """Two layers of spiking neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 64)
        self.b = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return the potentials of the second layer."""
        mem1 = torch.zeros(x.size(0), 64)
        mem2 = torch.zeros(x.size(0), 8)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            mem1 = 0.9 * mem1 + self.a(x[:, t])
            spike = (mem1 > 1.0).to(x.dtype)
            mem1 = mem1 - spike
            mem2 = 0.8 * mem2 + self.b(spike)
            outs.append(mem2)
        return torch.stack(outs, 1)


class LegendreMemory(nn.Module):
    """LMU: a memory of 32 Legendre polynomials and a hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.u = nn.Linear(8 + 32, 1)
        self.w = nn.Linear(8 + 32 + 32, 32)
        q = torch.arange(32, dtype=torch.float64)
        i, j = torch.meshgrid(q, q, indexing="ij")
        sign = torch.where(i < j, -1.0, (-1.0) ** (i - j + 1))
        a = (2 * i + 1) * sign / 256
        b = (2 * q + 1) * (-1.0) ** q / 256
        step = torch.linalg.matrix_exp(a)
        held = torch.linalg.solve(a, (step - torch.eye(32)) @ b)
        self.register_buffer("a", step.T.float().contiguous())
        self.register_buffer("b", held.float())

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 32)
        m = torch.zeros(x.size(0), 32)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            u = self.u(torch.cat([x[:, t], h], 1))
            m = torch.matmul(m, self.a) + u * self.b
            h = torch.tanh(self.w(torch.cat([x[:, t], h, m], 1)))
            outs.append(h)
        return torch.stack(outs, 1)


class SelectiveStateSpace(nn.Module):
    """The recurrence of Mamba: 16 channels with 8 states each."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Linear(8, 16)
        self.dt = nn.Linear(16, 16)
        self.bc = nn.Linear(16, 16)
        self.a = nn.Parameter(-torch.rand(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels."""
        u = torch.nn.functional.silu(self.x(x))
        dt = torch.nn.functional.softplus(self.dt(u))
        b, c = self.bc(u).chunk(2, -1)
        decay = torch.exp(dt.unsqueeze(-1) * self.a)
        added = (dt * u).unsqueeze(-1) * b.unsqueeze(2)
        h = torch.zeros(x.size(0), 16, 8)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            h = decay[:, t] * h + added[:, t]
            outs.append((h * c[:, t].unsqueeze(1)).sum(-1))
        return torch.stack(outs, 1)


class ConvLSTM(nn.Module):
    """A convolutional LSTM of 4 channels over maps of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1 + 4, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        h = torch.zeros(x.size(0), 4, 8, 8)
        c = torch.zeros(x.size(0), 4, 8, 8)
        outs: list[Tensor] = []
        for t in range(x.size(1)):
            i, f, g, o = self.conv(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outs.append(h)
        return torch.stack(outs, 1)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    PLAIN: PlainLSTM,
    NORMALIZED: LayerNormLSTM,
    "`nn.LSTMCell` of 64": LSTMCellLoop,
    "`nn.GRUCell` of 64": GRUCellLoop,
    "LSTM of 32 with peepholes": PeepholeLSTM,
    "CfC of 32": ClosedFormContinuous,
    "spiking, 64 and 8 neurons": LeakyIntegrateAndFire,
    "LMU of 32 and 32": LegendreMemory,
    "Mamba's recurrence, 16 x 8": SelectiveStateSpace,
    "ConvLSTM, 4 maps of 8 x 8": ConvLSTM,
}


def scripted_file(
    script: torch.jit.ScriptModule, x: Tensor
) -> Callable[[Tensor], Call] | None:
    """Return what runs the file that torch.onnx makes of a script; None if there is
    none that computes ``script`` at another length.
    """
    buffer = io.BytesIO()
    try:
        with contextlib.redirect_stdout(None):  # it prints the graph where it fails
            torch.onnx.export(
                script,
                (x[:, :4],),
                buffer,
                dynamo=False,
                input_names=["x"],
                dynamic_axes={"x": {1: "L"}},
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(buffer.getvalue(), options)
        got = session.run(None, {"x": x.numpy()})[0]
    except Exception:  # noqa: BLE001  neither has one class for its errors
        return None
    if apart(got, script(x).numpy()) > 1e-4:
        return None
    return lambda part: repeat(session.run, None, {"x": part.numpy()})


def measure(
    kind: Callable[[], nn.Module], folder: Path, repeats: int
) -> dict[str, Times]:
    """Time a step and a chunk of each contestant."""
    torch.manual_seed(0)
    module = kind().eval()
    shape = (1, CHUNK, 1, 8, 8) if kind is ConvLSTM else (1, CHUNK, 8)
    x = torch.randn(shape)
    path = folder / "loop.onnx"
    export(module, x[:, :6]).save(path)
    program = path.with_suffix(".lep")
    program.write_bytes(to_native(path))
    models = {ONNXRUNTIME: load(path), NATIVE: load(program)}
    script = torch.jit.script(module)
    runs: dict[str, Callable[[Tensor], Call]] = {
        PYTORCH: lambda part: repeat(module, part),
        SCRIPT: lambda part: repeat(script, part),
    }
    if (run := scripted_file(script, x)) is not None:
        runs[SCRIPT_FILE] = run
    expected = module(x).numpy()[0]
    for model in models.values():
        assert apart(model.stream().process(x[0].numpy()), expected) < 1e-4
    samples = x[0].numpy()
    step = {name: run(x[:, :1]) for name, run in runs.items()}
    step |= {name: repeat(m.stream().step, samples[0]) for name, m in models.items()}
    chunk = {name: run(x) for name, run in runs.items()}
    chunk |= {name: repeat(m.stream().process, samples) for name, m in models.items()}
    return {
        "a step": interleave(step, 100, repeats),
        f"a step of a chunk of {CHUNK}": interleave(chunk, 1, repeats),
    }


def main() -> None:
    """Print two tables, and the ratio that the manual has."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=15)
    arguments.add_argument("--only", nargs="*", choices=NETWORKS, default=[*NETWORKS])
    options = arguments.parse_args()
    quiet()
    rows: dict[str, list[list[str]]] = {}
    native: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in options.only:
            for what, times in measure(
                NETWORKS[name], Path(folder), options.repeats
            ).items():
                steps = 1 if what == "a step" else CHUNK
                medians = {
                    column: statistics.median(seconds) / steps * 1e6
                    for column, seconds in times.items()
                }
                cells = [
                    f"{medians[column]:.3g}" if column in medians else "-"
                    for column in COLUMNS
                ]
                rows.setdefault(what, []).append([name, *cells])
                if what == "a step":
                    native[name] = medians[NATIVE]
    for what, lines in rows.items():
        print(table([f"us, {what}", *COLUMNS], lines), end="\n\n")
    if PLAIN in native and NORMALIZED in native:
        ratio = native[NORMALIZED] / native[PLAIN]
        print(f"{NORMALIZED}: {ratio:.2f} times the step of {PLAIN}, from `.lep`")
    print_machine("torch", "onnxruntime", "lstm-edge-native")


if __name__ == "__main__":
    main()
