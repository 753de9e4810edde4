"""What an export gives: the file, its contract, its proof."""

import copy
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

import lstm_edge_exporters
from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import CheckFailedError, InputError, NotFoundError
from lstm_edge_runtime.manifest import KEY


def test_the_module_given_is_not_changed(plain, plain_example, plain_config):
    module = copy.deepcopy(plain).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export(module, plain_example, plain_config)
    assert module.training
    assert type(module.lstm) is nn.LSTM
    assert not module.lstm._forward_hooks
    assert not module.lstm._forward_pre_hooks
    assert all(
        torch.equal(before[name], tensor)
        for name, tensor in module.state_dict().items()
    )


def test_exporting_twice_gives_the_same_bytes(
    artifact, plain, plain_example, plain_config
):
    assert export(plain, plain_example, plain_config).model == artifact.model


def test_nothing_of_the_machine_is_in_the_file(artifact):
    for path in (
        Path.cwd(),
        Path(torch.__file__).parent,
        Path(lstm_edge_exporters.__file__).parent,
        Path.home(),
    ):
        assert str(path).encode() not in artifact.model
    assert b".py" not in artifact.model
    assert b"site-packages" not in artifact.model


def test_the_graph_holds_nothing_but_what_the_network_needs(artifact):
    assert artifact.nodes == {
        "Transpose": 1, "Split": 2, "LSTM": 2, "Squeeze": 1, "Concat": 2, "Gather": 1, "Gemm": 1
    }  # fmt: skip


def test_inputs_outputs_and_axes_are_named_in_the_file(artifact):
    graph = onnx.load_model_from_string(artifact.model).graph

    def axes(values):
        return {
            value.name: [
                dim.dim_param or dim.dim_value
                for dim in value.type.tensor_type.shape.dim
            ]
            for value in values
        }

    assert axes(graph.input) == {
        "x": ["N", "L", 5],
        "h_0": [2, "N", 6],
        "c_0": [2, "N", 6],
    }
    assert axes(graph.output) == {
        "logits": ["N", 3],
        "h_n": [2, "N", 6],
        "c_n": [2, "N", 6],
    }


def test_the_manifest_travels_in_the_file(artifact, plain_config):
    session = onnxruntime.InferenceSession(artifact.model)
    manifest = read_manifest(session.get_modelmeta().custom_metadata_map[KEY])
    assert manifest.to_json() == artifact.manifest.to_json()
    assert [(state.input, state.output) for state in manifest.states] == [
        ("h_0", "h_n"),
        ("c_0", "c_n"),
    ]
    assert manifest.task == plain_config.task
    assert manifest.signal == plain_config.signal
    assert (manifest.batch, manifest.sequence, manifest.lengths) == ("N", "L", None)
    assert manifest.unstreamable == ""
    assert manifest.provenance["checkpoint_sha256"] == "ab" * 32
    assert manifest.provenance["versions"]["torch"] == torch.__version__
    assert manifest.equivalence["max_abs"] < 1e-5
    assert 0 < manifest.equivalence["ratio"] <= 1
    assert len(manifest.equivalence["cases"]) == 7


def test_the_golden_case_is_small_has_random_states_and_is_pytorchs(artifact, plain):
    golden = artifact.manifest.golden
    assert len(artifact.manifest.to_json()) < 20_000
    assert golden.inputs["x"].shape == (2, 12, 5)
    assert np.abs(golden.inputs["h_0"]).min() > 0
    with torch.no_grad():
        expected = plain(
            *(torch.from_numpy(golden.inputs[name]) for name in ("x", "h_0", "c_0"))
        )
    for name, tensor in zip(("logits", "h_n", "c_n"), expected, strict=True):
        assert (
            np.abs(golden.outputs[name] - tensor.numpy()) <= golden.limits[name]
        ).all()


