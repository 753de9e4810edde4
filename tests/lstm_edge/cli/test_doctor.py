"""``lstm-edge doctor``: installed and missing packages, and the commands that install
them."""

import json
import subprocess
import sys

import onnxruntime
import pytest

from lstm_edge_runtime.errors import install_command


def table(out):
    return {row["about"]: row for row in json.loads(out)}


def run(setup, *arguments):
    """Run ``doctor`` in a process that begins with ``setup``."""
    program = f"import sys; {setup}\nfrom lstm_edge.cli import main; main()"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_names_versions_providers_and_processor(invoke):
    code, out, err = invoke("doctor", "--json")
    rows = table(out)
    assert (code, err) == (0, "")
    for words in (onnxruntime.__version__, *onnxruntime.get_available_providers()):
        assert words in rows["onnxruntime"]["found"]
    assert rows["onnxruntime"]["advice"] == ""
    assert "torch" in rows["export"]["found"]
    assert "CPUExecutionProvider" in invoke("doctor")[1]


def test_two_wheels_that_overwrite_each_other_are_named(invoke, monkeypatch):
    both = {"onnxruntime": ["onnxruntime-gpu", "onnxruntime"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: both)
    rows = table(invoke("doctor", "--json")[1])
    assert "pip uninstall onnxruntime onnxruntime-gpu" in rows["onnxruntime"]["advice"]


def test_without_engines_and_torch_it_exits_1_and_names_the_extras():
    ran = run(
        "from importlib import util; find = util.find_spec\nsys.modules['onnxruntime']"
        " = sys.modules['lstm_edge_native'] = None\nutil.find_spec = lambda name: None"
        " if name in ('torch', 'onnx', 'jinja2') else find(name)",
        "doctor",
        "--json",
    )
    rows = table(ran.stdout)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: no model can run on this machine")
    assert "pip install" in rows["onnxruntime"]["advice"]
    assert rows["export"]["found"] == "missing: torch, onnx, jinja2"
    assert install_command("report") in rows["report"]["advice"]


@pytest.mark.parametrize(
    "package",
    ["raise ImportError('libcudart.so.12')", "raise RuntimeError('two\\nlines')"],
)
def test_a_wheel_that_does_not_start_is_named_next_to_the_rest(tmp_path, har, package):
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(package)
    setup = (
        f"sys.path.insert(0, {str(tmp_path)!r}); sys.modules['lstm_edge_native'] = None"
    )
    ran = run(setup, "doctor", "--json")
    rows = table(ran.stdout)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "does not start" in rows["onnxruntime"]["found"]
    assert "pip install" in rows["onnxruntime"]["advice"]
    ran = run(setup, "selftest", har.path)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ran.stderr.startswith("error: onnxruntime does not start")


def test_a_missing_package_is_named_with_its_extra(tmp_path):
    for package, words, extra in (
        ("torch", ["export", tmp_path, "-o", "m.onnx"], "export"),
        ("jinja2", ["validate", "m.onnx", "--html", tmp_path / "r.html"], "report"),
    ):
        ran = run(f"sys.modules[{package!r}] = None", *words)
        assert ran.returncode == 2
        assert ran.stderr.endswith(
            f"needs {package}, which is not installed; {install_command(extra)}\n"
        )
