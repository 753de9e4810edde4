"""What a file says of itself is recomputed and compared, and never narrows what is tested."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.engine import Validation
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_exporters.validate.reference import against_file
from lstm_edge_runtime.manifest import AxisRange, Manifest, Signal, Task, Trained

QUICK = ValidateConfig(quick=True, steps=300)
SHA = "ab" * 32


class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.GRU(3, 6, batch_first=True)
        self.out = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A network whose labels, features, rate, window and checkpoint are known, and its file."""
    torch.manual_seed(0)
    module, example = Tagger().eval(), torch.randn(3, 5, 3)
    config = ExportConfig(
        task=Task("classification", "output", ("walk", "run", "fall")),
        signal=Signal(("ax", "ay", "az"), 50, 20),
        trained=Trained(True, 20, 0.5),
        checkpoint_sha256=SHA,
    )
    path = tmp_path_factory.mktemp("told") / "m.onnx"
    export(module, example, config).save(path)
    file = open_file(path)
    return path, against_module(module, file, example, config=config)


def restated(path, folder, **changes):
    """Copy the file with another manifest."""
    model = onnx.load(path)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    new = manifest._replace(**{name: change(manifest) for name, change in changes.items()})
    assert new.to_json() != manifest.to_json()
    model.metadata_props[0].value = new.to_json()
    onnx.save(model, folder / "restated.onnx")
    return folder / "restated.onnx"


def contract(path, reference=None):
    """Return the contract group, the first of a validation."""
    return next(Validation(open_file(path), reference, QUICK).groups())


def golden(**changes):
    """Change the first golden case."""
    return {
        "golden": lambda m: m.golden._replace(
            **{name: change(getattr(m.golden, name)) for name, change in changes.items()}
        )
    }


def scaled(factor):
    return lambda limits: {name: factor * array for name, array in limits.items()}


CLAIMS = {
    "reset value of h_0": {"states": lambda m: (m.states[0]._replace(reset=0.5),)},
    "labels": {"task": lambda m: m.task._replace(labels=("run", "fall", "walk"))},
    "task": {"task": lambda m: m.task._replace(kind="regression")},
    "features": {"signal": lambda m: m.signal._replace(features=("az", "ay", "ax"))},
    "int8 activations": {"int8_activations": lambda m: True},
    "sampling rate": {"signal": lambda m: m.signal._replace(sampling_rate=100.0)},
    "window": {"signal": lambda m: m.signal._replace(window=21)},
    "trained": {"trained": lambda m: m.trained._replace(carry=False)},
    "checkpoint": {"provenance": lambda m: {**m.provenance, "checkpoint_sha256": "cd" * 32}},
    "precision": {"precision": lambda m: "int8"},
    "streamable": {"unstreamable": lambda m: "layer rnn is bidirectional"},
    "counts of steps": {"counts": lambda m: ("output",)},
    "range of N": {"ranges": lambda m: {"N": AxisRange(1, 2)}},
    "golden case is the reference's": golden(
        outputs=lambda outputs: {name: array + np.float32(0.01) for name, array in outputs.items()}
    ),
}
RECORDED = {
    "no golden case": {"golden": lambda m: None},
    "no second case": golden(more=lambda _: ()),
    "limits of 1e9": {"golden": lambda m: m.golden._replace(limit=dict.fromkeys(m.golden.outputs, 1e9))},
    "limits 9.9 times too wide": golden(limits=scaled(9.9)),
    "floors 9.9 times too wide": golden(floor=scaled(9.9)),
    "no limits a channel": golden(limits=lambda _: {}),
    "a case of zeros": golden(inputs=lambda inputs: {name: 0 * array for name, array in inputs.items()}),
    "one step": golden(inputs=lambda inputs: {**inputs, "x": inputs["x"][:, :1]}),
    "one row": golden(inputs=lambda inputs: {"x": inputs["x"][:1], "h_0": inputs["h_0"][:, :1]}),
    "no states": golden(inputs=lambda inputs: {"x": inputs["x"]}),
}


