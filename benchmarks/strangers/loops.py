"""Modules of public packages that loop over time, and loops around cells of packages.

python -m venv loops
loops/bin/pip install ./native -e "./runtime[cpu]" -e ".[export]"
loops/bin/pip install --no-deps -r benchmarks/strangers/loops.txt
rm loops/lib/python3*/site-packages/torchaudio/lib/*.so  # built for CUDA, not needed
loops/bin/python -m benchmarks.strangers.exporters loops --json loops.json
"""

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
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


class Restarted(nn.Module):
    """A module that keeps its states, reset before each sequence."""

    def __init__(self, module: nn.Module, reset: str):
        super().__init__()
        self.module = module
        self.reset = reset

    def forward(self, x: Tensor) -> Any:
        """Return the output of a sequence."""
        getattr(self.module, self.reset)()
        return self.module(x)


class OwnStates(nn.Module):
    """A module that takes lengths and a list of states, which start from zeros."""

    def __init__(self, module: nn.Module, widths: tuple[int, ...]):
        super().__init__()
        self.module = module
        self.widths = widths

    def forward(self, x: Tensor) -> Any:
        """Return the output of a sequence."""
        states = [x.new_zeros(x.size(1), width) for width in self.widths]
        return self.module(x, states)


class MassConserving(nn.Module):
    """The MC-LSTM of neuralhydrology, on mass and three other inputs."""

    def __init__(self) -> None:
        super().__init__()
        kind = importlib.import_module("neuralhydrology.modelzoo.mclstm")
        config = SimpleNamespace(initial_forget_bias=None)
        self.cell = kind._MCLSTMCell(1, 3, 5, config)

    def forward(self, x: Tensor) -> Any:
        """Return outgoing mass and the cells of all steps."""
        x = x.transpose(0, 1)
        return self.cell(x[:, :, :1].abs(), x[:, :, 1:])


class Hydrological(nn.Module):
    """The conceptual model of neuralhydrology, on signals and parameters."""

    def __init__(self) -> None:
        super().__init__()
        kind = importlib.import_module("neuralhydrology.modelzoo.shm").SHM
        self.model = kind(
            SimpleNamespace(
                target_variables=["q"],
                dynamic_conceptual_inputs=["p"],
                custom_normalization=["p", "q"],
            )
        )

    def forward(self, x: Tensor) -> Any:
        """Return the discharge."""
        return self.model(x_conceptual=x[..., :4], lstm_out=x[..., 4:])["y_hat"]


