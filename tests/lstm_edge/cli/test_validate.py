"""``lstm-edge validate``: arguments, output and exit codes."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable, save
from lstm_edge_exporters import export
from lstm_edge_runtime.manifest import Signal, Task
from lstm_edge_runtime.ort import sealed

SHORT = ("--quick",)
FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(3, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder with a run, its file, a file spoilt by one bias, and labeled data."""
    folder = tmp_path_factory.mktemp("job")
    torch.manual_seed(0)
    task = Task("classification", "logits", ("rest", "walk", "run"))
    network = LSTM1(3, 3, 8, 1, 20).eval()
    with torch.no_grad():
        network.fc.weight *= 20
        network.fc.bias -= network(torch.randn(50, 20, 3)).mean(0)
    run = save(
        Run(network, task=task, signal=Signal(("ax", "ay", "az"))), folder / "run"
    )
    torch.save(run.model.state_dict(), folder / "bare.pt")
    export(*deployable(run)).save(folder / "m.onnx")
    model = onnx.load(folder / "m.onnx")
    head = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    bias = next(
        tensor for tensor in model.graph.initializer if tensor.name == head.input[2]
    )
    bias.CopyFrom(
        numpy_helper.from_array(
            numpy_helper.to_array(bias) + np.float32([0, 0.3, 0]), bias.name
        )
    )
    (folder / "wrong.onnx").write_bytes(sealed(model.SerializeToString()))
    x = np.random.default_rng(0).normal(size=(24, 20, 3)).astype(np.float32)
    y = network(torch.from_numpy(x)).argmax(-1).numpy()
    np.savez(folder / "data.npz", x=x, y=np.array(task.labels)[y])
    return folder


def test_a_good_file_passes_against_its_run_and_says_so(job, invoke):
    code, out, err = invoke(
        "validate", job / "m.onnx", "--against", job / "run", *SHORT
    )
    assert code == 0
    assert err.splitlines()[0] == "checking: Contract"
    assert re.search(r"PASSED: \d+ passed, 0 failed", out)
    rows = re.findall(r"│ (\S+) +│ (\S+) +│ passed", out)
    assert all(float(error) <= float(limit) for limit, error in rows)
    assert len(rows) >= 4
    for group in (
        "Contract",
        "Graph",
        "Function",
        "States and rows",
        "Inputs",
        "Golden cases",
        "Engines",
    ):
        assert re.search(rf"{group} .*passed", out), group


def test_a_wrong_file_exits_1_and_shows_the_worst_element(job, invoke):
    code, out, _ = invoke(
        "validate", job / "wrong.onnx", "--against", job / "run", *SHORT
    )
    assert code == 1
    assert re.search(r"FAILED Graph: .*fc\.bias is \S+ at \[1\], expected", out)
    assert re.search(r"FAILED Function: .*logits differs by 0\.3 at \[\d+, 1\]", out)
    assert "FAILED: " in out.splitlines()[-1]


def test_a_bare_checkpoint_and_another_file_are_references_too(job, invoke):
    assert (
        invoke("validate", job / "m.onnx", "--against", job / "bare.pt", *SHORT)[0] == 0
    )
    assert (
        invoke("validate", job / "wrong.onnx", "--against", job / "m.onnx", *SHORT)[0]
        == 1
    )


def test_scales_that_only_export_was_given_are_named(job, invoke, tmp_path):
    scale = tmp_path / "scale.json"
    scale.write_text(json.dumps({"x_mean": [1.0, 2.0, 3.0], "x_std": [2.0, 3.0, 4.0]}))
    options = ("--scale", scale)
    path = tmp_path / "scaled.onnx"
    assert invoke("export", job / "bare.pt", *options, "-o", path)[0] == 0
    against = ("--against", job / "bare.pt", *SHORT)
    assert invoke("validate", path, *against, *options)[0] == 0
    code, out, _ = invoke("validate", path, *against)
    assert code == 1
    assert re.search(r"FAILED Graph: node by node: .*bare.pt has no scales: if", out)


