"""What a file may be compared with: modules of any make, other ONNX files; and the float64 evaluation."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.testing import assert_equivalent
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_exporters.validate.reference import against_file
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError

QUICK = ValidateConfig(quick=True, steps=500)


class Tagger(nn.Module):
    """Tokens in, a label a step out; the state is absent from ``forward``."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 5)
        self.rnn = nn.GRU(5, 7, batch_first=True)
        self.out = nn.Linear(7, 3)

    def forward(self, tokens):
        y, _ = self.rnn(self.embed(tokens))
        return self.out(y)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    torch.manual_seed(0)
    module = Tagger().eval()
    path = tmp_path_factory.mktemp("tagger") / "tagger.onnx"
    tokens = torch.randint(0, 20, (3, 5))
    export(module, {"tokens": tokens}, ExportConfig(inputs={"tokens": ("N", "L")})).save(path)
    return module, path


def test_states_that_forward_does_not_take_are_found_in_the_module(tagger):
    module, path = tagger
    file = open_file(path)
    assert len(file.manifest.states) == 1
    report = validate(file, against_module(module, file), QUICK)
    assert report.ok, report.headlines
    assert next(group for group in report.groups if group.key == "streaming").status == "passed"


def test_another_network_of_the_same_form_is_told_apart(tagger):
    _, path = tagger
    torch.manual_seed(1)
    file = open_file(path)
    report = validate(file, against_module(Tagger().eval(), file), QUICK)
    (failed,) = [check for group in report.groups for check in group.failed]
    assert "torch.manual_seed" in failed.message
    assert failed is report.groups[0].checks[0]


@pytest.mark.parametrize("given", [False, True])
def test_a_module_in_bfloat16_is_a_reference(tmp_path, given):
    torch.manual_seed(0)
    module, example = nn.GRU(3, 4, batch_first=True).to(torch.bfloat16), torch.randn(2, 5, 3).bfloat16()
    export(module.eval(), example).save(tmp_path / "model.onnx")
    file = open_file(tmp_path / "model.onnx")
    reference = against_module(module, file, example if given else None)
    assert reference.examples["input"].dtype == np.float32
    assert Graph64(file.proto).run64(file.manifest.golden.inputs).keys() == (
        reference.computation.run64(file.manifest.golden.inputs).keys()
    )


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, tokens):
        return self.inner(tokens)


def test_the_same_weights_under_other_names_are_the_same_network(tagger):
    module, path = tagger
    file = open_file(path)
    assert validate(file, against_module(Wrapped(module).eval(), file), QUICK).ok


class SelectsTheLast(nn.Module):
    """Lengths only pick a step of the output: padding passes through the layer and into its last state."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, lengths):
        y, _ = self.rnn(x)
        return y[torch.arange(x.size(0)), lengths - 1]


def test_padding_is_compared_where_it_does_not_reach_the_reference_itself(tmp_path):
    torch.manual_seed(0)
    module, example = SelectsTheLast().eval(), (torch.randn(3, 9, 3), torch.tensor([9, 4, 2]))
    config = ExportConfig(lengths="lengths")
    export(module, example, config).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_module(module, file, example, config=config), QUICK)
    assert report.ok, report.headlines
    checks = {check.name: check for group in report.groups for check in group.checks}
    assert checks["padding of NaN"].status == "passed"


class Squeezes(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 1, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0].squeeze()


def test_no_check_runs_outside_of_the_range_of_a_batch(tmp_path):
    torch.manual_seed(0)
    module, example = Squeezes().eval(), torch.randn(2, 9, 3)
    export(module, example).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    assert str(file.manifest.ranges["N"]) == "2.."
    report = validate(file, against_module(module, file, example, config=ExportConfig()), QUICK)
    assert report.ok, report.headlines
    checks = {check.name: check for group in report.groups for check in group.checks}
    assert checks["rows of a batch are independent"].message == "a call takes 2.. rows"


class Spare(nn.Module):
    """Has a layer whose result nothing uses; its file does without."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.GRU(3, 4, batch_first=True), nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        self.spare(x)
        return self.used(x)[0]


