import json
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lstm_edge.cli import doctor
from lstm_edge_runtime import ort
from lstm_edge_runtime.errors import install_command


def findings(invoke):
    code, out, err = invoke("doctor", "--json")
    return code, {finding["about"]: finding for finding in json.loads(out)}, err


def test_it_names_versions_providers_and_processor(invoke):
    code, found, _ = findings(invoke)
    assert code == 0
    assert found["CPUExecutionProvider"] == {
        "about": "CPUExecutionProvider",
        "found": "usable",
        "ok": True,
        "advice": "",
    }
    assert onnxruntime.__version__ in found["onnxruntime wheel"]["found"]
    assert found["numpy"]["found"] == np.__version__
    assert str(len(os.sched_getaffinity(0))) in found["cores"]["found"]
    assert set(onnxruntime.get_available_providers()) <= set(found)


def test_people_get_a_table(invoke):
    code, out, _ = invoke("doctor")
    assert code == 0
    assert "CPUExecutionProvider" in out


def test_a_provider_that_does_not_start_is_told_from_one_that_does(invoke, monkeypatch):
    offered = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    code, found, _ = findings(invoke)
    assert code == 0
    assert found["CPUExecutionProvider"]["ok"]
    if "CUDAExecutionProvider" not in onnxruntime.capi._pybind_state.get_available_providers():
        assert not found["CUDAExecutionProvider"]["ok"]
        assert "driver" in found["CUDAExecutionProvider"]["advice"]


def test_a_provider_that_leaves_the_lstm_to_the_cpu_is_not_usable():
    errors = doctor.try_providers()
    assert errors.pop("CPUExecutionProvider") == ""
    assert errors.get("AzureExecutionProvider") != ""  # in the usual wheel; it makes remote calls only


def test_a_provider_that_nobody_asked_for_is_no_warning(invoke, monkeypatch):
    offered = ["AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: offered)
    _, found, _ = findings(invoke)
    assert found["AzureExecutionProvider"]["ok"]
    assert found["AzureExecutionProvider"]["advice"] == ""
    assert "not usable" in found["AzureExecutionProvider"]["found"]


@pytest.mark.parametrize("computed", [0.5, np.nan])
def test_a_provider_that_computes_something_else_is_not_usable(monkeypatch, computed):
    class Wrong:
        def run(self, *_):
            return [np.full((1, 1, 1), computed, np.float32)]

    monkeypatch.setattr(ort, "open_session", lambda *_, **__: Wrong())
    assert all(doctor.try_providers().values())


def test_two_wheels_that_overwrite_each_other_are_named(invoke, monkeypatch):
    both = {"onnxruntime": "1.1", "onnxruntime-gpu": "1.2"}
    monkeypatch.setattr(doctor, "onnxruntime_wheels", lambda: both)
    _, found, _ = findings(invoke)
    assert not found["onnxruntime wheel"]["ok"]
    assert "pip uninstall onnxruntime onnxruntime-gpu" in found["onnxruntime wheel"]["advice"]


@pytest.mark.parametrize("value", ["0", "1"])
def test_telemetry_that_may_be_on_is_said(invoke, monkeypatch, value):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    _, found, _ = findings(invoke)
    assert bool(found["telemetry of onnxruntime"]["advice"]) == (value != "1")


def test_an_installation_older_than_the_code_is_told_to_be_made_again(tmp_path):
    """An editable one keeps the metadata of the day it was made, without the extras that came later."""
    (tmp_path / "lstm_edge-0.0.1.dist-info").mkdir()
    (tmp_path / "lstm_edge-0.0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: lstm-edge\nVersion: 0.0.1\nRequires-Dist: numpy\n"
    )
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.modules['torch'] = None;"
        "from lstm_edge.cli import main; main()"
    )

    def run(*arguments):
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = {finding["about"]: finding for finding in json.loads(run("doctor", "--json").stdout)}
    assert found["export extra"]["found"] == "not known to this installation"
    assert found["export extra"]["advice"].startswith("reinstall lstm-edge")
    ran = run("export", "runs/none", "-o", str(tmp_path / "m.onnx"))
    assert ran.returncode == 2
    assert ran.stderr == (
        'error: lstm-edge export needs torch, which is not installed; pip install "lstm-edge[export]"\n'
    )


def test_without_onnxruntime_and_torch_it_exits_1_and_names_the_extras():
    program = (
        "import sys\n"
        "from importlib import metadata, util\n"
        "sys.modules['onnxruntime'] = sys.modules['lstm_edge_native'] = None\n"
        "metadata.packages_distributions = dict\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name: None if name in ('torch', 'onnx', 'jinja2') else find(name)\n"
        "from lstm_edge.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: no model can run on this machine")
    found = {finding["about"]: finding for finding in json.loads(ran.stdout)}
    assert install_command("cpu") in found["onnxruntime wheel"]["advice"]
    assert found["export extra"]["found"] == "jinja2, onnx, torch not installed"
    assert found["report extra"]["found"] == "jinja2 not installed"
    assert install_command("report") in found["report extra"]["advice"]
    assert "CPUExecutionProvider" not in found


@pytest.mark.parametrize(
    "package", ["", "raise ImportError('libcudart.so.12: no such file')", "raise RuntimeError('two\\nlines')"]
)
def test_a_wheel_that_does_not_start_is_named_beside_the_rest(tmp_path, har, package):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(package)
    program = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); sys.modules['lstm_edge_native'] = None;"
        "from lstm_edge.cli import main; main()"
    )

    def run(*arguments):
        command = [sys.executable, "-c", program, str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    ran = run("doctor", "--json")
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    found = {finding["about"]: finding for finding in json.loads(ran.stdout)}
    assert "does not start" in found["onnxruntime"]["found"]
    assert "then pip install" in found["onnxruntime"]["advice"]
    assert "processor" in found
    ran = run("selftest", str(har.path))
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith("error: onnxruntime does not start")


def test_the_probe_is_the_model_that_it_says():
    info = helper.make_tensor_value_info
    stored = [
        helper.make_tensor(
            name, TensorProto.FLOAT, (1, 4, 1), np.full(4, 0.5, np.float32).tobytes(), raw=True
        )
        for name in ("W", "R")
    ]
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R"], ["", "h"], hidden_size=1)],
        "p",
        [info("x", TensorProto.FLOAT, [1, 1, 1])],
        [info("h", TensorProto.FLOAT, [1, 1, 1])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=7)
    assert model.SerializeToString(deterministic=True) == doctor.PROBE
