"""The JavaScript runtime in Node beside the Python one: the same calls, the same numbers."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import AxisRange, Manifest

ROOT = Path(__file__).parents[2]
FILES = {
    "lstm.onnx": {"x": 3},
    "reset.onnx": {"x": 3},
    "motions-int8.onnx": {"x": 6},
    "gru.onnx": {"x": 3, "gain": 1},
    "late.onnx": {"x": 3},
    "strided.onnx": {"x": 3},
}
"""Each file's inputs and their widths; gru.onnx has its time axis first, and lengths."""


@pytest.fixture(scope="module")
def node(find_program):
    """Node, with onnxruntime-node where it looks for packages."""
    program = find_program("node")
    if not (ROOT / "web" / "node_modules" / "onnxruntime-node").is_dir():
        required = "node" in os.environ.get("LSTM_EDGE_REQUIRE", "").split()
        (pytest.fail if required else pytest.skip)("no onnxruntime-node; npm ci in web/ installs it")
    return program


def _by_name(result):
    named = result if isinstance(result, dict) else {"only": result}
    return {name: array for name, array in named.items() if array is not None}


def _draw(rng, name, steps, batch=None):
    """Random samples as Python takes them, and the same flat."""
    shape = [steps] if batch is None else [steps, batch] if name == "gru.onnx" else [batch, steps]
    x = {key: rng.normal(size=(*shape, width)).astype(np.float32) for key, width in FILES[name].items()}
    return x, {key: array.ravel().tolist() for key, array in x.items()}


def _calls(name, model):
    """Random calls for Node, and what Python's runtime makes of each."""
    rng, stream = np.random.default_rng(7), model.stream(reset_every="never")
    least = model.manifest.ranges.get("L", AxisRange()).least
    for batch, steps in ((1, least), (1, 9), (3, 5)):
        x, flat = _draw(rng, name, steps, batch)
        lengths = rng.integers(1, steps + 1, batch) if model.manifest.lengths else None
        outputs, state = model.run(x, lengths=lengths)
        more = {} if lengths is None else {"lengths": lengths.tolist()}
        yield {"kind": "run", "x": flat, "batch": batch, **more}, outputs, state
    for steps in (1, 4, 1, 30):
        x, flat = _draw(rng, name, steps)
        outputs = stream.process(x) if steps > 1 else stream.step({key: array[0] for key, array in x.items()})
        kind = "process" if steps > 1 else "step"
        yield {"kind": kind, "x": flat}, _by_name(outputs), stream.state


def _with_reset_values(data, folder):
    """Write lstm.onnx with reset values other than 0, one for each unit."""
    content = onnx.load(data / "lstm.onnx")
    (entry,) = content.metadata_props
    manifest, rng = Manifest.from_json(entry.value), np.random.default_rng(3)
    states = []
    for state in manifest.states:
        shape = [axis if isinstance(axis, int) else 1 for axis in state.axes]
        states.append(state._replace(reset=rng.uniform(-1, 1, shape).astype(np.float32)))
    entry.value = manifest._replace(states=tuple(states)).to_json()
    onnx.save(content, folder / "reset.onnx")
    return folder / "reset.onnx"


def test_node_computes_what_python_does_and_judges_by_the_same_limits(node, data, tmp_path):
    asked, expected, limits = [], [], []
    paths = {name: data / name for name in FILES} | {"reset.onnx": _with_reset_values(data, tmp_path)}
    for name, path in paths.items():
        with load(path) as model:
            calls = list(_calls(name, model))
            asked.append({"file": str(path), "calls": [call for call, _, _ in calls]})
            expected.append([(outputs, dict(state)) for _, outputs, state in calls])
            test = model.selftest() if model.manifest.golden else None
            limits.append([[one.name, one.limit] for one in test.whole + test.chunked] if test else [])
    ran = subprocess.run(
        [node, ROOT / "tests" / "web" / "answer.mjs"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    answers = iter(json.loads(ran.stdout))
    for name, calls, judged in zip(FILES, expected, limits, strict=True):
        for place, (outputs, state) in enumerate(calls):
            answer = next(answers)
            assert answer["outputs"].keys() == outputs.keys()
            assert answer["state"].keys() == state.keys()
            for key, array in outputs.items():
                np.testing.assert_allclose(
                    answer["outputs"][key], array.ravel(), atol=2e-6, err_msg=f"{name} call {place}"
                )
            for key, array in state.items():
                np.testing.assert_allclose(
                    answer["state"][key], array.ravel(), atol=2e-6, err_msg=f"{name} call {place}"
                )
        found = next(answers)
        found = [one[1:] for one in sorted(found, key=lambda one: one[0] != "whole")]
        assert [one[0] for one in found] == [one[0] for one in judged]
        np.testing.assert_allclose([one[1] for one in found], [one[1] for one in judged], rtol=1e-6)


def test_node_heeds_the_limits_of_a_fresh_export(node, tmp_path):
    torch = pytest.importorskip("torch")
    from lstm_edge import LSTM1
    from lstm_edge_exporters import ExportConfig, export

    torch.manual_seed(3)
    module = LSTM1(4, 3, 8, 1, 10)
    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    path = tmp_path / "fresh.onnx"
    export(module, (torch.zeros(2, 10, 3),), config).save(path)
    with load(path) as model:
        golden, test = model.manifest.golden, model.selftest()
    assert golden.limits
    assert golden.more
    ran = subprocess.run(
        [node, ROOT / "tests" / "web" / "answer.mjs"],
        input=json.dumps([{"file": str(path), "calls": []}]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    (found,) = json.loads(ran.stdout)
    assert len(found) == len(test.comparisons)
    allowed: dict[str, set[float]] = {}
    for case in (golden, *golden.more):
        for name, limits in case.limits.items():
            allowed.setdefault(name, set()).update(limits.ravel().tolist())
    assert all(limit in allowed[name] for _, name, limit in found)
