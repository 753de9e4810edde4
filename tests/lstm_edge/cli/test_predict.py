import csv
import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lstm_edge.checkpoint import Run, deployable
from lstm_edge.data.sample_input import SampleInput
from lstm_edge.lstm1 import LSTM1
from lstm_edge.results import result_names
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Manifest, StateSpec, Task, TensorSpec, Trained

DATA = Path(__file__).parents[2] / "runtime" / "data"
X = np.random.default_rng(1).normal(size=(5, 9, 3)).astype(np.float32)
LENGTHS = np.array([9, 4, 9, 1, 4])


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, x=X, lengths=LENGTHS)
    return path


def test_csv_gives_each_series_what_running_it_alone_gives(invoke, har, data):
    code, out, _ = invoke("predict", har.path, data)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["series"] for row in rows] == ["0", "1", "2", "3", "4"]
    model = load(har.path)
    for row, x, length in zip(rows, X, LENGTHS, strict=True):
        alone = model.predict(x[None, :length])
        assert row["label"] == alone.labels[0]
        shares = [float(row[f"p_{label}"]) for label in ("rest", "walk", "run, fast")]
        np.testing.assert_allclose(shares, alone.probabilities[0], rtol=1e-5, atol=1e-7)


def test_a_file_of_one_step_takes_every_step_of_a_series(invoke, data):
    code, out, err = invoke("predict", DATA / "step.onnx", data)
    assert code == 0, err
    rows = list(csv.reader(io.StringIO(out)))[1:]
    assert [row[:2] for row in rows] == [
        [str(i), str(n)] for i in range(5) for n in range(1, LENGTHS[i] + 1)
    ]
    expected = []
    for x, length in zip(X, LENGTHS, strict=True):
        stream = load(DATA / "step.onnx").stream()
        expected += [np.ravel(stream.step(step)) for step in x[:length]]
    np.testing.assert_allclose(
        np.array([row[2:] for row in rows], float), expected, rtol=1e-6
    )


def test_data_of_another_width_is_refused_with_the_names_of_its_features(
    invoke, tmp_path
):
    path = tmp_path / "d.csv"
    path.write_text("left,right\n0.5,1.5\n2.5,0.5\n")
    code, _, err = invoke("predict", DATA / "step.onnx", path)
    assert code == 2
    assert "got 2 features (left, right), expected 3" in err


