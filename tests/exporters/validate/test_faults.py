"""What validation is for: each fault that people really make is found, in the group that it belongs to."""

import re

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.manifest import Manifest

from .faults import change, forget_state_output, ignore_state_input, recurrent, run_backwards, swap_states


def gates(array, count=4):
    """View ``(D, count*H, ...)`` as ``(D, count, H, ...)``."""
    return array.reshape(array.shape[0], count, -1, *array.shape[2:])


def swap_gates(model):
    _, w, r, b = recurrent(model).input[:4]
    for name, count in ((w, 4), (r, 4), (b, 8)):
        order = [2, 1, 0, 3, *([6, 5, 4, 7] if count == 8 else [])]
        change(
            model,
            name,
            lambda array, count=count, order=order: gates(array, count)[:, order].reshape(array.shape),
        )


def drop_recurrent_bias(model):
    change(
        model,
        recurrent(model).input[3],
        lambda b: np.concatenate([b[:, : b.shape[1] // 2], 0 * b[:, b.shape[1] // 2 :]], 1),
    )


def drop_head_bias(model):
    node = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
    change(model, node.input[2], np.zeros_like)


def nudge_forget_gate(model):
    def nudge(b):
        gates(b, 8)[:, 2] += 1e-4
        return b

    change(model, recurrent(model).input[3], nudge)


def nudge_one_forget_unit(model):
    def nudge(b):
        gates(b, 8)[:, 2, 5] += 1e-4
        return b

    change(model, recurrent(model).input[3], nudge)


def swap_directions(model):
    _, w, r, b = recurrent(model).input[:4]
    for name in (w, r, b):
        change(model, name, lambda array: array[::-1])


def bake_length(model):
    """Only the five traced steps are read."""
    bounds = {"start": [0], "end": [5], "axis": [1]}
    for name, value in bounds.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"baked_{name}"))
    rename_input(model, "x", "baked")
    model.graph.node.insert(
        0, helper.make_node("Slice", ["x", "baked_start", "baked_end", "baked_axis"], ["baked"])
    )


def bake_shape(model):
    """The sequence is reshaped to the traced length, so that other lengths do not run at all."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 5, 6], np.int64), "baked_shape"))
    rename_input(model, "x", "baked")
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "baked_shape"], ["baked"]))


def shorten_lengths(model):
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "one"))
    rename_input(model, "lengths", "shorter")
    model.graph.node.insert(0, helper.make_node("Sub", ["lengths", "one"], ["less"]))
    model.graph.node.insert(1, helper.make_node("Max", ["less", "one"], ["shorter"]))


def ignore_lengths(model):
    recurrent(model).input[4] = ""


def transpose_projection(model):
    """Each gate's ``W_hh @ W_hr`` stands the wrong way round."""
    change(model, recurrent(model).input[2], lambda r: np.swapaxes(gates(r), 2, 3).reshape(r.shape))


def transpose_head(model):
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    change(model, node.input[1], np.transpose)


def round_to_half(model):
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            change(model, tensor.name, lambda array: array.astype(np.float16))


def mix_rows(model):
    """Each row gets a thousandth of the batch's mean."""
    for name, value in (("rows", np.array([0], np.int64)), ("little", np.float32(1e-3))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    rename_input(model, "x", "mixed")
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["x", "rows"], ["mean"]))
    model.graph.node.insert(1, helper.make_node("Mul", ["mean", "little"], ["share"]))
    model.graph.node.insert(2, helper.make_node("Add", ["x", "share"], ["mixed"]))