def test_a_file_that_states_the_truth_passes_and_every_fact_is_shown(told):
    path, reference = told
    report = validate(path, reference, QUICK)
    assert report.ok, report.headlines
    facts = {fact.name: fact for fact in report.facts}
    assert facts["labels"].file == facts["labels"].reference == "walk, run, fall"
    assert facts["sampling rate"].reference == "50.0"
    assert facts["checkpoint"].reference == SHA


@pytest.mark.parametrize("name", CLAIMS)
def test_a_false_claim_is_a_failure_of_the_contract_with_both_values(name, told, tmp_path):
    path, reference = told
    group = contract(restated(path, tmp_path, **CLAIMS[name]), reference)
    (failed,) = (check for check in group.failed if check.name == name)
    assert (
        "the file has" in failed.message or "the file says" in failed.message or "differs" in failed.message
    )


@pytest.mark.parametrize("name", RECORDED)
def test_golden_cases_other_than_the_exports_are_found(name, told, tmp_path):
    path, reference = told
    assert contract(path, reference).status == "passed"
    failed = contract(restated(path, tmp_path, **RECORDED[name]), reference).failed
    assert any("golden case" in check.name for check in failed)


def test_a_limit_that_is_too_wide_is_shown_beside_the_most_that_it_may_be(told, tmp_path):
    """Of the channel that is furthest beyond, not of two different ones."""
    path, reference = told

    def widened(limits):
        narrow = limits["output"].copy()
        narrow[..., int(np.argmin(narrow))] *= 3
        return {**limits, "output": narrow}

    group = contract(restated(path, tmp_path, **golden(limits=widened)), reference)
    (failed,) = (check for check in group.failed if check.name == "limits of the golden case")
    has, most = (float(part.split()[-1]) for part in failed.message.split(", expected at most "))
    assert has > most


def test_outputs_in_another_order_than_the_graphs_are_found(told, tmp_path):
    path, _ = told
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Neg", ["output"], ["negative"]))
    value = onnx.ValueInfoProto()
    value.CopyFrom(next(each for each in model.graph.output if each.name == "output"))
    value.name = "negative"
    model.graph.output.append(value)
    onnx.save(model, tmp_path / "two.onnx")
    one = Manifest.from_json(model.metadata_props[0].value).outputs[0]
    for outputs, expected in (
        ((one, one._replace(name="negative")), False),
        ((one._replace(name="negative"), one), True),
    ):
        file = restated(tmp_path / "two.onnx", tmp_path, outputs=lambda _, outputs=outputs: outputs)
        assert ("order of outputs in the graph" in {each.name for each in contract(file).failed}) == expected