def test_a_file_without_a_layer_that_nothing_uses_is_its_module(tmp_path):
    torch.manual_seed(0)
    module, example = Spare().eval(), torch.randn(2, 5, 3)
    export(module, example).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_module(module, file, example), QUICK)
    assert report.ok, report.headlines


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 5)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(
    ("example", "axes", "streamed"),
    [
        (torch.randn(7, 6), ("L", 6), "passed"),
        (torch.randn(7, 2, 6, dtype=torch.float64), ("L", "N", 6), "passed"),
        (torch.randn(7, 2, 6), (7, "N", 6), "skipped"),
    ],
    ids=["unbatched", "double", "one length"],
)
def test_modules_without_a_batch_of_another_dtype_or_of_one_length_are_checked_as_far_as_they_go(
    example, axes, streamed, tmp_path
):
    torch.manual_seed(0)
    example = torch.randn_like(example)
    module = Plain().to(example.dtype).eval()
    export(module, example, ExportConfig(inputs={"x": axes})).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_module(module, file), QUICK)
    assert report.ok, report.headlines
    status = {group.key: group.status for group in report.groups}
    assert (status["sizes"], status["states"], status["streaming"]) == ("passed", "passed", streamed)


class Packed(Plain):
    def forward(self, x, lengths):
        return self.rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))[1][0]


def test_lengths_of_int32_are_given_as_such(tmp_path):
    module, example = Packed().eval(), (torch.randn(7, 2, 6), torch.tensor([3, 7], dtype=torch.int32))
    export(module, example).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_module(module, file, example), QUICK)
    assert report.ok, report.headlines
    assert all(group.status == "passed" for group in report.groups if group.key != "decisions")


def test_a_module_that_takes_other_inputs_fails_by_name(made):
    one = made("plain")
    file = open_file(one.path)
    report = validate(file, against_module(one.module, file, one.example[:3]), QUICK)
    assert "lengths" in next(check.message for check in report.groups[0].failed if check.name == "inputs")
    assert {group.status for group in report.groups[1:-1]} == {"skipped"}


def test_a_module_whose_parameters_are_not_in_the_file_needs_an_example(made):
    with pytest.raises(InputError, match="give an example"):
        against_module(nn.Linear(2, 2), open_file(made("plain").path))


@pytest.mark.parametrize("form", ["plain", "stacked"])
def test_a_file_equals_itself_and_not_another_one(form, made):
    file = open_file(made(form).path)
    assert validate(file, against_file(file.path), QUICK).ok
    other = {"plain": "both_ways", "stacked": "square"}[form]
    assert not validate(file, against_file(made(other).path), QUICK).ok


def test_a_quantized_file_is_no_reference(made):
    model = onnx.load(made("stacked").path)
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(
        UnsupportedError, match=r"com.microsoft::\w+ of the file can't be evaluated in float64"
    ):
        Graph64(model)


@pytest.mark.system
def test_assert_equivalent_passes_a_good_file_and_shows_the_worst_element_of_a_bad_one(made, tmp_path):
    one = made("stacked")
    assert assert_equivalent(one.module, one.path, one.example).ok
    model = onnx.load(one.path)
    bias = next(each for each in model.graph.initializer if each.name.endswith("fc.bias"))
    spoilt = onnx.numpy_helper.to_array(bias) + np.float32([0, 0, 0.5, 0])
    bias.CopyFrom(onnx.numpy_helper.from_array(spoilt, bias.name))
    onnx.save(model, tmp_path / "spoilt.onnx")
    with pytest.raises(AssertionError, match=r"logits\[.*\] differs by 0\.5 at \[\d+, 2\]") as caught:
        assert_equivalent(one.module, tmp_path / "spoilt.onnx", one.example)
    assert isinstance(caught.value, CheckFailedError)
    assert "Sizes, N=" in str(caught.value)


def test_assert_equivalent_says_first_and_alone_that_the_module_has_other_weights(made):
    one = made("stacked")
    wrong = copy.deepcopy(one.module)
    with torch.no_grad():
        wrong.model.fc.bias[2] += 0.5
    with pytest.raises(AssertionError, match=r"logits\[.*\] differs by 0\.5 at \[\d+, 2\]") as caught:
        assert_equivalent(wrong, one.path, one.example)
    _, *said = str(caught.value).splitlines()
    assert len(said) == 1
    assert "the file was exported with other weights" in said[0]


@pytest.mark.parametrize("example", [None, torch.zeros(3, 5, 6)])
def test_a_module_of_another_width_is_no_failed_check_but_a_wrong_input(tmp_path, example):
    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.gru = nn.GRU(width, 5, batch_first=True)

        def forward(self, x):
            return self.gru(x)[1][-1]

    export(Net(4).eval(), torch.zeros(3, 5, 4)).save(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"compare the file with the module that it was exported from"):
        assert_equivalent(Net(6).eval(), tmp_path / "m.onnx", example)