def test_saving_makes_the_file_or_leaves_the_old_one(artifact, tmp_path):
    target = tmp_path / "m.onnx"
    artifact.save(target)
    assert target.read_bytes() == artifact.model
    with pytest.raises(NotFoundError, match="create it first"):
        artifact.save(tmp_path / "no" / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


class Wrong(nn.Module):
    """Computes something else when it is traced."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, x, h_0, c_0):
        logits, h_n, c_n = self.plain(x, h_0, c_0)
        return logits + (0.001 if torch.compiler.is_exporting() else 0.0), h_n, c_n


def test_a_file_that_differs_is_not_given_and_the_error_says_where(
    plain, plain_example, plain_config
):
    with pytest.raises(
        CheckFailedError, match=r"at N=2, L=4.*logits differs by 0\.001"
    ):
        export(Wrong(plain), plain_example, plain_config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"y": ("N", "L", 5)}}, "'y' is not one of x, h_0, c_0"),
        ({"inputs": {"x": ("N", 5)}}, "do not fit the example's"),
        ({"inputs": {"x": ("N", "L", 7)}}, "do not fit the example's"),
        ({"inputs": {"x": ("N", "N", 5)}}, "named twice"),
        ({"outputs": ("a",)}, "1 output names"),
        ({"outputs": ("a", "x", "b")}, "repeat or are those of inputs"),
        ({"states": {"h": "h_n"}}, "the inputs are x, h_0, c_0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    plain, plain_example, plain_config, changes, message
):
    config = replace(plain_config, task=None, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        export(plain, plain_example, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "expected 0 or more"),
        ({"inputs": {"x": "NLI"}}, "a name for each dynamic one"),
        ({"inputs": {"x": ("N", 0)}}, "a name for each dynamic one"),
        ({"inputs": {"x": ("N-1",)}}, "a name for each dynamic one"),
    ],
)
def test_a_config_out_of_range_is_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        ExportConfig(**options)


@pytest.mark.parametrize(
    "example", [(), "text", (torch.zeros(2, 4, 5),), {"y": torch.zeros(2)}]
)
def test_an_example_that_does_not_fit_forward_is_refused(plain, example):
    with pytest.raises(InputError, match="example"):
        export(plain, example)


def test_axes_named_in_the_wrong_order_are_refused(plain, plain_example, plain_config):
    inputs = {**plain_config.inputs, "x": ("L", "N", 5)}
    with pytest.raises((InputError, ValueError), match="order of its axes"):
        export(plain, plain_example, replace(plain_config, inputs=inputs))


class Tutored(nn.Module):
    """The older ``weight_norm``, which keeps the computed weight as an attribute."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.rnn = nn.utils.weight_norm(self.rnn, "weight_hh_l0")

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(
    "wrap", [Tutored, lambda: nn.DataParallel(Tutored())], ids=["plain", "parallel"]
)
def test_older_weight_norm_and_a_wrapper_for_several_devices_export_as_they_are(wrap):
    module = wrap().eval()
    x = torch.randn(3, 7, 5)
    made = export(module, x)
    assert [spec.name for spec in made.manifest.inputs] == ["x"]
    with torch.no_grad():
        expected = getattr(module, "module", module)(x).numpy()
    np.testing.assert_allclose(
        load(made.model).run(x.numpy())[0]["output"], expected, rtol=0, atol=1e-6
    )


def test_parametrized_weights_are_computed_and_the_module_keeps_them():
    torch.manual_seed(0)
    module = nn.Sequential(Tutored(), nn.Linear(6, 2)).eval()
    parametrizations = nn.utils.parametrizations
    parametrizations.orthogonal(module[0].rnn, "weight_ih_l0")
    parametrizations.weight_norm(module[1])
    parametrizations.spectral_norm(module[1])
    x = torch.randn(3, 7, 5)
    artifact = export(module, x)
    outputs, _ = load(artifact.model).run(x.numpy())
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(outputs["output"], expected, rtol=0, atol=1e-6)
    assert nn.utils.parametrize.is_parametrized(module[1], "weight")


def test_an_artifact_says_whether_it_streams_and_takes_names_of_onnx_files(tmp_path):
    torch.manual_seed(0)
    for layer, reason in (
        (nn.GRU(3, 4, batch_first=True), ""),
        (nn.GRU(3, 4, batch_first=True, bidirectional=True), "bidirectional"),
    ):
        artifact = export(layer.eval(), torch.randn(2, 5, 3))
        assert artifact.streamable == (not reason)
        assert reason in artifact.reason
        assert bool(artifact.reason) == bool(reason)
    for name in ("x.pt", "x", "x.lep"):
        with pytest.raises(InputError, match=r"is not named \.onnx; use \S*x\.onnx"):
            artifact.save(tmp_path / name)
    artifact.save(tmp_path / "x.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


class MeanOfFraction(nn.Module):
    """The mean over the first fraction of each row, as in batches of audio."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x, fractions):
        steps = torch.arange(x.size(1))
        mask = (steps < (fractions * x.size(1))[:, None]).unsqueeze(-1)
        return (self.gru(x)[0] * mask).sum(1) / mask.sum(1)


def test_fractions_of_a_length_are_drawn_as_such():
    torch.manual_seed(0)
    example = (torch.randn(2, 9, 3), torch.tensor([0.95, 0.02]))
    axes = {"x": ("N", "L", 3), "fractions": ("N",)}
    artifact = export(MeanOfFraction().eval(), example, ExportConfig(inputs=axes))
    assert not [note for note in artifact.notes if "not compared" in note]
