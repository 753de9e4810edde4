"""A file that fails a check is not written, and an existing file stays."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from loop_networks import NETWORKS
from onnx import helper, numpy_helper
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_exporters.quantize import Budget, QuantizeConfig, Samples, quantize
from lstm_edge_exporters.quantize.gate import evidence, judge, over_budget, run_file
from lstm_edge_exporters.verify.samples import sample_feeds
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    ManifestError,
)
from lstm_edge_runtime.manifest import Trained
from lstm_edge_runtime.ort import sealed

LOOSE = Budget(agreement=0, drift=1, change=1)


def _edited(content, name, edit):
    """The same file with one initializer changed."""
    model = onnx.load_model_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(
                numpy_helper.from_array(
                    edit(numpy_helper.to_array(tensor)).astype(np.float32), name
                )
            )
    return sealed(model.SerializeToString())


def _judged(before, after, samples):
    left = load(before)
    right = load(after)
    cases = sample_feeds(samples, left.manifest)
    runs = [run_file(model, cases, real=True) for model in (left, right)]
    return judge(left.manifest, *runs, samples.targets, real=True)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(4)
    return Samples(
        {"x": rng.normal(size=(40, 25, 8)).astype(np.float32)},
        targets=rng.integers(4, size=40),
    )


@pytest.mark.parametrize(
    ("budget", "what"),
    [
        (replace(LOOSE, drift=1e-4), "h_n drifts by"),
        (replace(LOOSE, change=1e-4), "logits changes by"),
    ],
)
def test_a_file_that_loses_too_much_is_refused_with_the_figures(
    network, write, budget, what
):
    with pytest.raises(CheckFailedError, match=what) as caught:
        quantize(write(network()), QuantizeConfig(budget=budget))
    assert "one scale per tensor" in str(caught.value)
    assert "one scale per gate row" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_flip_are_counted_and_refused(network, samples):
    before = network()
    after = _edited(before, "V", lambda array: array[::-1])
    judged = _judged(before, after, samples)
    assert judged.agreement < 0.5
    assert any(
        "of labels agree" in reason
        for reason in over_budget(judged, replace(LOOSE, agreement=0.975))
    )


def _labels(content, samples, *, carried):
    """Return the class at the end of each sample, of one stream through all of them or
    each from reset."""
    model = load(content)
    state = None
    labels = []
    for x in samples.inputs["x"]:
        outputs, after = model.run(x[None], state)
        state = after if carried else None
        labels.append(outputs["logits"][-1].argmax())
    return np.array(labels)


@pytest.mark.parametrize("carried", [True, False])
def test_accuracy_is_that_of_streams_which_start_again_only_where_training_did(
    network, changed, samples, carried
):
    content = changed(
        network(),
        trained=Trained(carry=carried, window=1, reset=0.5 if carried else 1.0),
    )
    samples = Samples({"x": samples.inputs["x"][:, :1]})
    same, other = (
        _labels(content, samples, carried=carry) for carry in (carried, not carried)
    )
    assert (same != other).any()
    assert _judged(content, content, Samples(samples.inputs, same)).accuracy == (
        1.0,
        1.0,
    )
    assert _judged(content, content, Samples(samples.inputs, other)).accuracy[0] < 1.0


def test_accuracy_may_fall_by_one_sample_and_not_by_two(network, samples):
    content = network()
    labels = _labels(content, samples, carried=True)
    judged = _judged(content, content, Samples(samples.inputs, labels))
    assert judged.accuracy == (1.0, 1.0)
    for agreement, refused in ((0.98, False), (0.97, True)):
        assert (
            bool(over_budget(replace(judged, agreement=agreement), Budget())) is refused
        )
    for lost, refused in ((1, False), (2, True)):
        fallen = replace(judged, accuracy=(1.0, 1 - lost / 40))
        assert bool(over_budget(fallen, LOOSE)) is refused


def test_classes_may_be_given_by_their_names(network, samples):
    manifest = load(network()).manifest
    names = np.array(manifest.task.labels)[samples.targets]
    _, numbers = evidence(manifest, samples)
    _, same = evidence(manifest, replace(samples, targets=names))
    assert np.array_equal(same, numbers)
    other = names.copy()
    other[3] = "x"
    with pytest.raises(InputError, match=r"has the class 'x'; the file knows a, b, c"):
        evidence(manifest, replace(samples, targets=other))


def test_an_output_that_is_not_finite_breaks_every_budget(network, samples):
    before = network()
    judged = _judged(
        before, _edited(before, "b", lambda array: array * np.inf), samples
    )
    assert judged.change["logits"] == np.inf
    assert over_budget(judged, LOOSE)


def test_a_network_without_a_constant_weight_is_refused(network, write):
    def edit(graph):
        """Make W depend on the input, without changing its value."""
        graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0))
        graph.node.insert(1, helper.make_node("Sub", ["top", "top"], ["nought"]))
        for index, name in enumerate(("W0", "R0")):
            graph.node.insert(
                2 + index, helper.make_node("Add", [name, "nought"], [f"{name}_made"])
            )
        lstm = next(node for node in graph.node if node.op_type == "LSTM")
        lstm.input[1] = "W0_made"
        lstm.input[2] = "R0_made"

    with pytest.raises(CheckFailedError, match="nothing recurrent could be quantized"):
        quantize(write(network(edit=edit)), QuantizeConfig(budget=LOOSE))


def test_int8_names_the_loop_whose_weights_stay_in_float(write):
    torch.manual_seed(0)
    network = NETWORKS["ConvLSTM"]
    artifact = export(network.kind().eval(), network.example())
    with pytest.raises(
        CheckFailedError, match=r"weights of a loop \(node '.*', Scan\)"
    ):
        quantize(write(artifact.model), QuantizeConfig(budget=LOOSE))


def test_int8_does_not_blame_a_loop_for_the_small_weights_of_a_layer(write):
    """A loop without weights stands behind the layer."""
    torch.manual_seed(0)
    network = NETWORKS["LayerInFrontOfALoop"]
    artifact = export(network.kind().eval(), network.example())
    with pytest.raises(CheckFailedError, match="256 elements or more") as refusal:
        quantize(write(artifact.model), QuantizeConfig(budget=LOOSE))
    assert "Scan" not in str(refusal.value)


def test_fp16_of_small_weights_does_not_advise_fp16(write):
    torch.manual_seed(0)
    artifact = export(nn.LSTM(2, 3, batch_first=True).eval(), torch.zeros(2, 5, 2))
    config = QuantizeConfig(precision="fp16", budget=LOOSE)
    with pytest.raises(CheckFailedError, match="stored; keep the float file"):
        quantize(write(artifact.model), config)


def test_files_that_can_not_be_judged_are_refused(network, write):
    made = quantize(write(network()), QuantizeConfig(budget=LOOSE))
    model = onnx.load_model_from_string(network())
    del model.metadata_props[:]
    for content, error, what in (
        (network()[:2000], (FileFormatError, ManifestError), "manifest|truncated"),
        (model.SerializeToString(), ManifestError, "lift"),
        (made.model, InputError, "int8"),
        (network(golden=False), InputError, "no golden case"),
        (network(features=2, hidden=2), CheckFailedError, "would grow"),
    ):
        with pytest.raises(error, match=what):
            quantize(write(content), QuantizeConfig(budget=LOOSE))


@pytest.mark.parametrize(
    ("inputs", "more"),
    [
        ({"y": np.zeros((2, 5, 8))}, {}),
        ({"x": np.zeros((2, 5, 7))}, {}),
        ({"x": np.zeros((2, 8))}, {}),
        ({"x": np.zeros((0, 5, 8))}, {}),
        ({"x": np.zeros((2, 5, 8))}, {"targets": np.zeros(3, int)}),
        ({"x": np.zeros((2, 5, 8))}, {"targets": np.array(["a", "nobody"])}),
        ({"x": np.zeros((2, 5, 8))}, {"targets": np.array([0, 4])}),
        ({"x": np.zeros((2, 5, 8))}, {"lengths": np.array([5, 9])}),
        ({"x": np.full((2, 5, 8), np.nan)}, {}),
    ],
)
def test_data_that_does_not_fit_is_refused(network, write, inputs, more):
    with pytest.raises(InputError):
        quantize(
            write(network()), QuantizeConfig(budget=LOOSE), Samples(inputs, **more)
        )


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (QuantizeConfig, {"precision": "int4"}),
        (QuantizeConfig, {"target": "gpu"}),
        (QuantizeConfig, {"precision": "fp16", "weights_only": True}),
        (Budget, {"agreement": -0.1}),
        (Budget, {"agreement": 2}),
        (Budget, {"drift": float("nan")}),
        (Budget, {"change": float("inf")}),
    ],
)
def test_a_config_that_nothing_runs_is_refused(kind, wrong):
    with pytest.raises(InputError):
        kind(**wrong)
