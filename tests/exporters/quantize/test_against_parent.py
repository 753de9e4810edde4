"""An int8 or fp16 file that differs from its float parent by more than its weights' rounding is found."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.quantize import QuantizeConfig, quantize
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_exporters.verify.expected import against_file
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_exporters.verify.validate import validate
from lstm_edge_runtime.manifest import KEY, Manifest
from lstm_edge_runtime.ort import sealed

QUICK = ValidateConfig(quick=True)
FILES = {
    "int8": ("LSTM", QuantizeConfig(target="x86-vnni")),
    "7 bits": ("LSTM", QuantizeConfig(target="x86")),
    "stored": ("GRU", QuantizeConfig()),
    "fp16": ("LSTM", QuantizeConfig("fp16", target="x86")),
}


@pytest.fixture(scope="module", params=FILES)
def pair(request, network, tmp_path_factory):
    """Return a float file and what was quantized from it."""
    kind, config = FILES[request.param]
    folder = tmp_path_factory.mktemp("pair")
    (folder / "float.onnx").write_bytes(network(kind))
    quantize(folder / "float.onnx", config).save(folder / "smaller.onnx")
    return folder / "float.onnx", folder / "smaller.onnx"


def failed(path, parent):
    """Return the names of the checks that failed."""
    file = open_file(path)
    report = validate(file, against_file(parent, file), QUICK)
    return [check.name for group in report.groups for check in group.failed]


def zero_head_bias(model):
    head = [node for node in model.graph.node if node.op_type in ("Add", "Gemm")][-1]
    bias = next(each for each in model.graph.initializer if each.name in head.input and len(each.dims) == 1)
    bias.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(bias)), bias.name))


def scale_output(model):
    for node in model.graph.node:
        node.output[:] = ["unscaled" if name == "logits" else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.4), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], ["logits"]))


def zero_columns(model):
    small = (TensorProto.INT8, TensorProto.FLOAT16)
    weights = [each for each in model.graph.initializer if each.data_type in small]
    weight = max(weights, key=lambda each: np.prod(each.dims))
    array = numpy_helper.to_array(weight).copy()
    array[..., 5:8] = 0
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))


def test_a_quantized_file_is_its_float_parent_but_for_rounding(pair):
    parent, path = pair
    assert failed(path, parent) == []


@pytest.mark.parametrize("fault", [zero_head_bias, scale_output, zero_columns])
def test_a_fault_within_the_budgets_is_found_by_the_float_parent_alone(fault, pair, tmp_path):
    parent, path = pair
    model = onnx.load(path)
    fault(model)
    (tmp_path / "faulty.onnx").write_bytes(sealed(model.SerializeToString()))
    assert "bit for bit" in failed(tmp_path / "faulty.onnx", parent)


@pytest.mark.parametrize("field", ["outputs", "limit"])
def test_the_golden_case_is_the_parents_and_its_limits_are_what_the_file_needs(field, pair, tmp_path):
    parent, path = pair
    model = onnx.load(path)
    prop = next(each for each in model.metadata_props if each.key == KEY)
    manifest = Manifest.from_json(prop.value)
    changed = {name: 1.01 * array if field == "outputs" else 20 * array for name, array in
               getattr(manifest.golden, field).items()}  # fmt: skip
    golden = manifest.golden._replace(**{field: changed})
    prop.value = manifest._replace(golden=golden).to_json()
    (tmp_path / "restated.onnx").write_bytes(sealed(model.SerializeToString()))
    assert any("golden case" in name for name in failed(tmp_path / "restated.onnx", parent))