class Imputing(nn.Module):
    """A backbone of pypots, whose number of steps is an attribute, on any number."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Any:
        """Return the results for observed positive values."""
        self.backbone.n_steps = x.size(1)
        observed = (x > 0).to(x.dtype)
        since = torch.ones_like(x)
        if hasattr(self.backbone, "hist_reg"):
            given = {"X": x, "missing_mask": observed, "deltas": since}
            return self.backbone({"forward": given}, "forward")
        return self.backbone(x, observed, since, x.new_zeros(3), x)


def calls(
    call: Callable[..., Any], build: Callable[..., Any], frames: Callable[[int], Any]
) -> Iterator[Any]:
    """Yield the calls of this group, made by the functions of ``calls.py``."""
    time_first = lambda n, length: (torch.randn(4 * length, n, 3),)  # noqa: E731
    steps = frames(3)
    steps4 = frames(4)
    ours = "benchmarks.strangers.loops."

    def looped(package: str, name: str, cell: Any, *arguments: Any) -> Any:
        return call(package, name, f"{ours}Looped", steps, cell, *arguments)

    def restarted(package: str, name: str, inputs: Any, module: Any, reset: str) -> Any:
        return call(package, name, f"{ours}Restarted", inputs, module, reset)

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
    yield looped("snntorch", "SLSTM", build(f"{snn}SLSTM", 4, 4), (4, 4), 4)
    yield looped(
        "snntorch", "SLSTM of another width", build(f"{snn}SLSTM", 3, 4), (4, 4)
    )
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
    shape = (8, 6, 3)
    yield call("speechbrain", "LiGRU", f"{speech}LiGRU", steps, 4, shape)
    yield call(
        "speechbrain", "LiGRU layer norm", f"{speech}LiGRU", steps, 4, shape,
        normalization="layernorm",
    )  # fmt: skip
    yield call("speechbrain", "SLiGRU", f"{speech}SLiGRU", steps, 4, shape)
    yield call("speechbrain", "QuasiRNN", f"{speech}QuasiRNN", steps, 4, shape)
    real = f"{speech.replace('RNN', 'quaternion_networks.q_RNN')}"
    yield call("speechbrain", "QLSTM", f"{real}QLSTM", steps4, 4, (8, 6, 4))
    yield call(
        "speechbrain", "CLSTM",
        f"{speech.replace('RNN', 'complex_networks.c_RNN')}CLSTM",
        steps4, 4, (8, 6, 4),
    )  # fmt: skip
    spiking = "spikingjelly.activation_based."
    for name in ("LSTM", "GRU", "VanillaRNN"):
        yield call(
            "spikingjelly", f"Spiking{name}", f"{spiking}rnn.Spiking{name}",
            time_first, 3, 4, 1,
        )  # fmt: skip
    for name in ("IF", "LIF", "ParametricLIF", "QIF", "EIF"):
        neuron = build(f"{spiking}neuron.{name}Node", step_mode="m")
        yield restarted("spikingjelly", f"{name}Node", time_first, neuron, "reset")
    yield call("ur-lstm-torch", "URLSTM", "ur_lstm.URLSTM", time_first, 3, 4)
    yield call(
        "ur-lstm-torch", "batch first", "ur_lstm.URLSTM", steps, 3, 4, 2,
        batch_first=True,
    )  # fmt: skip
    for name in ("LSTM", "FocusedLSTM", "LightweightLSTM"):
        yield call("lstm-variants", name, f"lstm_variants.{name}", steps, 3, 4)
    yield call("norse", "LIF", "norse.torch.LIF", time_first)
    yield call("norse", "LIFRecurrent", "norse.torch.LIFRecurrent", time_first, 3, 4)
    yield call("norse", "LI", "norse.torch.LI", time_first)
    yield call("norse", "LSNN", "norse.torch.LSNNRecurrent", time_first, 3, 4)
    rnnt = build("torchaudio.models.rnnt._CustomLSTM", 3, 4, True)
    yield call(
        "torchaudio", "LSTM of RNN-T", f"{ours}OwnStates", time_first, rnnt, (4, 4)
    )
    for name in ("LIF", "ExpLeak"):
        layer = build(f"sinabs.layers.{name}", tau_mem=10.0)
        yield restarted("sinabs", name, steps, layer, "reset_states")
    for name in ("ExpSyn", "LIF", "Rate"):
        layer = build(f"rockpool.nn.modules.{name}Torch", 3)
        yield restarted("rockpool", name, steps, layer, "reset_state")
    slstm = build(
        "xlstm.sLSTMLayerConfig", embedding_dim=4, num_heads=2, backend="vanilla"
    )
    yield call("xlstm", "sLSTM", "xlstm.sLSTMLayer", steps4, slstm)
    mlstm = build(
        "xlstm.mLSTMLayerConfig", embedding_dim=4, num_heads=2, context_length=64
    )
    yield call("xlstm", "mLSTM", "xlstm.mLSTMLayer", steps4, mlstm)
    yield from _series(call, build, frames)


def _series(
    call: Callable[..., Any], build: Callable[..., Any], frames: Callable[[int], Any]
) -> Iterator[Any]:
    """Yield the calls of packages for series, graphs and rivers."""
    time_first = lambda n, length: (torch.randn(4 * length, n, 3),)  # noqa: E731
    ours = "benchmarks.strangers.loops."
    forecasting = "pytorch_forecasting.layers._recurrent."
    # with layer norm, what mLSTM gives is 0 up to rounding
    without = {"layer": {"layer_norm": False}, "network": {"use_layer_norm": False}}
    for name, widths in (("layer", (3, 4, 2)), ("network", (3, 4, 2, 2))):
        for kind, options in (("sLSTM", {}), ("mLSTM", without[name])):
            title = f"{kind}{name.capitalize()}"
            path = f"{forecasting}_{kind.lower()}.{name}.{title}"
            yield call(
                "pytorch-forecasting", title, path, time_first, *widths, **options
            )
    imputing = "pypots.nn.modules."
    for path in ("grud.BackboneGRUD", "brits.BackboneRITS"):
        backbone = build(f"{imputing}{path}", 12, 3, 4)
        name = path.partition(".")[2]
        yield call("pypots", name, f"{ours}Imputing", frames(3), backbone)
    yield call("neuralhydrology", "MCLSTM", f"{ours}MassConserving", frames(4))
    yield call("neuralhydrology", "SHM", f"{ours}Hydrological", frames(12))
