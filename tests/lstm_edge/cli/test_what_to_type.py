"""A slip on the command line is one line that suggests the right command."""

import numpy as np
import pytest

from lstm_edge.cli import main
from lstm_edge_runtime.errors import counted, install_command


@pytest.fixture
def folder(tmp_path, har, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for name in ("model.safetensors", "resume.safetensors", "metrics.json"):
        (tmp_path / "run" / name).write_text("")
    (tmp_path / "har.onnx").write_bytes(har.path.read_bytes())
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 6, 3), np.float32), y=[0, 1, 0, 1])
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("exprot run -o a.onnx", "no verb 'exprot'; did you mean 'export'?"),
        ("stream har.onnx --rate 5", "error: no option '--rate'; see lstm-edge stream --help"),
        ("train data.npz --lr 1", "no option '--lr'; did you mean '--learning-rate'?"),
        ("stream run", "run is a run folder, expected an .onnx file; run lstm-edge export run -o run.onnx"),
        ("inspect run", "run lstm-edge export run -o run.onnx"),
        ("bench run", "run lstm-edge export run -o run.onnx"),
        ("convert run -o a.lep", "run lstm-edge export run -o run.onnx"),
        ("quantize run -o a.onnx", "run lstm-edge export run -o run.onnx"),
        ("lift run -o a.onnx", "run lstm-edge export run -o run.onnx"),
        ("train run -o other", "run is a trained run, not data; run lstm-edge export run -o model.onnx"),
        ("predict har.onnx run", "run is a trained run, not data"),
        ("predict data.npz har.onnx", "is a data file, expected an .onnx file; MODEL is the first argument"),
        (
            "validate run --against har.onnx",
            "run is a run folder, expected an .onnx file; run lstm-edge export run",
        ),
        ("quantize data.npz -o a.onnx", "data.npz is a data file, expected an .onnx file"),
        ("selftest data.npz", "data.npz is a data file, expected an .onnx file"),
        ("quantize har.onnx -o a.pt", "a.pt is not named .onnx; use -o a.onnx"),
        ("lift har.onnx -o a", "a is not named .onnx; use -o a.onnx"),
    ],
)
def test_a_slip_suggests_the_right_command(folder, words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lstm-edge", *words.split()])
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert sorted(folder.rglob("*")) == before


def test_one_is_singular():
    assert [counted(count, "sample") for count in (0, 1, 2000)] == ["0 samples", "1 sample", "2,000 samples"]
    assert counted(2, "series") == "2 series"


def test_a_hint_names_the_package_of_an_extra():
    assert install_command("cpu") == 'pip install "lstm-edge-runtime[cpu]"'
    assert install_command("report") == 'pip install "lstm-edge[report]"'
