"""LSTM1 in every form, from a trained run to a file that onnxruntime runs at any
size."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lstm_edge.checkpoint import Run, deployable
from lstm_edge.lstm1 import LSTM1
from lstm_edge_exporters import export
from lstm_edge_runtime import State, load

OPTIONS = st.fixed_dictionaries(
    {
        "num_layers": st.integers(1, 3),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "readout": st.sampled_from(["stacked", "last"]),
    }
)


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(
    options=OPTIONS,
    features=st.integers(1, 4),
    hidden=st.integers(2, 9),
    projected=st.booleans(),
    lengths=st.booleans(),
    data=st.data(),
)
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_any_lstm1_exports_and_runs_at_any_size(
    options, features, hidden, projected, lengths, data
):
    torch.manual_seed(0)
    width = {"proj_size": max(1, hidden // 2)} if projected else {}
    width["dropout"] = 0.5 if options["num_layers"] > 1 else 0.0
    model = LSTM1(3, features, hidden, seq_length=10, **options, **width).eval()
    model.set_scales((torch.arange(features).float(), 2.0 ** torch.arange(features)))
    module, example, config = deployable(Run(model), lengths=lengths)
    artifact = export(module, example, config)
    opened = load(artifact.model)
    for _ in range(4):
        n = data.draw(st.integers(1, 5))
        steps = data.draw(st.integers(1, 30))
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        x = rng.standard_normal((n, steps, features)).astype(np.float32) * 3
        valid = rng.integers(1, steps + 1, n) if lengths else None
        arrays = {
            spec.input: (
                rng.standard_normal([n if a == "N" else a for a in spec.axes]).astype(
                    np.float32
                )
            )
            for spec in opened.states
        }
        feeds = {"x": x, **arrays} | ({"lengths": valid} if lengths else {})
        with torch.no_grad():
            expected = module(
                **{name: torch.from_numpy(array) for name, array in feeds.items()}
            )
        outputs, after = opened.run(x, State(arrays, opened.identity), valid)
        for array, tensor in zip(
            (outputs["logits"], after["h_0"], after["c_0"]), expected, strict=True
        ):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=1e-5)
