"""The JavaScript runtime in Node compared with the Python one: the same calls, the same
numbers, the same states.
"""

import base64
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from loop_networks import NETWORKS

from lstm_edge_exporters import export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.state import state_of_bytes

WIDTHS = {
    "lstm": {"x": 3},
    "motions-int8": {"x": 6},
    "gru": {"x": 3, "gain": 1},
    "late": {"x": 3},
    "strided": {"x": 3},
    "lstm-window": {"x": 3},
}


def by_name(model, result):
    named = result if isinstance(result, dict) else {model.outputs[0].name: result}
    return {
        name: np.ravel(array)
        for name, array in named.items()
        if array is not None and np.size(array)
    }


def sample(rng, widths, steps):
    """Return random samples by input; ``(width,)`` for one step."""
    arrays = {
        name: rng.normal(size=(steps, width)).astype("f4")
        for name, width in widths.items()
    }
    return {name: array[0] if steps == 1 else array for name, array in arrays.items()}


def take(stream, x):
    """Run one step or a chunk, as the shape of the samples says."""
    first = next(iter(x.values()))
    given = x if len(x) > 1 else first
    return stream.step(given) if first.ndim == 1 else stream.process(given)


def call_of(x):
    """Return samples as ``answer.mjs`` reads them."""
    first = next(iter(x.values()))
    kind = "step" if first.ndim == 1 else "process"
    return {
        "kind": kind,
        "x": {name: array.ravel().tolist() for name, array in x.items()},
    }


@pytest.fixture
def answer(find_program):
    """A function that runs requests in Node."""
    node = find_program("node")
    script = Path(__file__).with_name("answer.mjs")

    def ask(requests):
        ran = subprocess.run(
            [node, script],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    return ask


def assert_equal(results, expected, name):
    """Compare the results of each call."""
    limit = 0.02 if "int8" in name else 2e-6
    for result, arrays in zip(results, expected, strict=True):
        assert result.keys() == arrays.keys(), name
        for output, array in arrays.items():
            np.testing.assert_allclose(
                result[output], array, atol=limit, err_msg=f"{name} {output}"
            )


STREAMS = {
    "never reset": ({"reset_every": "never"}, {"resetEvery": "never"}),
    "reset every 7": ({"reset_every": 7}, {"resetEvery": 7}),
    "a sliding window": ({"window": 8}, {"window": 8}),
}


@pytest.mark.parametrize("how", STREAMS)
def test_node_computes_what_python_does(programs, answer, how):
    python_options, options = STREAMS[how]
    rng = np.random.default_rng(7)
    requests = []
    expected = {}
    for name, widths in WIDTHS.items():
        if "window" in options and len(widths) > 1:
            continue
        calls = [sample(rng, widths, steps) for steps in (1, 4, 1, 1, 1, 30, 1, 17)]
        with load(programs / f"{name}.lep") as model:
            stream = model.stream(**python_options)
            expected[name] = [by_name(model, take(stream, x)) for x in calls]
        file = str(programs / f"{name}.lep")
        requests.append(
            {"file": file, "options": options, "calls": [call_of(x) for x in calls]}
        )
    for name, result in zip(expected, answer(requests), strict=True):
        assert_equal(result["results"], expected[name], name)


def test_both_follow_the_reset_interval_of_the_file(programs, answer):
    rng = np.random.default_rng(8)
    calls = [sample(rng, {"x": 3}, 1) for _ in range(12)]
    file = str(programs / "lstm-window.lep")
    with load(file) as model:
        assert model.manifest.reset_every == 5
        stream = model.stream(reset_every=5)
        expected = [by_name(model, take(stream, x)) for x in calls]
    (result,) = answer([{"file": file, "calls": [call_of(x) for x in calls]}])
    assert_equal(result["results"], expected, "lstm-window")
    (never,) = answer(
        [
            {
                "file": file,
                "options": {"resetEvery": "never"},
                "calls": [call_of(x) for x in calls],
            }
        ]
    )
    last = [
        next(iter(results[-1].values())) for results in (expected, never["results"])
    ]
    assert np.abs(np.subtract(*last)).max() > 1e-4


@pytest.mark.parametrize("name", ["lstm", "late", "strided", "gru"])
def test_states_move_between_node_and_python_in_the_middle_of_a_unit(
    programs, answer, name
):
    rng = np.random.default_rng(9)
    widths = WIDTHS[name]
    before = [sample(rng, widths, 10)]
    after = [sample(rng, widths, steps) for steps in (1, 1, 1, 9)]
    file = str(programs / f"{name}.lep")
    with load(file) as model:
        whole = model.stream(reset_every="never")
        for x in before:
            take(whole, x)
        state = base64.b64encode(whole.state.to_bytes()).decode()
        expected = [by_name(model, take(whole, x)) for x in after]
        request = {"file": file, "options": {"resetEvery": "never"}}
        first, second = answer(
            [
                {**request, "calls": [call_of(x) for x in before]},
                {**request, "state": state, "calls": [call_of(x) for x in after]},
            ]
        )
        assert_equal(second["results"], expected, name)
        saved, _ = state_of_bytes(base64.b64decode(first["state"]))
        assert saved.age == 10
        continued = model.stream(reset_every="never")
        continued.restore(saved)
        results = [by_name(model, take(continued, x)) for x in after]
    assert_equal(results, expected, name)


@pytest.mark.system
def test_node_steps_through_a_loop_as_python_does(wasm, answer, tmp_path):
    """One with layer normalization, and one whose state is the step's number."""
    rng = np.random.default_rng(9)
    requests = []
    expected = {}
    for name in ("LayerNormLSTM", "RunningMean"):
        torch.manual_seed(0)
        network = NETWORKS[name]
        artifact = export(network.kind().eval(), network.example())
        path = tmp_path / f"{name}.lep"
        path.write_bytes(to_native(artifact.model))
        calls = [sample(rng, {"x": 3}, steps) for steps in (1, 4, 1, 30)]
        with load(path) as model:
            stream = model.stream()
            expected[name] = [by_name(model, take(stream, x)) for x in calls]
        requests.append(
            {"file": str(path), "options": {}, "calls": [call_of(x) for x in calls]}
        )
    for name, result in zip(expected, answer(requests), strict=True):
        assert_equal(result["results"], expected[name], name)
