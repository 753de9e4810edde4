"""Quantized files: their nodes, the manifest they keep, and reproducible bytes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from lstm_edge_exporters import export, validate
from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.quantize import (
    Budget,
    QuantizeConfig,
    pipeline,
    precision,
    quantize,
)
from lstm_edge_exporters.targets.native import convert, to_native
from lstm_edge_exporters.targets.native.listing import ProgramFile
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import against_file
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.native import installed
from lstm_edge_runtime.ort import sealed

LOOSE = Budget(agreement=0, drift=1, change=1)


def _held(content, kind):
    model = onnx.load_model_from_string(content)
    return {
        t.name: numpy_helper.to_array(t)
        for t in model.graph.initializer
        if t.data_type == kind
    }


def _operators(content):
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def _replay(content):
    """Return the error of each golden output, over the full sequence and step by
    step."""
    model = load(content)
    golden = model.manifest.golden
    inputs = dict(golden.inputs)
    state = State(
        {spec.input: inputs.pop(spec.input) for spec in model.states}, model.identity
    )
    runs = [model.run(inputs, state)]
    for step in range(inputs["x"].shape[1]):
        outputs, state = model.run(inputs["x"][:, step : step + 1], state)
    runs.append((outputs, state))
    off = dict.fromkeys(golden.outputs, 0.0)
    for outputs, new in runs:
        results = {**outputs, **{spec.output: new[spec.input] for spec in model.states}}
        for name, expected in golden.outputs.items():
            if results[name].shape == expected.shape:
                off[name] = max(
                    off[name], float(np.abs(results[name] - expected).max())
                )
    return off, golden.limit


def test_an_lstm_runs_in_int8_and_keeps_its_contract(network, write):
    source = write(network())
    made = quantize(source, QuantizeConfig(budget=LOOSE))
    assert quantize(source, QuantizeConfig(budget=LOOSE)).model == made.model
    before = load(source).manifest
    after = load(made.model).manifest
    assert made.counts == {"LSTM int8": 1, "Linear int8": 1}
    assert "LSTM" not in _operators(made.model)
    assert len(made.model) < 0.4 * made.bytes_before
    carried = (
        "inputs",
        "outputs",
        "states",
        "batch",
        "sequence",
        "unstreamable",
        "task",
        "signal",
    )
    assert all(getattr(after, name) == getattr(before, name) for name in carried)
    assert after.precision == "int8"
    off, limit = _replay(made.model)
    assert all(0 < off[name] <= limit[name] for name in off)
    for group in ("inputs", "outputs"):
        for name, array in getattr(before.golden, group).items():
            np.testing.assert_array_equal(getattr(after.golden, group)[name], array)


def test_the_golden_limits_catch_a_wrong_scale_that_the_budget_would_let_pass(
    network, write
):
    made = quantize(write(network()), QuantizeConfig(budget=LOOSE))
    model = onnx.load_model_from_string(made.model)
    for tensor in model.graph.initializer:
        if tensor.name == "R0_scale":
            tensor.CopyFrom(
                numpy_helper.from_array(
                    numpy_helper.to_array(tensor) * np.float32(1.2), tensor.name
                )
            )
    off, limit = _replay(sealed(model.SerializeToString()))
    assert any(off[name] > limit[name] for name in off)


def test_provenance_and_figures_are_in_the_manifest(network, write):
    source = write(network())
    made = quantize(source, QuantizeConfig(target="arm", budget=LOOSE))
    assert made.manifest.provenance["float_sha256"] == load(source).identity
    assert made.manifest.provenance["quantized"] == made.description
    assert "for arm" in made.description
    assert 0 < made.manifest.equivalence["drift"]["h_n"] < 0.1
    assert made.manifest.equivalence["change"]["logits"] > 0


@pytest.mark.parametrize(
    ("target", "most"), [("x86-vnni", 127), ("arm", 127), ("x86", 64)]
)
def test_weights_keep_to_seven_bits_where_the_device_would_saturate(
    network, write, target, most
):
    made = quantize(write(network()), QuantizeConfig(target=target, budget=LOOSE))
    held = _held(made.model, onnx.TensorProto.INT8)
    peaks = [
        int(np.abs(array.astype(int)).max())
        for array in held.values()
        if array.size > 1
    ]
    assert len(peaks) == 3
    assert max(peaks) == most


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_gru_and_rnn_are_stored_and_the_choice_says_why(network, write, kind):
    made = quantize(write(network(kind)), QuantizeConfig(target="x86", budget=LOOSE))
    assert "onnxruntime has no int8 GRU or RNN" in made.description
    assert made.counts == {f"{kind} stored": 1, "Gemm stored": 1}
    assert kind in _operators(made.model)
    assert made.manifest.arithmetic == "float32"


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
@pytest.mark.parametrize(
    ("kind", "hidden", "target"),
    [("GRU", 32, "arm"), pytest.param("RNN", 128, "x86", marks=pytest.mark.system)],
)
def test_gru_and_rnn_take_int8_natively_where_it_pays_and_the_budget_allows_it(
    network, write, kind, hidden, target, monkeypatch
):
    source = write(network(kind, hidden=hidden))
    made = quantize(source, QuantizeConfig(target=target, budget=LOOSE))
    assert load(made.model).manifest.arithmetic == "int8-native"
    x = np.random.default_rng(4).normal(size=(2, 30, 8)).astype(np.float32)
    exact = load(made.model).run(x)[0]["logits"]
    native = load(to_native(made.model))
    got = native.run(x)[0]["logits"]
    assert 1e-4 < np.abs(got - exact).max() < 0.1 * np.abs(exact).max()
    assert np.array_equal(got[:1], native.run(x[:1])[0]["logits"])
    native.selftest().require()
    stored = [
        quantize(
            source,
            QuantizeConfig(
                target=target, budget=Budget(agreement=0, drift=0.004, change=1)
            ),
        ),
        quantize(
            source, QuantizeConfig(target=target, weights_only=True, budget=LOOSE)
        ),
    ]
    assert (
        np.abs(load(to_native(stored[0].model)).run(x)[0]["logits"] - exact).max()
        < 1e-5
    )
    monkeypatch.setattr(pipeline, "on_native", lambda content: None)
    stored.append(quantize(source, QuantizeConfig(target=target, budget=LOOSE)))
    assert {result.manifest.arithmetic for result in stored} == {"float32"}


class EveryStep(nn.Module):
    """A layer with a head on every step."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(8, 32, batch_first=True)
        self.head = nn.Linear(32, 16)

    def forward(self, x):
        return self.head(self.layer(x)[0])


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
def test_a_head_on_every_step_keeps_its_int8_weights_in_a_program(write):
    torch.manual_seed(0)
    artifact = export(EveryStep().eval(), torch.randn(2, 9, 8))
    made = quantize(write(artifact.model), QuantizeConfig(target="arm", budget=LOOSE))
    listed = ProgramFile(to_native(made.model)).listed()
    (head,) = [row for row in listed if row.operation == "LINEAR"]
    assert head.weights == ("weights (16, 32) int8",)
    assert [row.operation for row in listed] == ["GRU", "LINEAR"]


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
def test_a_native_program_that_computes_something_else_is_refused(
    network, write, monkeypatch
):
    source = write(network())

    def fail(*_, **__):
        raise CheckFailedError("the native program differs from the graph")

    monkeypatch.setattr(convert, "verify", fail)
    with pytest.raises(CheckFailedError, match="native program differs from the graph"):
        quantize(source, QuantizeConfig(budget=LOOSE))


