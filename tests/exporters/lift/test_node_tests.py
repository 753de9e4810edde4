"""The ONNX project's own node tests for LSTM, GRU and RNN, through ``lift``."""

import warnings
from importlib import import_module

import numpy as np
import pytest

from lstm_edge_runtime import load


def _cases():
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in ("gru", "lstm", "rnn"):
            import_module(f"{node.__name__}.{operator}")
    return [
        case
        for case in (
            node._NodeTestCases
        )  # collect_testcases computes those of every operator: seconds
        if {node.op_type for node in case.model.graph.node} & {"LSTM", "GRU", "RNN"}
        and not any(node.domain for node in case.model.graph.node)
    ]


CASES = _cases()
BACKWARDS = ("reverse", "bidirectional")
BATCH_FIRST = "batchwise"  # layout=1, which onnxruntime's CPU provider does not run
FORWARD = [
    case
    for case in CASES
    if not any(word in case.name for word in (*BACKWARDS, BATCH_FIRST))
]


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.name)
def test_a_forward_case_still_gives_its_expected_outputs(case, lift_freed):
    lifted = lift_freed(case.model.SerializeToString())
    inputs, outputs = case.data_sets[0]
    feeds = {
        value.name: array
        for value, array in zip(case.model.graph.input, inputs, strict=True)
    }
    expected = {
        value.name: array
        for value, array in zip(case.model.graph.output, outputs, strict=True)
    }
    model = load(lifted.model)
    states = {state.input: state for state in lifted.manifest.states}
    data = {name: array for name, array in feeds.items() if name not in states}
    lengths = data.pop(lifted.manifest.lengths, None)
    if states.keys() & feeds.keys():
        assert not any(feeds[name].any() for name in states.keys() & feeds.keys())
    outputs, after = model.run(data, lengths=lengths)
    outputs |= {state.output: after[name] for name, state in states.items()}
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-3, atol=1e-7)
    assert lifted.manifest.unstreamable == ""