def leak_padding(model):
    """Nothing times the sum of everything, padding included: only NaN shows it."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "clean"
    model.graph.node.append(helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0))
    model.graph.node.append(helper.make_node("Mul", ["total", "nothing"], ["leak"]))
    model.graph.node.append(helper.make_node("Add", ["clean", "leak"], ["logits"]))


def rename_input(model, name, new):
    """Let every reader of a graph input read ``new`` instead."""
    for node in model.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = new


FAULTS = {
    "gate order swapped": ("plain", swap_gates, "sizes"),
    "recurrent bias dropped": ("plain", drop_recurrent_bias, "sizes"),
    "head bias dropped": ("plain", drop_head_bias, "sizes"),
    "forget gate off by 1e-4": ("plain", nudge_forget_gate, "sizes"),
    "one forget unit of 128 off by 1e-4": ("square", nudge_one_forget_unit, "sizes"),
    "state output not carried": ("plain", forget_state_output, "streaming"),
    "state input ignored": ("plain", ignore_state_input, "states"),
    "h and c exchanged": ("plain", swap_states, "states"),
    "wrong direction": ("stacked", run_backwards, "streaming"),
    "directions exchanged": ("both_ways", swap_directions, "sizes"),
    "length baked in": ("plain", bake_length, "sizes"),
    "shape baked in": ("stacked", bake_shape, "sizes"),
    "lengths off by one": ("plain", shorten_lengths, "lengths"),
    "lengths ignored": ("both_ways", ignore_lengths, "lengths"),
    "projection transposed": ("projected", transpose_projection, "sizes"),
    "head transposed": ("square", transpose_head, "sizes"),
    "rows of a batch mixed": ("stacked", mix_rows, "states"),
    "padding leaks": ("plain", leak_padding, "lengths"),
    "fp16 rounding passed off as fp32": ("plain", round_to_half, "sizes"),
}
QUICK = ("gate order swapped", "forget gate off by 1e-4", "state output not carried")


@pytest.mark.parametrize(
    "fault",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.system) for each in FAULTS],
)
def test_a_seeded_fault_is_found(fault, made, examine, copy_of):
    form, spoil, group = FAULTS[fault]
    one = made(form)
    path = copy_of(one)
    model = onnx.load(path)
    spoil(model)
    onnx.save(model, path)
    report = examine(one, path)
    assert not report.ok
    assert group in {found.key for found in report.groups if found.failed}


@pytest.mark.system
def test_the_check_that_is_made_for_a_fault_names_it(made, examine, copy_of):
    for form, spoil, name in (
        ("stacked", mix_rows, "rows of a batch are independent"),
        ("plain", leak_padding, "padding of NaN"),
        ("plain", ignore_state_input, "only c_0 away from reset"),
    ):
        path = copy_of(made(form))
        model = onnx.load(path)
        spoil(model)
        onnx.save(model, path)
        failed = {check.name for group in examine(made(form), path).groups for check in group.failed}
        assert name in failed
        if spoil is leak_padding:
            assert failed == {name}


@pytest.mark.parametrize("form", ["plain", "stacked", "both_ways", "projected", "square"])
def test_a_healthy_file_raises_no_alarm(form, made, examine):
    report = examine(made(form))
    assert report.ok, report.headlines
    assert {group.status for group in report.groups if group.key not in ("lengths", "streaming")} == {
        "passed"
    }


def test_a_file_that_hides_that_it_can_not_be_streamed_is_found(made, examine, copy_of):
    one = made("both_ways")
    path = copy_of(one)
    model = onnx.load(path)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    model.metadata_props[0].value = manifest._replace(unstreamable="").to_json()
    onnx.save(model, path)
    report = examine(one, path)
    assert {group.key for group in report.groups if group.failed} == {"contract", "golden"}
    (check,) = report.groups[0].failed
    assert check.name == "streamable"
    assert re.fullmatch(
        "the file says yes, the reference no: .* is [0-9.e-]+ away from the whole", check.message
    )


def test_a_broken_state_contract_is_a_failure_and_not_an_error(made, examine, copy_of):
    one = made("plain")
    path = copy_of(one)
    model = onnx.load(path)
    model.graph.output.pop()
    onnx.save(model, path)
    report = examine(one, path)
    assert [check.name for group in report.groups for check in group.failed] == ["manifest and graph agree"]
    assert {group.status for group in report.groups[1:]} == {"skipped"}


def test_what_float32_leaves_uncertain_is_equal_in_float64_and_named(tmp_path):
    """A chaotic network: its floors would let anything pass, but a fault is seen in float64."""
    torch.manual_seed(0)
    module = nn.RNN(3, 12, batch_first=True).eval()
    with torch.no_grad():
        module.weight_hh_l0 *= 12
    example = torch.randn(3, 8, 3)
    export(module, example).save(tmp_path / "model.onnx")
    file = open_file(tmp_path / "model.onnx")
    report = validate(file, against_module(module, file, example), ValidateConfig(quick=True, steps=500))
    assert report.ok
    assert any("is not verified in float32" in note for note in report.notes)
    with torch.no_grad():
        module.bias_ih_l0[0] += 1e-6
    assert not validate(file, against_module(module, file, example), ValidateConfig(quick=True, steps=500)).ok


@pytest.mark.system
def test_an_override_replaces_the_policy(made, examine, copy_of):
    one = made("plain")
    path = copy_of(one)
    model = onnx.load(path)
    round_to_half(model)
    onnx.save(model, path)
    assert examine(one, path, rtol=1e-2, atol=1e-2).ok
    assert not examine(one, rtol=0.0, atol=0.0).ok


def test_the_same_seed_gives_the_same_report_and_another_seed_another(made, examine):
    one = made("plain")
    first, second, other = (examine(one, seed=seed).to_dict() for seed in (0, 0, 1))
    assert first == second
    assert first["groups"] != other["groups"]