ARITHMETIC = {
    "int8": QuantizeConfig(),
    "float32": QuantizeConfig(weights_only=True),
    "float16": QuantizeConfig("fp16", "gpu"),
}


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
def test_the_manifest_says_how_engines_compute_and_validate_verifies_it(
    arithmetic, network, write, tmp_path
):
    source = write(network())
    made = quantize(source, replace(ARITHMETIC[arithmetic], budget=LOOSE))
    assert made.manifest.arithmetic == arithmetic
    made.save(tmp_path / "small.onnx")
    for claimed in ("float32", "float16", "int8", "int8-native"):
        proto = onnx.load(tmp_path / "small.onnx")
        manifest = made.manifest._replace(arithmetic=claimed)
        (tmp_path / "m.onnx").write_bytes(with_manifest(proto, manifest))
        report = validate(tmp_path / "m.onnx", None, ValidateConfig(quick=True))
        assert report.ok == (claimed == arithmetic), (claimed, report.verdict)


def test_nan_in_one_row_is_taken_by_a_batch_unless_rows_share_their_scales(
    network, write
):
    source = write(network())
    x = np.zeros((2, 8), np.float32)
    x[0] = np.nan
    stored = quantize(source, QuantizeConfig(weights_only=True, budget=LOOSE))
    batch = load(stored.model).streams(2)
    ids = [batch.add(), batch.add()]
    assert np.isfinite(batch.step(x, ids)[1]).all()
    small = quantize(source, QuantizeConfig(budget=LOOSE))
    batch = load(small.model).streams(2)
    ids = [batch.add(), batch.add()]
    with pytest.raises(InputError, match="would affect the other sources"):
        batch.step(x, ids)


