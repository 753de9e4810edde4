"""The JavaScript runtime in Node next to the Python one: the same calls, the same
numbers."""

import json
import subprocess
from pathlib import Path

import numpy as np

from lstm_edge_runtime import load

WIDTHS = {
    "lstm": {"x": 3},
    "motions-int8": {"x": 6},
    "gru": {"x": 3, "gain": 1},
    "late": {"x": 3},
    "strided": {"x": 3},
}


def by_name(model, result):
    named = result if isinstance(result, dict) else {model.outputs[0].name: result}
    return {
        name: np.ravel([] if array is None else array) for name, array in named.items()
    }


def test_node_computes_what_python_does(programs, find_program):
    node = find_program("node")
    rng = np.random.default_rng(7)
    asked = []
    expected = []
    for name, widths in WIDTHS.items():
        calls = []
        with load(programs / f"{name}.lep") as model:
            stream = model.stream(reset_every="never")
            for steps in (1, 4, 1, 30):
                x = {
                    key: rng.normal(size=(steps, width)).astype("f4")
                    for key, width in widths.items()
                }
                given = {
                    key: array[0] if steps == 1 else array for key, array in x.items()
                }
                kind = "step" if steps == 1 else "process"
                result = getattr(stream, kind)(given if len(given) > 1 else given["x"])
                expected.append((name, by_name(model, result)))
                calls.append(
                    {
                        "kind": kind,
                        "x": {key: array.ravel().tolist() for key, array in x.items()},
                    }
                )
        asked.append({"file": str(programs / f"{name}.lep"), "calls": calls})
    script = Path(__file__).with_name("answer.mjs")
    ran = subprocess.run(
        [node, script],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    for (name, arrays), answer in zip(expected, json.loads(ran.stdout), strict=True):
        for key, array in arrays.items():
            limit = 0.02 if "int8" in name else 2e-6
            np.testing.assert_allclose(
                answer.get(key, []), array, atol=limit, err_msg=name
            )
