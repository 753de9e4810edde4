"""Every option of LSTM1, from a run through the exporter and the runtime, at sizes that were not traced."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.checkpoint import Run, deployable
from lstm_edge.lstm1 import LSTM1
from lstm_edge_exporters import export
from lstm_edge_exporters.verify.compare import limit_for
from lstm_edge_runtime import State, load
from lstm_edge_runtime.selftest import compare

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

QUICK = [
    {},
    {"num_layers": 2, "dropout": 0.3, "batch_first": False},
    {"num_layers": 2, "bidirectional": True, "proj_size": 3},
]
FULL = [
    {"num_layers": 3, "readout": "last"},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 2, "readout": "last"},
    {"proj_size": 3},
    {"proj_size": 2, "bidirectional": True, "readout": "last"},
    {"bias": False},
    {"hidden_size": 1, "input_size": 1, "num_classes": 1},
    {"readout": "last", "num_classes": 2, "added": (1, 0)},
    {"dtype": torch.float64},
]
CASES = [
    *(pytest.param(options, id=str(options)) for options in QUICK),
    *(pytest.param(options, id=str(options), marks=pytest.mark.slow) for options in FULL),
]


@functools.cache
def exported(options, lengths):
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "input_size": 2, "hidden_size": 7, "num_layers": 1, "seq_length": 9}
    model = LSTM1(**{**sizes, **dict(options)}).eval()
    width = model.lstm.input_size
    values = (torch.tensor([3.0]), torch.tensor([2.0])) if width == 1 else None
    model.set_scales((torch.full((width,), 10.0), torch.full((width,), 4.0)), values)
    module, example, config = deployable(Run(model), lengths=lengths)
    return module, load(export(module, example, config).model)


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@settings(deadline=None, max_examples=12, derandomize=True)
@given(n=st.integers(1, 9), steps=st.integers(1, 40), seed=st.integers(0, 2**31), reset=st.booleans())
@torch.no_grad()
def test_the_file_gives_what_the_network_gives(options, lengths, n, steps, seed, reset):
    module, model = exported(tuple(options.items()), lengths)
    lstm = module.lstm
    layers = lstm.num_layers * (2 if lstm.bidirectional else 1)
    generator = torch.Generator().manual_seed(seed)
    x = 10 + 4 * torch.randn(n, steps, lstm.input_size, generator=generator)
    scale = 0.0 if reset else 1.0
    h_0 = scale * torch.randn(layers, n, lstm.proj_size or lstm.hidden_size, generator=generator)
    c_0 = scale * torch.randn(layers, n, lstm.hidden_size, generator=generator)
    valid = torch.randint(1, steps + 1, (n,), generator=generator) if lengths else None
    first = lstm.batch_first
    narrow, wide = (
        [
            one.numpy()
            for one in copy.deepcopy(module).to(dtype)(
                (x if first else x.transpose(0, 1)).to(dtype), h_0.to(dtype), c_0.to(dtype), valid
            )
        ]
        for dtype in (torch.float32, torch.float64)
    )
    dtype = model.inputs[0].dtype
    start = State({"h_0": h_0.numpy().astype(dtype), "c_0": c_0.numpy().astype(dtype)}, model.identity)
    outputs, state = model.run(
        (x if first else x.transpose(0, 1)).numpy().astype(dtype),
        None if reset else start,
        None if valid is None else valid.numpy(),
    )
    got = [outputs["logits"], state["h_0"], state["c_0"]]
    for name, value, own, best in zip(("logits", "h_n", "c_n"), got, narrow, wide, strict=True):
        floor = float(np.abs(own - best).max())
        found = compare(name, value, best, limit_for(best, floor))
        assert found.ok, str(found)