@pytest.mark.parametrize(
    "config", [QuantizeConfig(weights_only=True), QuantizeConfig("fp16")], ids=str
)
def test_stored_weights_compute_in_float_whatever_the_batch_mates(
    network, write, config
):
    made = quantize(write(network()), replace(config, budget=LOOSE))
    model = load(made.model)
    x = np.random.default_rng(3).normal(size=(4, 20, 8)).astype(np.float32)
    x[1:] *= 100
    together = model.run(x)[0]["logits"][0]
    alone = model.run(x[:1])[0]["logits"][0]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_fp16_for_a_gpu_is_half_precision_inside(network, write, tmp_path):
    source = write(network())
    made = quantize(source, QuantizeConfig("fp16", "gpu", budget=LOOSE))
    onnx.checker.check_model(made.model, full_check=True)
    model = load(made.model)
    assert {spec.dtype for spec in (*model.inputs, *model.outputs, *model.states)} == {
        "float32"
    }
    assert {"W0", "R0"} <= set(_held(made.model, onnx.TensorProto.FLOAT16))
    made.save(tmp_path / "half.onnx")
    file = open_file(tmp_path / "half.onnx")
    report = validate(
        file, against_file(source, file), ValidateConfig(quick=True, budget=LOOSE)
    )
    assert report.ok, [check for group in report.groups for check in group.failed]
    assert validate(file, None, ValidateConfig(quick=True)).ok


def test_where_one_scale_a_tensor_is_too_coarse_a_scale_a_row_is_taken(network, write):
    """One gate row fifty times as large as the others leaves them two bits."""

    def edit(graph):
        for tensor in graph.initializer:
            if tensor.name in ("W0", "R0"):
                array = numpy_helper.to_array(tensor).copy()
                array[0, 0] *= 50
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    source = write(network(edit=edit))
    strict = replace(LOOSE, drift=0.05)
    assert (
        "one scale per tensor"
        in quantize(source, QuantizeConfig(budget=LOOSE)).description
    )
    assert (
        "one scale per gate row"
        in quantize(source, QuantizeConfig(budget=strict)).description
    )


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 32, 2, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.lstm(packed)[1][0][-1]


def test_an_lstm_with_lengths_is_stored_so_that_padding_changes_nothing(tmp_path):
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(3, 12, 6)).astype(np.float32)
    lengths = np.array([12, 5, 9])
    made = export(Packed().eval(), (torch.from_numpy(x), torch.from_numpy(lengths)))
    made.save(tmp_path / "float.onnx")
    small = quantize(tmp_path / "float.onnx", QuantizeConfig(budget=LOOSE))
    assert "padding would spoil the scales" in small.description
    assert small.counts == {"LSTM stored": 2}
    model = load(small.model)
    results = []
    for padding in (0.0, 1e6, np.nan):
        padded = np.where(
            (np.arange(12) < lengths[:, None])[..., None], x, np.float32(padding)
        )
        results.append(*model.run(padded, None, lengths)[0].values())
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize(
    ("flags", "machine", "target"),
    [
        ("flags : fpu avx2 avx512f", "x86_64", "x86"),
        ("flags : fpu avx2 avx512_vnni", "x86_64", "x86-vnni"),
        ("flags : avx2 avx_vnni", "AMD64", "x86-vnni"),
        ("", "AMD64", "x86"),
        ("Features : fp asimd", "aarch64", "arm"),
        ("", "arm64", "arm"),
    ],
)
def test_the_target_is_read_off_the_processor(monkeypatch, flags, machine, target):
    monkeypatch.setattr(
        precision, "read_cpuinfo", lambda: dict([flags.split(" : ")]) if flags else {}
    )
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    assert precision.detect_target() == target
