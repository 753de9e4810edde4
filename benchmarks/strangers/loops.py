"""Modules of public packages that loop over time, and loops around cells of packages.

python -m venv loops && loops/bin/pip install -e ".[cpu,export]"
loops/bin/pip install --no-deps -r benchmarks/strangers/loops.txt
loops/bin/python -m benchmarks.strangers.exporters loops --json loops.json
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Looped(nn.Module):
    """A loop over the steps of ``x (N, L, I)`` around a cell that returns its output
    and its states.
    """

    def __init__(self, cell: nn.Module, widths: tuple[int, ...], inside: int = 0):
        super().__init__()
        self.inside = nn.Linear(3, inside) if inside else nn.Identity()
        self.cell = cell
        self.widths = widths

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all steps."""
        states = [x.new_zeros(x.size(0), width) for width in self.widths]
        outputs = []
        for t in range(x.size(1)):
            y, *states = self.cell(self.inside(x[:, t]), *states)
            outputs.append(y)
        return torch.stack(outputs, 1)


class StateOnly(nn.Module):
    """A cell that returns its next state only, as the output, too."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state twice."""
        h = self.cell(x, h)
        return h, h


def calls(
    call: Callable[..., Any], build: Callable[..., Any], frames: Callable[[int], Any]
) -> Iterator[Any]:
    """Yield the calls of this group, made by the functions of ``calls.py``."""
    time_first = lambda n, length: (torch.randn(4 * length, n, 3),)  # noqa: E731
    steps = frames(3)
    ours = "benchmarks.strangers.loops."

    def looped(package: str, name: str, cell: Any, *arguments: Any) -> Any:
        return call(package, name, f"{ours}Looped", steps, cell, *arguments)

    wiring = build("ncps.wirings.AutoNCP", 12, 4)
    yield call("ncps", "CfC", "ncps.torch.CfC", steps, 3, 8)
    yield call("ncps", "CfC pure", "ncps.torch.CfC", steps, 3, 8, mode="pure")
    yield call("ncps", "CfC no gate", "ncps.torch.CfC", steps, 3, 8, mode="no_gate")
    yield call("ncps", "CfC memory", "ncps.torch.CfC", steps, 3, 8, mixed_memory=True)
    yield call("ncps", "CfC wired", "ncps.torch.CfC", steps, 3, wiring)
    yield call(
        "ncps", "CfC last", "ncps.torch.CfC", steps, 3, 8, return_sequences=False
    )
    yield call("ncps", "LTC", "ncps.torch.LTC", steps, 3, 8)
    yield call("ncps", "LTC wired", "ncps.torch.LTC", steps, 3, wiring)
    yield call("ncps", "LTC memory", "ncps.torch.LTC", steps, 3, 8, mixed_memory=True)
    decay = {"beta": 0.9}
    synapse = {"alpha": 0.8, "beta": 0.9}
    snn = "snntorch."
    yield looped("snntorch", "Leaky", build(f"{snn}Leaky", **decay), (4,), 4)
    yield looped(
        "snntorch",
        "Leaky zero",
        build(f"{snn}Leaky", reset_mechanism="zero", **decay),
        (4,),
        4,
    )
    yield looped("snntorch", "Lapicque", build(f"{snn}Lapicque", **decay), (4,), 4)
    yield looped("snntorch", "Synaptic", build(f"{snn}Synaptic", **synapse), (4, 4), 4)
    alpha = {"alpha": 0.9, "beta": 0.8}
    yield looped("snntorch", "Alpha", build(f"{snn}Alpha", **alpha), (4, 4, 4), 4)
    yield looped(
        "snntorch",
        "RLeaky",
        build(f"{snn}RLeaky", all_to_all=False, V=0.5, **decay),
        (4, 4),
        4,
    )
    yield looped("snntorch", "SLSTM", build(f"{snn}SLSTM", 3, 4), (4, 4))
    mamba = build("mambapy.mamba.MambaConfig", 3, 1, pscan=False)
    yield call("mambapy", "MambaBlock", "mambapy.mamba.MambaBlock", steps, mamba)
    yield call("mambapy", "Mamba", "mambapy.mamba.Mamba", steps, mamba)
    yield call(
        "cerebral-lstm", "CerebralLSTM", "cerebral_lstm.CerebralLSTM", time_first, 3, 4
    )
    yield call(
        "cerebral-lstm", "two layers", "cerebral_lstm.CerebralLSTM", time_first, 3, 4, 2
    )
    yield call("sru", "SRU", "sru.SRU", time_first, 3, 4, 1)
    yield call("minGRU-pytorch", "minGRU", "minGRU_pytorch.minGRU", steps, 3)
    yield call("torchrl", "LSTM", "torchrl.modules.LSTM", steps, 3, 4)
    yield call("torchrl", "GRU", "torchrl.modules.GRU", steps, 3, 4)
    yield looped(
        "torchrl",
        "GRUCell",
        build(f"{ours}StateOnly", build("torchrl.modules.GRUCell", 3, 4)),
        (4,),
    )
    speech = "speechbrain.nnet.RNN."
    shape = (2, 6, 3)
    yield call("speechbrain", "LiGRU", f"{speech}LiGRU", steps, 4, shape)
    yield call(
        "speechbrain", "LiGRU layer norm", f"{speech}LiGRU", steps, 4, shape,
        normalization="layernorm",
    )  # fmt: skip
    yield call("speechbrain", "SLiGRU", f"{speech}SLiGRU", steps, 4, shape)
    yield call("speechbrain", "QuasiRNN", f"{speech}QuasiRNN", steps, 4, shape)
    node = "spikingjelly.activation_based."
    yield call(
        "spikingjelly", "SpikingLSTM", f"{node}rnn.SpikingLSTM", time_first, 3, 4, 1
    )
    yield call(
        "spikingjelly", "SpikingGRU", f"{node}rnn.SpikingGRU", time_first, 3, 4, 1
    )
    yield call(
        "spikingjelly", "SpikingVanillaRNN", f"{node}rnn.SpikingVanillaRNN",
        time_first, 3, 4, 1,
    )  # fmt: skip
    yield call(
        "spikingjelly", "LIFNode", f"{node}neuron.LIFNode", time_first, step_mode="m",
        backend="torch",
    )  # fmt: skip
