"""Validating int8 files: what the gate let pass stands, and faults are still found."""

import numpy as np
import onnx
import pytest
import torch

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import export
from lstm_edge_exporters.quantization import Samples, quantize
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_exporters.validate.subject import Subject
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Task

from .faults import change, forget_state_output, ignore_state_input, recurrent, run_backwards, swap_states

SETTINGS = {"steps": 1000, "quick": True}
GAIN = 6.0


@pytest.fixture(scope="module")
def switching(tmp_path_factory):
    """Make a network of saturated units that switch, its int8 file, and samples of unequal loudness."""
    torch.manual_seed(0)
    network = LSTM1(4, 6, 32, 1, 20).eval()
    with torch.no_grad():
        network.lstm.weight_hh_l0 *= GAIN
        network.lstm.weight_ih_l0 *= GAIN
    run = Run(network, task=Task("classification", "logits", tuple("abcd")))
    module, example, config = deployable(run)
    folder = tmp_path_factory.mktemp("switching")
    export(module, example, config).save(folder / "float.onnx")
    rng = np.random.default_rng(0)
    loudness = rng.choice([0.1, 1.0, 5.0], size=(60, 1, 1))
    x = (rng.normal(size=(60, 20, 6)) * loudness).astype(np.float32)
    data = Samples({"x": x})
    made = quantize(folder / "float.onnx", samples=data)
    made.save(folder / "int8.onnx", force=True)
    return module, example, folder / "int8.onnx", data, made


def judged(switching, path, **options):
    module, example, *_ = switching
    file = open_file(path)
    return validate(file, against_module(module, file, example), ValidateConfig(**(SETTINGS | options)))


@pytest.mark.system
@pytest.mark.parametrize("with_data", [False, True])
def test_what_the_gate_let_pass_is_valid(switching, with_data):
    """Loud batch mates widen the range that quiet ones share; a unit that switches early is far off once."""
    _, _, path, data, _ = switching
    report = judged(switching, path, quick=False, data=data if with_data else None)
    assert report.ok, report.headlines


@pytest.mark.system
def test_the_long_run_on_the_data_is_the_gates_own(switching):
    _, _, path, data, made = switching
    report = judged(switching, path, data=data)
    (check,) = [each for group in report.groups for each in group.checks if "steps of the data" in each.name]
    drift = made.judgement.drift
    nearest = max(drift.values(), key=lambda each: each.share)
    assert check.worst.ratio == pytest.approx(nearest.share / 0.1, rel=0.15)


@pytest.mark.system
def test_the_long_run_on_the_data_has_no_padding_and_no_row_that_ends_early(made):
    one, rng = made("plain"), np.random.default_rng(0)
    x, lengths = rng.normal(size=(6, 9, 6)).astype(np.float32), np.array([4, 9, 1, 7, 9, 2])
    file = open_file(one.path)
    reference = against_module(one.module, file, one.example)
    config = ValidateConfig(data=Samples({"x": x}, lengths=lengths))
    feeds = Subject(file, reference, config).timeline(50)
    valid = np.concatenate([row[:length] for row, length in zip(x, lengths, strict=True)])
    # samples of one length stand together
    assert sorted(map(tuple, feeds["x"][0][: len(valid)])) == sorted(map(tuple, valid))
    assert feeds["x"].shape == (1, 50, 6)
    assert feeds["lengths"].tolist() == [50]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Samples({"y": np.zeros((2, 9, 6), np.float32)}), r"the data has \['y'\], the file takes \['x'\]"),
        (Samples({"x": np.full((2, 9, 6), np.nan, np.float32)}), "x holds NaN or infinity"),
        (Samples({"x": np.zeros((2, 6), np.float32)}), r"expected \(samples, L, 6\)"),
        (Samples({"x": np.zeros((2, 9, 6))}, lengths=np.array([9, 10])), r"lengths holds 9\.\.10"),
    ],
    ids=["name", "nan", "rank", "lengths"],
)
def test_data_that_does_not_fit_the_file_is_refused_as_quantize_refuses_it(made, data, message):
    one = made("plain")
    file = open_file(one.path)
    reference = against_module(one.module, file, one.example)
    with pytest.raises(InputError, match=message):
        Subject(file, reference, ValidateConfig(data=data)).timeline(50)


def swap_gates(model):
    """Input and forget gates change places, in the weights and in the bias."""
    order = [2, 1, 0, 3]

    def columns(weights):  # (directions, inputs, gates * hidden)
        return weights.reshape(*weights.shape[:2], 4, -1)[:, :, order].reshape(weights.shape)

    def rows(bias):
        return bias.reshape(bias.shape[0], 2, 4, -1)[:, :, order].reshape(bias.shape)

    change(model, recurrent(model).input[1], columns)
    change(model, recurrent(model).input[2], columns)
    change(model, recurrent(model).input[3], rows)


def double_recurrent_scale(model):
    change(model, recurrent(model).input[10], lambda array: array * 2)


def drop_bias(model):
    change(model, recurrent(model).input[3], np.zeros_like)


FAULTS = (
    swap_gates,
    double_recurrent_scale,
    drop_bias,
    forget_state_output,
    ignore_state_input,
    swap_states,
    run_backwards,
)


@pytest.mark.system
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("with_data", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_faults_are_found_beyond_the_golden_case(switching, tmp_path, fault, with_data):
    _, _, path, data, _ = switching
    model = onnx.load(path)
    fault(model)
    onnx.save(model, tmp_path / "faulty.onnx")
    report = judged(switching, tmp_path / "faulty.onnx", data=data if with_data else None)
    failed = {group.key for group in report.groups if any(each.status == "failed" for each in group.checks)}
    assert failed - {"golden", "contract"}, "only the golden case shows it"
