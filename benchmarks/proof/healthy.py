"""Is a healthy network ever refused? Export, validate and run random ones; there must
be no alarm.

    python -m benchmarks.proof.healthy --count 100 --python OLD/bin/python    # needs
    lstm-edge[export]

A form says what is particular about a network; everything else (kind of layer, widths,
layers, directions, how states are passed) is drawn, from a seed that is new each run
and printed. Each network is exported, which verifies it, and validated with
``--quick``. Its golden cases and cases of other sizes then run on onnxruntime of this
interpreter, on those of each ``--python``, and on the C library, and are compared by
the same limits. Exit status 1: a refusal or an alarm.
"""

import contextlib
import itertools
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import parser, print_machine, quiet, run, table
from benchmarks.networks import Fn, Layers, over_time
from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.targets.native.convert import native_runner
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import Expected, against_module
from lstm_edge_exporters.verify.cases import full_length
from lstm_edge_exporters.verify.compare import Pair, compare_all
from lstm_edge_exporters.verify.file import ModelFile, open_file
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_runtime.errors import (
    LstmEdgeError,
    MissingDependencyError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.selftest import selftest

ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda y: torch.softmax(y, -1),
    "log-softmax": lambda y: torch.log_softmax(y, -1),
    "exp": torch.exp,
    "relu": torch.relu,
}


@dataclass(frozen=True)
class Network:
    """A module and its arguments of ``export`` and ``validate``."""

    module: nn.Module
    example: Any
    about: str


def _batch_norm(inputs: int) -> nn.Module:
    norm = nn.BatchNorm1d(inputs)
    norm.running_mean.normal_(0, 30)
    norm.running_var.uniform_(0.1, 9)
    return over_time(norm)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "RMS norm": nn.RMSNorm,
    "batch norm": _batch_norm,
    "instance norm": lambda inputs: over_time(nn.InstanceNorm1d(inputs, affine=True)),
    "group norm": lambda inputs: over_time(
        nn.GroupNorm(2 if inputs % 2 == 0 else 1, inputs)
    ),
    "standardized": lambda inputs: Fn(
        lambda x, mean: (x - mean) / 30, mean=300 * torch.randn(inputs)
    ),
}
"""Modules in front of a recurrent layer."""


TAILS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cumulative sum": lambda y, _: torch.cumsum(y, 1),
    "cumulative mean": (
        lambda y, _: torch.cumsum(y, 1) / torch.arange(1, y.shape[1] + 1).unsqueeze(-1)
    ),
    "mask": lambda y, x: y.masked_fill(x[..., :1] < 0, 0.0),
    "attention mask": lambda y, _: y * torch.softmax(y.masked_fill(y < -1, -1e9), -1),
    "squeeze": lambda y, _: y.squeeze(-1),
    "range": lambda y, x: y if x.shape[1] > 3 else y * 2,
}
"""Functions of the head's output; ``x`` is the input."""


class Recurrent(Layers):
    """Stacked recurrent layers, a linear head at every step, a function at the end."""

    def __init__(
        self, layer: nn.RNNBase, outputs: int, end: str, form: str = ""
    ) -> None:
        norm = NORMS[form](layer.input_size) if form in NORMS else None
        width = (layer.proj_size or layer.hidden_size) * (
            2 if layer.bidirectional else 1
        )
        super().__init__(layer, norm, nn.Linear(width, outputs) if outputs else None)
        self.end = ENDS[end]
        self.tail = TAILS.get(form, lambda y, _: y)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Any = None
    ) -> Any:
        """Run on ``x (N, L, I)``, or ``(L, I)``, with lengths or initial states where
        those are inputs.
        """
        result = super().forward(x, lengths, state)
        y, *last = result if state is not None else (result,)
        y = self.tail(self.end(y), x)
        return (y, *last) if last else y


