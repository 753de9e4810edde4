"""``lstm-edge convert`` and ``lstm-edge export --format ort``: ORT format, its operators, and refusals."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, save
from lstm_edge_exporters.targets.ort import to_ort
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError


@pytest.fixture(scope="module")
def converted(har):
    """The ``har`` file in ORT format."""
    return to_ort(har.path)


def test_an_ort_file_carries_the_manifest_and_passes_its_self_test(har, converted):
    before, after = load(har.path), load(converted.model)
    assert after.manifest.to_json() == before.manifest._replace(identity=before.identity).to_json()
    assert after.selftest().ok


def test_states_move_between_an_onnx_file_and_its_ort_form(har, converted):
    before, after = load(har.path), load(converted.model)
    assert after.identity == before.identity == before.sha256 != after.sha256
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    whole = before.stream().process(x)
    for first, second in ((before, after), (after, before)):
        stream, other = first.stream(), second.stream()
        stream.process(x[:4])
        other.restore(stream.state)
        np.testing.assert_allclose(other.process(x[4:]), whole, atol=1e-5)


def test_a_file_with_external_data_is_converted_with_the_identity_of_both(har, tmp_path):
    onnx.save(
        onnx.load(har.path), tmp_path / "m.onnx",
        save_as_external_data=True, location="sub.data", size_threshold=100,
    )  # fmt: skip
    content = (tmp_path / "m.onnx").read_bytes() + (tmp_path / "sub.data").read_bytes()
    after = load(to_ort(tmp_path / "m.onnx").model)
    assert after.identity == load(tmp_path / "m.onnx").identity == hashlib.sha256(content).hexdigest()


def test_the_operators_config_names_what_the_file_runs_and_nothing_of_this_machine(converted):
    lines = converted.operators.splitlines()
    assert any(line.startswith("ai.onnx;") and "LSTM" in line for line in lines)
    assert not any("/" in line or line.startswith("#") for line in lines)


def test_convert_writes_both_files(invoke, har, tmp_path):
    output = tmp_path / "har.ort"
    code, out, _ = invoke("convert", har.path, "-o", output, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["bytes"]["after"] == output.stat().st_size
    config = tmp_path / "har.required_operators_and_types.config"
    assert document["operators"] == str(config)
    assert "LSTM" in config.read_text()
    load(output)


def test_an_ort_file_runs_where_onnx_and_torch_are_not(converted, tmp_path):
    path = tmp_path / "har.ort"
    converted.save(path)
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnx_ir', 'click', 'rich']))\n"
        "from lstm_edge_runtime import load\n"
        f"model = load({str(path)!r}); model.selftest().require()\n"
        "print(model.stream().step([0, 0, 0]).shape)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "(3,)\n"), ran.stderr


def test_an_ort_file_is_not_converted_twice(converted, tmp_path):
    converted.save(tmp_path / "har.ort")
    with pytest.raises(InputError, match="already"):
        to_ort(tmp_path / "har.ort")


def test_a_truncated_file_is_refused(har):
    with pytest.raises(FileFormatError):
        to_ort(har.path.read_bytes()[:500])


@pytest.mark.parametrize("output", ["har.onnx", "har", "no/folder/har.ort"])
def test_a_wrong_output_exits_2_and_writes_nothing(invoke, har, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    code, out, _ = invoke("convert", har.path, "-o", output)
    assert (code, out) == (2, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("form", "output"), [("ort", "m.onnx"), ("onnx", "m.ort")])
def test_export_refuses_a_format_that_does_not_fit_the_name(invoke, tmp_path, form, output):
    code, _, err = invoke("export", "nowhere", "-o", tmp_path / output, "--format", form)
    assert code == 2
    assert ".ort" in err


@pytest.mark.system
def test_export_writes_ort_format_and_its_operators(invoke, tmp_path):
    torch.manual_seed(0)
    save(Run(LSTM1(3, 4, 8, 1, 5)), tmp_path / "run")
    output = tmp_path / "m.ort"
    code, out, _ = invoke("export", tmp_path / "run", "-o", output, "--format", "ort", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["bytes"] == output.stat().st_size
    assert "LSTM" in (tmp_path / "m.required_operators_and_types.config").read_text()
    assert output.read_bytes()[4:8] == b"ORTM"
    assert load(output).selftest().ok


def test_a_file_of_any_name_is_converted_wherever_it_runs(invoke, har, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise SystemExit('taken')")
    (tmp_path / "har.bin").write_bytes(har.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("convert", "har.bin", "-o", "har.ort")
    assert code == 0, err
    assert load(tmp_path / "har.ort").selftest().ok


def test_where_one_of_the_two_files_can_not_be_written_the_other_stays(converted, tmp_path):
    (tmp_path / "har.required_operators_and_types.config").mkdir()
    (tmp_path / "har.ort").write_bytes(b"old")
    with pytest.raises(InputError, match="is a folder"):
        converted.save(tmp_path / "har.ort")
    assert (tmp_path / "har.ort").read_bytes() == b"old"