def test_json_lines_say_the_same_as_csv_and_land_in_the_named_file(
    invoke, har, data, tmp_path
):
    target = tmp_path / "out.jsonl"
    code, out, _ = invoke("predict", har.path, data, "--json", "-o", target)
    assert (code, out) == (0, "")
    documents = [json.loads(line) for line in target.read_text().splitlines()]
    _, text, _ = invoke("predict", har.path, data)
    assert [d["label"] for d in documents] == [
        row["label"] for row in csv.DictReader(io.StringIO(text))
    ]
    assert sum(documents[0]["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert documents[3]["series"] == "3"


def test_a_csv_of_series_gives_what_the_same_arrays_give(invoke, har, tmp_path):
    path = tmp_path / "d.csv"
    lines = ["who,t,az,ax,ay,label"]
    for series in (0, 2):
        for step in reversed(range(9)):
            a, b, c = map(float, X[series, step])
            lines.append(f"s{series},{step},{c!r},{a!r},{b!r},walk")
    path.write_text("\n".join(lines))
    code, out, _ = invoke(
        "predict", har.path, path, "--series", "who", "--order", "t", "--json"
    )
    assert code == 0
    got = [json.loads(line) for line in out.splitlines()]
    assert [row["series"] for row in got] == ["s0", "s2"]
    expected = load(har.path).predict(X[[0, 2]]).probabilities
    np.testing.assert_allclose(
        [list(row["probabilities"].values()) for row in got], expected, atol=1e-6
    )


def test_values_are_headed_by_their_own_names(invoke, make, data):
    made = make("values", task="regression")
    code, out, _ = invoke("predict", made.path, data)
    assert code == 0
    assert out.splitlines()[0] == "series,value_0 [m],value_1 [m/s],value_2 [kg]"
    values = load(made.path).run(X[2:3])[0]["logits"][0]
    assert out.splitlines()[3].split(",")[1:] == list(map(str, values))
    task = Task("regression", "logits", ("way", "speed", "load"), ("m", "m/s", ""))
    assert result_names(task, 3) == ["way [m]", "speed [m/s]", "load"]


def declared(axes, batch="N", sequence="L", *, more=()):
    inputs = (TensorSpec("x", "float32", axes), *more)
    states = (StateSpec("h_0", "h_n", "float32", (1, "N", 8)),)
    contract = Manifest(
        inputs=inputs, outputs=(), states=states, batch=batch, sequence=sequence
    )
    return SimpleNamespace(manifest=contract)


@pytest.mark.parametrize(
    ("axes", "batch", "sequence", "expected", "batched"),
    [
        (("N", "L", 3), "N", "L", (2, 4, 3), True),
        (("L", "N", 3), "N", "L", (4, 2, 3), True),
        ((1, "L", 3), None, "L", (2, 4, 3), False),
        (("N", 4, 3), "N", None, (2, 4, 3), True),
        (("L", 3), None, "L", (4, 3), False),
        (("N", 3, "L"), "N", "L", (2, 3, 4), True),
        ((2, 4, 3), None, None, (2, 4, 3), False),
        ((1, 3, "L"), None, "L", (2, 3, 4), False),
        ((3, "L"), None, "L", (3, 4), False),
    ],
)
def test_series_are_laid_out_as_the_files_axes_ask(
    axes, batch, sequence, expected, batched
):
    sample_input = SampleInput(declared(axes, batch, sequence))
    rows = list(np.random.default_rng(2).normal(size=(2, 4, 3)))
    array = sample_input.arrange(rows)
    assert array.shape == expected
    assert (sample_input.width, sample_input.batched) == (3, batched)
    if expected == (4, 2, 3):
        np.testing.assert_array_equal(array[:, 1], rows[1])


@pytest.mark.parametrize(
    "model",
    [
        declared(("N", "L", "I")),
        declared((1, 2, "L", 3), batch=None),
        declared(("N", "L", 3, 3)),
        declared(("N", "L", 3), more=(TensorSpec("y", "float32", ("N", 2)),)),
    ],
)
def test_inputs_that_hold_no_plain_samples_are_refused(model):
    with pytest.raises(InputError, match=r"load\(\)"):
        SampleInput(model)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("p.json", [], "p.json would contain CSV; add --json, or use -o"),
        ("p.csv", ["--json"], "p.csv would contain JSON Lines; remove --json"),
    ],
)
def test_a_file_whose_name_ends_in_another_format_is_refused(
    invoke, har, data, tmp_path, name, options, message
):
    code, _, err = invoke("predict", har.path, data, "-o", tmp_path / name, *options)
    assert (code, message in err, (tmp_path / name).exists()) == (2, True, False)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_plot_has_a_row_per_series(invoke, make, data, tmp_path, task):
    path = make("plotted", task=task).path
    target = tmp_path / "p.png"
    code, out, _ = invoke("predict", path, data, "--plot", target)
    assert (code, len(out.splitlines())) == (0, 6)
    content = target.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (640, 5 * 240)
    code, _, err = invoke("predict", path, data, "--plot", tmp_path / "p.pdf")
    assert (code, "is not named .png; use --plot p.png" in err) == (2, True)


