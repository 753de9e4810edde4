import subprocess
import sys

import pytest

import lstm_edge
from lstm_edge_runtime.errors import install_command


def run(*command, **options):
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=True,
        **options,
    )


def test_every_public_name_is_there_and_no_other():
    for name in lstm_edge.__all__:
        assert getattr(lstm_edge, name) is not None
        assert name in dir(lstm_edge)
    assert callable(lstm_edge.train)
    with pytest.raises(
        AttributeError, match="module 'lstm_edge' has no attribute 'Tutorial'"
    ):
        lstm_edge.Tutorial  # noqa: B018


def test_importing_the_package_imports_no_torch():
    program = (
        "import lstm_edge, sys; print([name for name in ('torch', 'onnx', 'rich') if"
        " name in sys.modules])"
    )
    assert run("-I", "-c", program).stdout.strip() == "[]"


def test_help_works_without_torch_and_imports_no_verb():
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx',"
        " 'onnxruntime']));sys.argv = ['lstm-edge', '--help'];\nfrom lstm_edge.cli"
        " import main\ntry: main()\nfinally: print(*[name for name in sys.modules if"
        " 'lstm_edge.cli.' in name], file=sys.stderr)"
    )
    shown = run("-I", "-c", program)
    assert "Usage: lstm-edge" in shown.stdout
    assert [name for name in shown.stderr.split() if ".cli._" not in name] == []


def test_a_verb_that_needs_torch_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(
        f"{index},{step},{'ab'[index % 2]}\n"
        for index in range(60)
        for step in range(2)
    )
    (tmp_path / "data.csv").write_text("series,ax,label\n" + rows)
    for verb in (["train", "data.csv", "-o", "run"], ["demo"]):
        program = (
            "import sys; sys.modules['torch'] = None; sys.argv = ['lstm-edge',"
            " *sys.argv[1:]];from lstm_edge.cli import main; main()"
        )
        shown = subprocess.run(
            [sys.executable, "-I", "-c", program, *verb],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert shown.returncode == 2
        assert (
            shown.stderr
            == f"error: lstm-edge {verb[0]} needs torch, which is not installed;"
            f" {install_command('export')}\n"
        )
