"""The ONNX project's own node tests for LSTM, GRU and RNN, through ``lift``."""

import warnings
from importlib import import_module

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.native.library import installed


def _cases():
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for operator in ("gru", "lstm", "rnn"):
            import_module(f"{node.__name__}.{operator}")
    return [
        case
        for case in node._NodeTestCases  # collect_testcases computes those of every operator: seconds
        if {node.op_type for node in case.model.graph.node} & {"LSTM", "GRU", "RNN"}
        and not any(node.domain for node in case.model.graph.node)
    ]


CASES = _cases()
FORWARD = [case for case in CASES if "reverse" not in case.name and "bidirectional" not in case.name]
BACKWARD = [case for case in CASES if case not in FORWARD]


def test_the_onnx_package_has_the_cases_that_this_file_is_about():
    assert len(FORWARD) >= 12
    assert len(BACKWARD) >= 6


def _expected(case):
    inputs, outputs = case.data_sets[0]
    names = [value.name for value in case.model.graph.input]
    return dict(zip(names, inputs, strict=True)), dict(
        zip([value.name for value in case.model.graph.output], outputs, strict=True)
    )


@pytest.mark.parametrize("case", FORWARD, ids=lambda case: case.name)
def test_a_forward_case_still_gives_its_expected_outputs(case):
    lifted = lift(case.model.SerializeToString())
    feeds, expected = _expected(case)
    model, states = load(lifted.model), {state.input: state for state in lifted.manifest.states}
    data = {name: array for name, array in feeds.items() if name not in states}
    lengths = data.pop(lifted.manifest.lengths, None)
    if states.keys() & feeds.keys():
        assert not any(feeds[name].any() for name in states.keys() & feeds.keys())
    outputs, after = model.run(data, lengths=lengths)
    outputs |= {state.output: after[name] for name, state in states.items()}
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-3, atol=1e-7)
    assert lifted.report.unstreamable == ""
    if installed():
        found = _on_native(lifted, feeds, lengths)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-7, err_msg=f"native {name}")


def _on_native(lifted, feeds, lengths):
    """Run a case on the native engine, its weights stored in the file."""
    proto = onnx.load_from_string(lifted.model)
    weights = [value for value in proto.graph.input if value.name in ("W", "R", "B", "P")]
    for value in weights:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(feeds[value.name], value.name))
        proto.graph.input.remove(value)
    names = {value.name for value in weights}
    manifest = lifted.manifest._replace(
        inputs=tuple(spec for spec in lifted.manifest.inputs if spec.name not in names),
        golden=None,  # of other weights
    )
    onnx.helper.set_model_props(proto, {KEY: manifest.to_json()})
    native = runner(load(to_native(proto.SerializeToString())))
    rows = feeds["X"].shape[manifest.inputs[0].axes.index(manifest.batch)] if manifest.batch else 1
    given = {spec.name: feeds[spec.name] for spec in manifest.data_inputs}
    given |= {} if lengths is None else {manifest.lengths: lengths}
    for state in manifest.states:
        shape = [axis if isinstance(axis, int) else rows for axis in state.axes]
        given[state.input] = np.zeros(shape, np.float32)
    return native(given)