class Shorter(torch.nn.Module):
    """A waveform of every fourth sample, ``(N, L//4)``: no frames of steps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv1d(1, 1, 4, 4)

    def forward(self, x):
        return self.conv(x[:, None])[:, 0]


@pytest.mark.system
def test_an_output_of_variable_width_is_refused_not_one_line_of_many_columns(
    invoke, tmp_path
):
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    export(Shorter().eval(), x, ExportConfig(inputs={"x": ("N", "L")})).save(
        tmp_path / "shorter.onnx"
    )
    np.save(tmp_path / "x.npy", np.zeros((1, 16, 1), np.float32))
    code, out, err = invoke("predict", tmp_path / "shorter.onnx", tmp_path / "x.npy")
    assert (code, out) == (2, "")
    assert "last axis is neither time steps nor a fixed number of values" in err


def test_a_stacked_readout_gives_the_top_layer(invoke, tmp_path):
    torch.manual_seed(0)
    run = Run(LSTM1(3, 3, 8, 2, 9).eval())
    export(*deployable(run)).save(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X[:2])
    code, out, _ = invoke("predict", tmp_path / "m.onnx", tmp_path / "d.npz")
    with torch.no_grad():
        expected = run.model(torch.from_numpy(X[:2]))[2:]
    got = [row[1:] for row in csv.reader(io.StringIO(out))][1:]
    np.testing.assert_allclose(np.array(got, float), expected, atol=1e-6)
    assert code == 0


@pytest.mark.parametrize("name", ["late", "strided"])
def test_a_file_with_a_delay_or_a_unit_is_refused(invoke, name, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 32, 3), np.float32))
    code, _, err = invoke("predict", DATA / f"{name}.onnx", tmp_path / "x.npz")
    assert code == 1 or code == 2
    assert "which predict does not support; use lstm-edge stream" in err


def test_a_model_of_windows_gives_every_row_from_the_first_full_window_on(
    invoke, make, tmp_path
):
    path = make("from_reset", trained=Trained(False, 6, 1.0)).path
    np.savez(tmp_path / "d.npz", x=X, lengths=LENGTHS)
    code, out, err = invoke("predict", path, tmp_path / "d.npz")
    model = load(path)
    expected = []
    for name, (x, length) in enumerate(zip(X, LENGTHS, strict=True)):
        for end in range(min(6, length), length + 1):
            window = x[None, max(0, end - 6) : end]
            answer = model.predict(window)
            shares = [str(share) for share in answer.probabilities[0]]
            expected.append([str(name), str(end), answer.labels[0], *shares])
    assert [row[:3] for row in csv.reader(io.StringIO(out))][1:] == [
        row[:3] for row in expected
    ]
    np.testing.assert_allclose(
        [list(map(float, row[3:])) for row in list(csv.reader(io.StringIO(out)))[1:]],
        [list(map(float, row[3:])) for row in expected],
        atol=1e-6,
    )
    assert (code, "computed in a window of 6 steps" in err) == (0, True)
    np.savez(tmp_path / "d.npz", x=X[:, :6])
    assert invoke("predict", path, tmp_path / "d.npz")[2] == ""


class EveryStep(torch.nn.Module):
    """A result at every step."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = torch.nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


@pytest.mark.system
def test_a_model_of_windows_with_a_result_per_step_gives_each_row_once(
    invoke, tmp_path
):
    network = EveryStep().eval()
    config = ExportConfig(
        task=Task("regression", "output"), trained=Trained(False, 4, 1.0)
    )
    export(network, torch.from_numpy(X), config).save(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X[:1])
    code, out, err = invoke("predict", tmp_path / "m.onnx", tmp_path / "d.npz")
    assert code == 0, err
    rows = list(csv.reader(io.StringIO(out)))[1:]
    assert [row[:2] for row in rows] == [["0", str(step)] for step in range(1, 10)]
    with torch.no_grad():
        windows = [network(torch.from_numpy(X[:1, i : i + 4]))[0] for i in (0, 4, 5)]
    expected = np.concatenate([windows[0], windows[1], windows[2][-1:]])
    np.testing.assert_allclose(
        np.array([row[2:] for row in rows], float), expected, atol=1e-6
    )


def test_a_plot_shows_the_label_over_the_steps_that_it_is_of(
    invoke, har, data, tmp_path
):
    from matplotlib.image import imread

    code, *_ = invoke("predict", har.path, data, "--plot", tmp_path / "p.png")
    assert code == 0
    pixels = imread(tmp_path / "p.png")[..., :3]
    is_colored = (np.ptp(pixels[:240], axis=2) > 0.1).mean(axis=0) > 0.5
    (columns,) = np.nonzero(is_colored)
    assert columns.min() < 100
    assert columns.max() > 540


def test_a_plot_that_can_not_be_made_loses_no_results(
    invoke, har, data, tmp_path, monkeypatch
):
    line = (
        "predict",
        har.path,
        data,
        "-o",
        tmp_path / "o.csv",
        "--plot",
        tmp_path / "p.png",
    )
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "lstm_edge.report.predictions", None)
        patch.setattr(
            "lstm_edge.cli.predict._predict", lambda *_: pytest.fail("it ran")
        )
        with pytest.raises(ModuleNotFoundError):
            invoke(*line)

    def fail(*_):
        raise InputError("no space")

    monkeypatch.setattr("lstm_edge.report.predictions.write_plot", fail)
    assert invoke(*line)[0] == 2
    assert (tmp_path / "o.csv").stat().st_size
