"""Every kind of network from verb to verb: export, validate, selftest, convert, quantize
and stream, on the command line and from Python."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load

STEPS = 12
BATCH_FIRST = ("x=N,L,4",)
LENGTHS = ("x=N,L,4", "lengths=N:int64")


@dataclass(frozen=True)
class Trip:
    """How a network is exported, and which verbs take it."""

    inputs: tuple[str, ...] = BATCH_FIRST
    """Values of ``--input``."""
    streams: bool = True
    """True if chunks equal the full sequence."""
    converts: bool = True
    """True if ``convert -o net.lep`` takes it: nothing reads time backwards."""
    in_c: bool = True
    """True if ``convert --to c`` takes it: one stream without lengths."""
    quick: bool = False
    """True if ``make test`` runs it, too."""


LAYER = Trip(("input=N,L,4",))
TRIPS = {
    "lstm": Trip(("input=N,L,4",), quick=True),
    "gru": LAYER,
    "rnn": LAYER,
    "deep": LAYER,
    "projected": LAYER,
    "both": Trip(("input=N,L,4",), streams=False, converts=False, in_c=False),
    "bare": LAYER,
    "first": Trip(("input=L,N,4",)),
    "lstm_cell": Trip(("input=N,4",)),
    "gru_cell": Trip(("input=N,4", "hx=N,6"), quick=True),
    "rnn_cell": Trip(("input=N,4", "hx=N,6")),
    "returns": Trip(quick=True),
    "keyed": Trip(quick=True),
    "packed": Trip(LENGTHS, in_c=False, streams=False),
    "packed_state": Trip(LENGTHS, in_c=False, streams=False, quick=True),
    "separate": Trip(("x=N,L,4", "h_0=2,N,6", "c_0=2,N,6")),
    "tokens": Trip(("tokens=N,L:int64",)),
    "time_first": Trip(("x=L,N,4",)),
    "step": Trip(("x=N,4", "h=N,6", "c=N,6")),
    "takes": Trip(("x=N,L,4", "hidden=1,N,6")),
}
"""Trips other than the usual one."""
NETWORKS = Path(__file__).with_name("networks.py")


def _networks():
    """Return the module of networks."""
    spec = importlib.util.spec_from_file_location("networks", NETWORKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [
    pytest.param(
        name,
        id=name,
        marks=[] if TRIPS.get(name, Trip()).quick else [pytest.mark.system],
    )
    for name in _networks().NETWORKS
]


@pytest.fixture
def verbs(invoke, tmp_path, monkeypatch):
    """Run a verb in a folder with ``networks.py``; fails unless it succeeds."""
    (tmp_path / "networks.py").write_text(NETWORKS.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("networks", None)

    def succeed(*words):
        code, out, err = invoke(*words)
        assert code == 0, f"{' '.join(map(str, words))}: {out[-2000:]}{err[-2000:]}"
        return out

    yield succeed
    sys.modules.pop("networks", None)


@pytest.mark.parametrize("name", CASES)
def test_a_network_goes_from_verb_to_verb(verbs, name):
    trip = TRIPS.get(name, Trip())
    inputs = [word for axes in trip.inputs for word in ("--input", axes)]
    verbs("export", f"networks:{name}", *inputs, "-o", "net.onnx")
    verbs("validate", "net.onnx", "--against", f"networks:{name}", "--quick")
    verbs("selftest", "net.onnx")
    verbs("inspect", "net.onnx")
    if trip.converts:
        verbs("convert", "net.onnx", "-o", "net.lep")
        verbs("selftest", "net.lep")
    if trip.in_c:
        verbs("convert", "net.onnx", "--to", "c", "-o", "net_c")
    if trip.streams:
        for path in ("net.onnx", "net.lep"):
            _assert_streams(path, name)


@pytest.mark.system
@pytest.mark.parametrize("option", [["--weights-only"], ["--precision", "fp16"], []])
def test_a_quantized_network_goes_from_verb_to_verb(verbs, option):
    verbs("export", "networks:wide", "--input", "x=N,L,4", "-o", "net.onnx")
    verbs("quantize", "net.onnx", *option, "-o", "small.onnx")
    verbs("validate", "small.onnx", "--against", "networks:wide", "--quick")
    verbs("validate", "small.onnx", "--against", "net.onnx", "--quick")
    verbs("selftest", "small.onnx")
    verbs("convert", "small.onnx", "-o", "small.lep")
    verbs("selftest", "small.lep")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.system])
        for name in ("lstm", "returns", "keyed", "named", "pair", "tokens", "zeros")
    ],
)
def test_a_network_goes_through_python(verbs, name, tmp_path):
    from lstm_edge_exporters import validate
    from lstm_edge_exporters.validate.expected import against_module
    from lstm_edge_exporters.verify.file import open_file

    module = getattr(_networks(), name)()
    generator = torch.Generator().manual_seed(2)
    example = torch.randn(2, 9, 4, generator=generator)
    if name == "tokens":
        example = torch.randint(0, 30, (2, 9), generator=generator)
    artifact = export(module, example, ExportConfig())
    artifact.save(tmp_path / "net.onnx")
    file = open_file(tmp_path / "net.onnx")
    report = validate(file, against_module(module, file))
    assert report.ok, report.headlines
    with load(tmp_path / "net.onnx") as model:
        assert model.selftest()


def _assert_streams(path, name):
    """Assert that a stream gives the first result of the network, step by step."""
    module = getattr(_networks(), name)()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, 4, generator=generator)
    if name == "tokens":
        x = torch.randint(0, 30, (STEPS,), generator=generator)
    expected = _first_result(module, name, x)
    with load(path) as model:
        stream = model.stream()
        steps = [stream.step(sample) for sample in x.numpy()]
    if isinstance(steps[0], dict):
        steps = [next(iter(step.values())) for step in steps]
    if len(expected) == STEPS:
        np.testing.assert_allclose(np.stack(steps), expected, atol=1e-5)
    else:
        np.testing.assert_allclose(steps[-1].ravel(), expected.ravel(), atol=1e-5)


def _first_result(module, name, x):
    """Return the network's first result for one sequence ``(STEPS, ...)``."""
    arguments = {
        "separate": (torch.zeros(2, 1, 6), torch.zeros(2, 1, 6)),
        "step": (torch.zeros(1, 6), torch.zeros(1, 6)),
    }.get(name, ())
    with torch.no_grad():
        if name == "step" or name.endswith("_cell"):
            return _run_cell(module, x, arguments)
        is_time_first = name in ("first", "time_first")
        result = module(x[:, None] if is_time_first else x[None], *arguments)
    if name == "state_first":
        result = result[1]
    while not isinstance(result, torch.Tensor):
        result = next(iter(result.values() if isinstance(result, dict) else result))
    return (result[:, 0] if is_time_first else result[0]).numpy()


def _run_cell(module, x, states):
    """Run a module of one step on each sample."""
    outputs = []
    for sample in x:
        if len(states) == 2 and type(module).__name__ == "Step":
            result = module(sample[None], *states)
            states = result[1:]
        elif type(module).__name__ == "LSTMCell":
            result = states = module(sample[None], states or None)
        else:
            result = states = module(sample[None], *states[:1])
            states = (states,)
            result = (result,)
        outputs.append(result[0][0])
    return torch.stack(outputs).numpy()