def draw_network(form: str, rng: np.random.Generator) -> Network:
    """Draw a network of ``form`` (see ``FORMS``)."""
    torch.manual_seed(int(rng.integers(2**31)))
    gated = ("closed gates", "open gates", "leak")
    kinds = {**{name: ["LSTM", "GRU"] for name in gated}, "small RNN": ["RNN"]}
    kind = (
        "LSTM"
        if form == "projection"
        else str(rng.choice(kinds.get(form, ["LSTM", "GRU", "RNN"])))
    )
    inputs = int(rng.integers(1, 9))
    width = int(rng.integers(1 if form != "projection" else 2, 40))
    options: dict[str, Any] = {
        "num_layers": int(rng.choice([1, 1, 2])),
        "bias": bool(rng.random() < 0.9),
    }
    options["bidirectional"] = bool(rng.random() < 0.2)
    if kind == "RNN" and rng.random() < 0.3 and form not in ("scales", "saturated"):
        options["nonlinearity"] = "relu"
    if form == "projection":
        options["proj_size"] = int(rng.integers(1, width))
    if form in gated:
        options["bias"] = True
    layer = getattr(nn, kind)(inputs, width, batch_first=True, **options)
    end = form if form in ENDS else ""
    if form == "saturated":
        end = str(rng.choice(["sigmoid", "tanh", "softmax"]))
    bare = form in ("default", "small RNN", *gated) and rng.random() < 0.5
    outputs = 0 if bare else int(rng.integers(1, 6))
    if form == "squeeze":
        outputs = 1
    states = form != "lengths" and bool(rng.random() < 0.3)
    module = Recurrent(layer, outputs, end, form).eval()
    with torch.no_grad():
        if form in _ADJUST:
            _ADJUST[form](module, rng)
    example = _example(layer, form, rng, states=states)
    return Network(
        module, example, f"{form}: {kind}({inputs}, {width}) {options} {end}"
    )


def _example(
    layer: nn.RNNBase, form: str, rng: np.random.Generator, *, states: bool
) -> tuple[Any, ...]:
    x = torch.randn(3, 7, layer.input_size) * (10.0 ** rng.uniform(-1, 1))
    if form in NORMS:
        x = x + 10.0 ** rng.uniform(-1, 3) * torch.randn(layer.input_size)
    if form == "huge inputs":
        x = 1e15 * x
    if form == "lengths":
        return x, torch.tensor([7, 2, 4])
    if not states:
        return (x,)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = layer.proj_size or layer.hidden_size, layer.hidden_size
    h_0, c_0 = (torch.zeros(rows, 3, width) for width in widths)
    return x, None, (h_0, c_0) if layer.mode == "LSTM" else h_0


Adjust = Callable[[Recurrent, np.random.Generator], object]


def _scale(low: float, high: float) -> Adjust:
    def adjust(module: Recurrent, rng: np.random.Generator) -> None:
        factor = 10.0 ** rng.uniform(low, high)
        for parameter in module.layer.parameters():
            parameter *= factor

    return adjust


def _shift_gate(module: Recurrent, rng: np.random.Generator, sign: float) -> None:
    gates = [1] if sign > 0 or module.layer.mode == "GRU" else [0, 3]
    gate = int(rng.choice(gates))
    width = module.layer.hidden_size
    module.layer.bias_ih_l0[gate * width : (gate + 1) * width] += sign * rng.uniform(
        3, 10
    )


def _leak(module: Recurrent, rng: np.random.Generator) -> None:
    """Hold a gate at a constant, so that a state is a leaky sum."""
    width = module.layer.hidden_size
    for name, parameter in module.layer.named_parameters():
        parameter[width : 2 * width] = (
            float(rng.uniform(3, 10)) if name.startswith("bias_ih") else 0.0
        )


