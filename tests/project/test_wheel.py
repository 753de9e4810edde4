"""The built wheel: what is in it, and that it works where torch was never installed."""

import subprocess
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from wheels import build_wheel, make_environment, needed_names, run_program

from lstm_edge_runtime import __version__


@pytest.fixture(scope="session")
def wheel(root, tmp_path_factory) -> Path:
    return build_wheel(root, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def runtime_wheel(root, tmp_path_factory) -> Path:
    return build_wheel(root / "runtime", tmp_path_factory.mktemp("runtime"))


def test_the_base_is_light_and_an_extra_adds_to_it():
    base = {"numpy", "click", "rich"}
    assert base <= needed_names([("lstm-edge", "")])
    assert not {"torch", "onnx", "onnxruntime"} & needed_names([("lstm-edge", "")])
    assert "onnxruntime" in needed_names([("lstm-edge-runtime", "cpu")])
    assert {"torch", "onnx"} <= needed_names([("lstm-edge", "export")])


def test_every_requirement_has_one_lower_bound():
    texts = [
        *(distribution("lstm-edge").requires or []),
        *(distribution("lstm-edge-runtime").requires or []),
    ]
    requirements = [
        item for item in map(Requirement, texts) if item.name != "lstm-edge-runtime"
    ]
    bounds = {
        str(requirement): [s.operator for s in requirement.specifier].count(">=")
        for requirement in requirements
    }
    assert [text for text, count in bounds.items() if count != 1] == []


@pytest.fixture(scope="session")
def thin_python(wheel, runtime_wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheels and what ``lstm-edge[cpu]`` needs."""
    needed = needed_names([("lstm-edge", "cpu"), ("lstm-edge-runtime", "cpu")])
    return make_environment(
        tmp_path_factory.mktemp("thin"), needed, runtime_wheel, wheel
    )


@pytest.mark.parametrize(("extra", "suffix"), [("cpu", ".onnx"), ("native", ".lep")])
def test_the_runtime_alone_runs_a_file_without_what_makes_one(
    extra, suffix, runtime_wheel, root, tmp_path
):
    model = root / "tests" / "runtime" / "data" / f"lstm{suffix}"
    if extra == "native":
        pytest.importorskip("lstm_edge_native")
    needed = needed_names([("lstm-edge-runtime", extra)])
    assert not {"click", "rich", "pandas", "torch", "onnx"} & needed
    assert ("onnxruntime" in needed) == (extra == "cpu")
    python = make_environment(tmp_path / "venv", needed, runtime_wheel)
    data = tmp_path / "x.npy"
    np.save(data, np.random.default_rng(5).normal(size=(3, 12, 3)).astype(np.float32))
    assert (
        len(run_program(python, "-I", "-c", USE, model, data, cwd=tmp_path).split())
        == 3
    )


def test_both_distributions_have_the_version_that_the_one_requires_of_the_other():
    (pinned,) = (
        requirement.specifier
        for requirement in map(Requirement, distribution("lstm-edge").requires or [])
        if requirement.name == "lstm-edge-runtime" and requirement.marker is None
    )
    assert str(pinned) == f"=={__version__}"


def _names(*wheels: Path) -> set[str]:
    return {name for wheel in wheels for name in zipfile.ZipFile(wheel).namelist()}


def test_the_wheels_bring_three_import_names_typed_and_no_other(
    wheel, runtime_wheel, packages
):
    names = _names(wheel, runtime_wheel)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(packages)
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert [name for name in names if "__pycache__" in name or "/tests/" in name] == []


def test_the_wheels_hold_every_module_of_the_tree(wheel, runtime_wheel, root, modules):
    names = _names(wheel, runtime_wheel)
    containers = [root / "runtime", root / "exporters", root]
    for module in modules.values():
        home, *_ = [
            folder for folder in containers if module.path.is_relative_to(folder)
        ]
        assert module.path.relative_to(home).as_posix() in names


def test_the_command_answers_without_torch(thin_python):
    program = (
        "import importlib.util as u; print(*[n for n in ('torch', 'onnx', 'onnx_ir') if"
        " u.find_spec(n)])"
    )
    assert (
        run_program(thin_python, "-I", "-c", program, cwd=thin_python.parent).strip()
        == ""
    )
    assert "lstm-edge" in run_program(
        thin_python.with_name("lstm-edge"), "--version", cwd=thin_python.parent
    )
    assert "export" in run_program(
        thin_python.with_name("lstm-edge"), "--help", cwd=thin_python.parent
    )


USE = """
import sys, numpy as np
from lstm_edge_runtime import load
with load(sys.argv[1]) as model:
    x = np.load(sys.argv[2])
    outputs, state = model.run(x)
    stream = model.stream()
    for sample in x[0]:
        logits = stream.step(sample)
    assert np.allclose(outputs["logits"][0], logits, atol=1e-6), (outputs["logits"][0], logits)
    prediction = model.predict(x)
    assert model.selftest().ok
    print(*prediction.labels)
"""


def test_the_installed_wheel_loads_runs_streams_and_predicts(
    thin_python, root, tmp_path
):
    model = root / "tests" / "runtime" / "data" / "lstm.onnx"
    data = tmp_path / "x.npy"
    np.save(data, np.random.default_rng(5).normal(size=(3, 12, 3)).astype(np.float32))
    labels = run_program(
        thin_python, "-I", "-c", USE, model, data, cwd=tmp_path
    ).split()
    command = thin_python.with_name("lstm-edge")
    assert "logits" in run_program(command, "inspect", model, cwd=tmp_path)
    lines = run_program(command, "predict", model, data, cwd=tmp_path).splitlines()
    assert len(lines) == 1 + len(labels) == 4
    assert all(label in line for label, line in zip(labels, lines[1:], strict=True))


def test_a_verb_that_needs_torch_names_the_extra_in_one_line(thin_python, tmp_path):
    model = tmp_path / "m.onnx"
    ran = subprocess.run(
        [thin_python.with_name("lstm-edge"), "export", "net:build", "-o", model],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert 'pip install "lstm-edge[export]"' in ran.stderr
    assert not model.exists()