def fields(record, prefix="") -> Iterator[str]:
    """Return every field of a named tuple, those of named tuples inside it included."""
    for name, hint in get_type_hints(record).items():
        inner = [each for each in (hint, *get_args(hint)) if hasattr(each, "_fields")]
        if inner and inner[0] is not record:
            yield from fields(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


FILE_ONLY = "stated by the file only"
FIELDS = {
    **dict.fromkeys(
        [
            "inputs.name",
            "inputs.axes",
            "outputs.name",
            "outputs.axes",
            "states.input",
            "states.output",
            "states.axes",
            "states.reset",
            "batch",
            "sequence",
            "ranges.least",
            "ranges.most",
            "ranges.multiple",
            "lengths",
            "padded_states",
            "counts",
            "unstreamable",
            "unit",
            "delays",
            "task.kind",
            "task.output",
            "task.labels",
            "task.units",
            "signal.features",
            "signal.sampling_rate",
            "signal.window",
            "trained.carry",
            "trained.window",
            "trained.reset",
            "provenance.checkpoint_sha256",
            "provenance.rest",
            "golden.inputs",
            "golden.outputs",
            "golden.floor",
            "golden.limit",
            "golden.limits",
            "golden.more",
        ],
        "compared with the reference",
    ),
    **dict.fromkeys(
        [
            "inputs.dtype",
            "outputs.dtype",
            "states.dtype",
            "precision",
            "int8_activations",
            "provenance.opset",
        ],
        "recomputed from the graph",
    ),
    **dict.fromkeys(["signal.missing", "provenance", "equivalence", "identity"], FILE_ONLY),
}
"""Every field of ``Manifest``, those of the records inside included, and what shows whether it is true.

Without a reference the file's own float64 run takes its place, and those that it can't show are the file's
alone. The runtime reads none of the fields that only the file states.
"""


def test_the_table_lists_every_field_of_the_manifest():
    parts = {name for name in FIELDS if name.startswith("provenance.")}
    assert {*fields(Manifest)} == {*FIELDS} - parts


def test_the_documentation_names_what_nobody_verifies():
    text = (Path(__file__).parents[3] / "docs/validate.md").read_text()
    for name, evidence in FIELDS.items():
        if evidence == FILE_ONLY:
            assert f"`{name}`" in text


def test_one_unit_in_the_last_place_of_one_weight_is_found_whether_or_not_a_case_shows_it(told, tmp_path):
    path, reference = told
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda each: np.prod(each.dims))
    array = numpy_helper.to_array(weight).copy()
    array.flat[5] = np.nextafter(array.flat[5], np.float32(1))
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, tmp_path / "one.onnx")
    failed = {check.name: check.message for check in contract(tmp_path / "one.onnx", reference).failed}
    assert f"{array.flat[5]:.9g}" in failed["weights are the reference's"]