_ADJUST: dict[str, Adjust] = {
    "scales": _scale(-3, 1),
    "small RNN": _scale(-3, -1),
    "closed gates": lambda module, rng: _shift_gate(module, rng, -1.0),
    "open gates": lambda module, rng: _shift_gate(module, rng, 1.0),
    "leak": _leak,
    "saturated": lambda module, _: module.after.weight.mul_(30.0),
    "tiny outputs": lambda module, rng: module.after.weight.mul_(
        10.0 ** rng.uniform(-9, -3)
    ),
}
FORMS = (
    "default", "lengths", "projection", "huge inputs", *_ADJUST, *(end for end in ENDS if end), *NORMS, *TAILS
)  # fmt: skip
SIZES = ((1, 1), (3, 7), (2, 60))
"""Sizes ``(N, L)`` at which engines are compared."""
Feeds = Mapping[str, Array]
_OLD = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
np.savez(sys.argv[3], **dict(zip(names, session.run(names, dict(np.load(sys.argv[2]))))))
"""


class Result(NamedTuple):
    """The checks of one network, the largest error of each engine as a fraction of its
    limit, and alarms.
    """

    checks: int
    errors: Mapping[str, float]
    alarms: Sequence[str]


def main() -> int:
    """Examine ``--count`` networks and print a table."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=100)
    options.add_argument(
        "--seed", type=int, help="of an earlier run; new each time by default"
    )
    options.add_argument("--processes", type=int, default=1)
    options.add_argument(
        "--python", nargs="*", default=[], help="interpreters with other onnxruntimes"
    )
    chosen = options.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
        results = list(
            pool.map(partial(examine, seed, chosen.python), range(chosen.count))
        )
    alarms = [alarm for result in results for alarm in result.alarms]
    print(*alarms, sep="\n")
    errors = [pair for result in results for pair in result.errors.items()]
    engines = {
        name: [error for engine, error in errors if engine == name]
        for name, _ in errors
    }
    rows = [
        [name, len(ratios), f"{max(ratios):.2f}"] for name, ratios in engines.items()
    ]
    print(table(["engine", "networks", "largest error / limit"], rows))
    checks = sum(result.checks for result in results)
    print(
        f"\n{chosen.count} networks, {checks} checks, {len(alarms)} alarms, seed {seed}"
    )
    print_machine("onnxruntime", "torch")
    return int(bool(alarms))


def examine(seed: int, pythons: Sequence[str], number: int) -> Result:
    """Export, validate and run network ``number`` of a seed."""
    quiet()
    network = draw_network(
        FORMS[number % len(FORMS)], np.random.default_rng((seed, number))
    )
    errors: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            export(network.module, network.example, ExportConfig()).save(path)
        except LstmEdgeError as error:
            return Result(
                0, errors, [f"network {number}, {network.about}: refused: {error}"]
            )
        file = open_file(path)
        against = against_module(network.module, file, network.example)
        report = validate(file, against, ValidateConfig(seed=number, quick=True))
        checks = [check for group in report.groups for check in group.checks]
        alarms = [
            f"{check.name}: {check.message}"
            for check in checks
            if check.status == "failed"
        ]
        alarms += _run_engines(file, against, pythons, errors)
    return Result(
        len(checks),
        errors,
        [f"network {number}, {network.about}: {alarm}" for alarm in alarms],
    )


def _engines(
    file: ModelFile, pythons: Sequence[str]
) -> Iterator[tuple[str, Callable[[Feeds], Feeds]]]:
    yield "onnxruntime", file.runner()
    with contextlib.suppress(UnsupportedError, MissingDependencyError):
        assert file.model is not None
        yield ".lep", native_runner(file.model, file.proto)
    for python in pythons:
        version = run(
            python, "-c", "import onnxruntime; print(onnxruntime.__version__)"
        )
        yield f"onnxruntime {version.strip()}", partial(_run_old, python, file.path)


def _run_old(python: str, path: Path, feeds: Feeds) -> Feeds:
    calls = path.with_suffix(".calls.npz")
    results = path.with_suffix(".results.npz")
    np.savez(calls, **feeds)
    run(python, "-c", _OLD, path, calls, results)
    with np.load(results) as arrays:
        return dict(arrays)


def _run_engines(
    file: ModelFile, against: Expected, pythons: Sequence[str], errors: dict[str, float]
) -> Iterator[str]:
    """Compare every engine with the graph in float64, and replay the golden cases in
    each.
    """
    pair = Pair(file.manifest, Graph64(against.exact), against.reference, file.runner())
    cases = [
        against.cases.case(n, length, at_reset=True, full=True).feeds
        for n, length in SIZES
    ]
    for name, engine in _engines(file, pythons):
        records = [*itertools.chain(*selftest(file.manifest, engine).cases)]
        # the native engine gives zeros beyond a row's length
        for feeds in (
            [full_length(file.manifest, case) for case in cases]
            if name == ".lep"
            else cases
        ):
            records += compare_all(engine(feeds), pair.exact(feeds), pair.limits(feeds))
        errors[name] = max(record.ratio for record in records)
        yield from (f"{name}: {record}" for record in records if not record.ok)


if __name__ == "__main__":
    sys.exit(main())