def test_a_factory_is_a_reference_and_its_lifted_states_are_found(
    job, invoke, tmp_path, monkeypatch
):
    (tmp_path / "validated_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from validated_net import Net

    torch.save(Net().state_dict(), "w.pt")
    source = ("validated_net:Net", "--weights", "w.pt")
    assert invoke("export", *source, "--input", "x=N,L,3", "-o", "net.onnx")[0] == 0
    code, out, _ = invoke(
        "validate", "net.onnx", "--against", *source, *SHORT, "--json"
    )
    document = json.loads(out)
    assert (code, document["failed"]) == (0, 0)
    states = next(group for group in document["groups"] if group["key"] == "states")
    assert states["status"] == "passed"


def test_weights_that_a_factory_draws_are_the_same_in_every_call(
    invoke, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn_weights.py").write_text(FACTORY)
    source = "drawn_weights:Net"
    for name in ("a.onnx", "b.onnx"):
        torch.rand(3)  # a caller that draws numbers of its own
        code, _, err = invoke("export", source, "--input", "x=N,L,3", "-o", name)
        assert code == 0, err
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert invoke("validate", "a.onnx", "--against", source, *SHORT)[0] == 0


def test_samples_of_data_are_compared(job, invoke):
    arguments = ("--against", job / "run", "--data", job / "data.npz", *SHORT, "--json")
    code, out, _ = invoke("validate", job / "m.onnx", *arguments)
    checks = [check for group in json.loads(out)["groups"] for check in group["checks"]]
    assert code == 0
    assert sum("sample " in check["name"] for check in checks) == 32


@pytest.mark.system
def test_reports_are_written_for_a_failure_as_well(job, invoke, tmp_path):
    junit = tmp_path / "report.xml"
    html = tmp_path / "report.html"
    code, _, _ = invoke(
        "validate",
        job / "wrong.onnx",
        "--against",
        job / "run",
        *SHORT,
        "--junit",
        junit,
        "--html",
        html,
    )
    assert code == 1
    assert ET.parse(junit).findall("testsuite/testcase/failure")
    assert "What failed" in html.read_text()


@pytest.mark.system
def test_the_golden_case_in_the_file_is_enough_to_tell_right_from_wrong(job, invoke):
    assert invoke("validate", job / "m.onnx")[0] == 0
    assert invoke("validate", job / "wrong.onnx")[0] == 1


BROKEN = {
    "no file": ("nowhere.onnx", (), 2, "nowhere.onnx does not exist"),
    "no reference": ("m.onnx", ("--against", "no/run"), 2, "no/run"),
    "damaged": ("damaged.onnx", (), 2, "damaged.onnx"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_can_not_be_checked_is_one_error_of_the_junit_report(
    name, job, invoke, tmp_path
):
    (job / "damaged.onnx").write_bytes((job / "m.onnx").read_bytes()[:3000])
    model, options, code, words = BROKEN[name]
    junit = tmp_path / "report.xml"
    html = tmp_path / "report.html"
    junit.write_text("old")
    html.write_text("old")
    reports = ("--junit", junit, "--html", html)
    got, _, err = invoke("validate", job / model, *options, *reports)
    assert got == code
    assert words in err
    (case,) = ET.parse(junit).findall("testsuite/testcase")
    assert case.get("name") == model
    (error,) = case.findall("error")
    assert words in error.get("message")
    assert html.read_text() == "old"


def test_earlier_reports_stay_until_there_are_new_ones(
    job, invoke, tmp_path, monkeypatch
):
    junit = tmp_path / "report.xml"
    junit.write_text("old")

    def stop(*_, **__):
        assert junit.read_text() == "old"
        raise KeyboardInterrupt

    monkeypatch.setattr("lstm_edge_exporters.validate", stop)
    with pytest.raises(KeyboardInterrupt):
        invoke("validate", job / "m.onnx", "--junit", junit)
    assert junit.read_text() == "old"