class Folded(torch.nn.Module):
    """Its file holds a convolution with the batch norm in it, and a projection taken into the recurrence."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv1d(3, 4, 1), torch.nn.BatchNorm1d(4)
        self.rnn = torch.nn.LSTM(4, 6, proj_size=2, batch_first=True)
        self.out = torch.nn.Linear(2, 3)
        torch.nn.init.uniform_(self.norm.running_var, 0.5, 2.0)

    def forward(self, x):
        return self.out(self.rnn(self.norm(self.conv(x.transpose(1, 2))).transpose(1, 2))[0])


@pytest.mark.system
def test_one_unit_in_the_last_place_is_found_beside_weights_that_the_translation_computes(tmp_path):
    torch.manual_seed(0)
    module, example = Folded().eval(), torch.randn(2, 5, 3)
    export(module, example).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    reference = against_module(module, file, example)
    assert contract(tmp_path / "m.onnx", reference).status == "passed"
    floats = [each for each in file.proto.graph.initializer if each.data_type == TensorProto.FLOAT]
    weights = [each for each in floats if np.prod(each.dims) > 2]
    held = {value.detach().numpy().tobytes() for value in module.state_dict().values()}
    assert sum(numpy_helper.to_array(each).tobytes() not in held for each in weights) > 2
    for weight in weights:
        model = onnx.load(tmp_path / "m.onnx")
        tensor = next(each for each in model.graph.initializer if each.name == weight.name)
        array = numpy_helper.to_array(tensor).copy()
        place = np.flatnonzero(array)[-1]
        array.flat[place] = np.nextafter(array.flat[place], np.float32(1e9))
        tensor.CopyFrom(numpy_helper.from_array(array, weight.name))
        onnx.save(model, tmp_path / "one.onnx")
        group = contract(tmp_path / "one.onnx", reference)
        assert "weights are the reference's" in {each.name for each in group.failed}, weight.name


def test_an_int8_tensor_that_nothing_uses_does_not_make_a_file_int8(told, tmp_path):
    path, reference = told
    int8 = restated(path, tmp_path, precision=lambda m: "int8")
    model = onnx.load(int8)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int8), "unused"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["unused", "scale"], ["unused_too"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "scale"))
    onnx.save(model, int8)
    assert "precision" in {check.name for check in contract(int8, reference).failed}


def test_sizes_beyond_the_range_that_a_file_states_are_tested_where_the_reference_takes_them(told, tmp_path):
    path, reference = told
    narrow = restated(path, tmp_path, ranges=lambda m: {"N": AxisRange(1, 2)})
    model = onnx.load(narrow)
    body = {name: numpy_helper.from_array(np.array(value), name) for name, value in
            {"first": [0], "two": 2, "less": np.float32(0.9), "whole": np.float32(1)}.items()}  # fmt: skip
    model.graph.initializer.extend(body.values())
    last = next(node for node in model.graph.node if "output" in node.output)
    last.output[0] = "unscaled"
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["rows"]),
            helper.make_node("Greater", ["rows", "two"], ["many"]),
            helper.make_node("Where", ["many", "less", "whole"], ["factor"]),
            helper.make_node("Mul", ["unscaled", "factor"], ["output"]),
        ]
    )
    onnx.save(model, narrow)
    unknown = replace(reference, asks_ranges=False)
    report = validate(narrow, unknown, QUICK)
    assert "sizes" in {group.key for group in report.groups if group.failed}
    assert any("not verified: range of N" in note for note in report.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"unstreamable": lambda m: "layer rnn is bidirectional"},
        {"sequence": lambda m: None},
        {"precision": lambda m: "int8"},
    ],
    ids=["unstreamable", "time axis null", "int8"],
)
def test_a_false_claim_does_not_hide_a_fault(changes, told, tmp_path):
    """Streaming is the group that must find a state that stops after the first step of a call."""
    path, reference = told
    spoilt = restated(path, tmp_path, **changes)
    model = onnx.load(spoilt)
    gru = next(node for node in model.graph.node if node.op_type == "GRU")
    scale = numpy_helper.from_array(np.float32(1.001), "scale")
    model.graph.initializer.append(scale)
    place = list(gru.input).index(next(name for name in gru.input if "h_0" in name or name == gru.input[5]))
    model.graph.node.insert(0, helper.make_node("Mul", [gru.input[place], "scale"], ["scaled"]))
    sorted_nodes = sorted(model.graph.node, key=lambda node: node.output[0] == "scaled")
    before = gru.input[place]
    gru.input[place] = "scaled"
    nodes = [node for node in sorted_nodes if node.output[0] != "scaled"]
    at = nodes.index(gru)
    nodes.insert(at, helper.make_node("Mul", [before, "scale"], ["scaled"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, spoilt)
    report = validate(spoilt, reference, QUICK)
    assert {"contract", "streaming", "states"} <= {group.key for group in report.groups if group.failed}


def test_what_only_the_file_states_is_named_as_not_verified(told):
    path, reference = told
    unknown = replace(reference, manifest=reference.manifest._replace(task=None, signal=Signal()), sha256="")
    report = validate(path, unknown, QUICK)
    assert report.ok
    assert any("not verified: task, labels, features" in note for note in report.notes)


def test_lengths_that_the_manifest_hides_are_still_tested(made, examine, copy_of, tmp_path):
    one = made("plain")
    path = restated(one.path, tmp_path, lengths=lambda m: None)
    report = examine(one, path)
    assert any(check.name == "lengths" for check in report.groups[0].failed)
    assert next(group for group in report.groups if group.key == "lengths").count("passed") > 4


def baked(path, folder, shape, axis_input="x"):
    """Reshape the input to a fixed size, so that other sizes do not run or are not read."""
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "baked_shape"))
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == axis_input:
                node.input[place] = "baked"
    model.graph.node.insert(0, helper.make_node("Reshape", [axis_input, "baked_shape"], ["baked"]))
    onnx.save(model, folder / "baked.onnx")
    return folder / "baked.onnx"


def golden_shape(path):
    return Manifest.from_json(onnx.load(path).metadata_props[0].value).golden.inputs["x"].shape


def test_without_a_reference_clip_is_found_and_a_healthy_file_passes(told, tmp_path):
    path, _ = told
    assert validate(path, config=QUICK).ok
    model = onnx.load(path)
    gru = next(node for node in model.graph.node if node.op_type == "GRU")
    gru.attribute.append(helper.make_attribute("clip", 8.0))
    onnx.save(model, tmp_path / "clipped.onnx")
    report = validate(tmp_path / "clipped.onnx", config=QUICK)
    (failed,) = report.groups[0].failed
    assert failed.message == "GRU with clip"


def plain_lstm(folder, width=3):
    """An LSTM as other exporters write it: no states in or out, zeros inside."""
    rng = np.random.default_rng(0)
    hidden = 4
    weights = {
        "W": rng.normal(size=(1, 4 * hidden, width)),
        "R": rng.normal(size=(1, 4 * hidden, hidden)) / 2,
        "B": rng.normal(size=(1, 8 * hidden)) / 4,
    }
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "W", "R", "B"], ["Y", "", ""], hidden_size=hidden, name="lstm")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["L", "N", width])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["L", 1, "N", hidden])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = folder / f"plain{width}.onnx"
    onnx.save(model, path)
    return path


def test_a_lifted_file_is_compared_with_its_original(tmp_path):
    original = plain_lstm(tmp_path)
    lift(original).save(tmp_path / "lifted.onnx")
    file = open_file(tmp_path / "lifted.onnx")
    assert file.manifest.states
    report = validate(file, against_file(original, file), QUICK)
    assert report.ok, report.headlines
    passed = {group.key for group in report.groups if group.status == "passed"}
    assert {"sizes", "states", "streaming"} <= passed


def test_a_lifted_file_whose_weights_are_not_its_originals_fails(tmp_path):
    original = plain_lstm(tmp_path)
    lift(original).save(tmp_path / "lifted.onnx")
    model = onnx.load(tmp_path / "lifted.onnx")
    bias = next(each for each in model.graph.initializer if each.name == "B")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), "B"))
    onnx.save(model, tmp_path / "wrong.onnx")
    file = open_file(tmp_path / "wrong.onnx")
    report = validate(file, against_file(original, file), QUICK)
    assert {"sizes"} <= {group.key for group in report.groups if group.failed}
    assert not any(note.startswith("equal to") for note in report.notes)


def test_another_input_width_is_a_failure_with_both_sizes_and_no_traceback(tmp_path):
    lift(plain_lstm(tmp_path)).save(tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(file, against_file(plain_lstm(tmp_path, width=5), file), QUICK)
    assert not report.ok
    assert {group.status for group in report.groups[1:-1]} == {"skipped"}
    (said,) = (each.message for each in report.groups[0].failed if "inputs and outputs" in each.name)
    assert "x (L, N, 3)" in said
    assert "x (L, N, 5)" in said


class Silent(torch.nn.Module):
    """Two directions, all units switched off: the whole and its chunks are the same zeros."""

    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.RNN(3, 2, batch_first=True, bidirectional=True, nonlinearity="relu")
        for bias in (self.rnn.bias_ih_l0, self.rnn.bias_ih_l0_reverse):
            torch.nn.init.constant_(bias, -100.0)

    def forward(self, x):
        return self.rnn(x)[0]


def test_a_layer_of_two_directions_may_be_called_unfit_for_streaming_though_chunks_are_equal(tmp_path):
    module, example = Silent().eval(), torch.randn(2, 5, 3)
    artifact = export(module, example)
    artifact.save(tmp_path / "silent.onnx")
    assert not artifact.manifest.streamable
    file = open_file(tmp_path / "silent.onnx")
    report = validate(file, against_module(module, file, example), ValidateConfig(quick=True))
    assert report.ok, report
    (check,) = [each for group in report.groups for each in group.checks if each.name == "streamable"]
    assert "reads time backwards" in check.message
