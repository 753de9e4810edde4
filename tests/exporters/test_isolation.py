"""Files that end, fill or keep the process that runs them end another one, and are reported in one line."""

import os
import signal
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lstm_edge_exporters import isolation
from lstm_edge_exporters.isolation import isolated, open_isolated
from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_exporters.verify.expected import against_file
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_exporters.verify.validate import validate
from lstm_edge_runtime.errors import FileFormatError
from lstm_edge_runtime.ort import sealed

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def recurrent(*, overflows_at=None):
    """A GRU over ``x (N, L, 3)``; at one length the least whole number is divided by -1, which traps."""
    rng = np.random.default_rng(0)
    weights = {
        "W": rng.standard_normal((1, 12, 3)).astype(np.float32),
        "R": rng.standard_normal((1, 12, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["steps", "W", "R"], ["", "last"], hidden_size=4),
    ]
    if overflows_at:
        weights |= {
            "place": np.array([1]),
            "at": np.array([overflows_at]),
            "one": np.array([1]),
            "minus": np.array([-1]),
            "least": np.array([np.iinfo(np.int64).min]),
            "nothing": np.zeros(1, np.float32),
        }
        nodes += [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "place"], ["L"]),
            helper.make_node("Equal", ["L", "at"], ["there"]),
            helper.make_node("Where", ["there", "minus", "one"], ["divisor"]),
            helper.make_node("Div", ["least", "divisor"], ["divided"]),
            helper.make_node("Cast", ["divided"], ["far"], to=FLOAT),
            helper.make_node("Mul", ["far", "nothing"], ["zero"]),
            helper.make_node("Add", ["last", "zero"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["last"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["N", "L", 3])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def x(steps):
    return {"x": np.random.default_rng(1).standard_normal((2, steps, 3)).astype(np.float32)}


def test_a_session_in_another_process_gives_the_same():
    content = recurrent().SerializeToString()
    here = open_isolated(content)
    with isolated():
        there = open_isolated(content)
    assert [entry.name for entry in there.get_inputs()] == [entry.name for entry in here.get_inputs()]
    assert [entry.type for entry in there.get_outputs()] == [entry.type for entry in here.get_outputs()]
    for steps in (1, 7):
        (one,), (other,) = (session.run(["y"], x(steps)) for session in (here, there))
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)


def test_what_onnxruntime_refuses_is_said_and_ends_nothing():
    with isolated():
        with pytest.raises(FileFormatError, match="can't be opened by onnxruntime"):
            open_isolated(b"no file")
        session = open_isolated(recurrent().SerializeToString())
        with pytest.raises(RuntimeError, match="Got invalid dimensions"):
            session.run(["y"], {"x": np.zeros((1, 2, 5), np.float32)})
        assert session.run(["y"], x(3))[0].shape == (1, 2, 4)


def test_a_process_that_ends_is_one_line_and_the_next_file_gets_another():
    ending = r"onnxruntime ended \(SIG\w+\) while it ran net.onnx on x \(2, 6, 3\)"
    with pytest.raises(FileFormatError, match=ending), isolated():  # noqa: PT012
        session = open_isolated(recurrent(overflows_at=6).SerializeToString(), name="net.onnx")
        session.run(["y"], x(5))
        with pytest.raises(FileFormatError, match=ending):
            session.run(["y"], x(6))
        with pytest.raises(FileFormatError, match=ending):  # nothing more is asked
            session.run(["y"], x(5))
    with isolated():
        assert open_isolated(recurrent().SerializeToString()).run(["y"], x(5))


def test_a_call_that_takes_too_long_is_ended(monkeypatch):
    monkeypatch.setattr(
        isolation,
        "_START",
        "import sys, time; sys.path[:] = {path!r}; import {module} as m; "
        "m.run_by_name = lambda *_: time.sleep(60); m.serve()",
    )
    found = []

    def hang():
        try:
            with isolated():
                session = open_isolated(recurrent().SerializeToString(), name="net.onnx")
                monkeypatch.setattr(isolation, "_SECONDS", 0.5)
                session.run(["y"], x(2))
        except FileFormatError as error:
            found.append(str(error))

    thread = threading.Thread(target=hang)  # which has a process of its own
    thread.start()
    thread.join(60)
    assert "did not come back within" in found[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_has_a_process_of_its_own():
    with isolated():
        session = open_isolated(recurrent().SerializeToString())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with isolated():
                code = int(
                    open_isolated(recurrent().SerializeToString()).run(["y"], x(4))[0].shape != (1, 2, 4)
                )
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert session.run(["y"], x(4))[0].shape == (1, 2, 4)


def test_a_foreign_file_that_ends_onnxruntime_is_refused_by_lift_and_validate(tmp_path):
    signals = "|".join(each.name for each in signal.Signals)
    with pytest.raises(FileFormatError, match=rf"ended \(({signals})\) while it ran"):
        lift(recurrent(overflows_at=7).SerializeToString())
    lifted = lift(recurrent(overflows_at=4000).SerializeToString())
    model = onnx.load_from_string(lifted.model)
    at = next(each for each in model.graph.initializer if each.name == "at")
    at.CopyFrom(onnx.numpy_helper.from_array(np.array([33]), "at"))
    (tmp_path / "m.onnx").write_bytes(sealed(model.SerializeToString()))
    file = open_file(tmp_path / "m.onnx")
    with pytest.raises(FileFormatError, match=rf"ended \(({signals})\) while it ran") as raised:
        validate(file, against_file(tmp_path / "m.onnx", file), ValidateConfig(quick=True, steps=100))
    assert "\n" not in str(raised.value)
