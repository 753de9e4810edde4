"""Lifted files whose recurrence is written out as a loop, as Keras layers are: the reference runs it too."""

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.reference import against_file
from tests.exporters.lift.conftest import Network
from tests.exporters.lift.test_loops import looped


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looped")
    onnx.save(looped(Network), folder / "original.onnx")
    lift(folder / "original.onnx").save(folder / "lifted.onnx")
    return folder


@pytest.mark.system
@pytest.mark.parametrize("alone", [True, False])
def test_a_lifted_loop_is_validated(files, alone):
    file = open_file(files / "lifted.onnx")
    reference = None if alone else against_file(files / "original.onnx", file)
    report = validate(file, reference, ValidateConfig(quick=True, steps=300))
    assert report.ok, report.headlines
    streaming = next(group for group in report.groups if group.key == "streaming")
    assert streaming.status == "passed"


@pytest.mark.system
def test_a_fault_in_the_body_of_a_loop_is_found(files, tmp_path):
    model = onnx.load(files / "lifted.onnx")
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(each.g for each in loop.attribute if each.name == "body")
    weight = next(each for each in body.initializer if len(each.dims) == 2)
    weight.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.001), weight.name)
    )
    onnx.save(model, tmp_path / "m.onnx")
    file = open_file(tmp_path / "m.onnx")
    report = validate(
        file, against_file(files / "original.onnx", file), ValidateConfig(quick=True, steps=300)
    )
    assert "sizes" in {group.key for group in report.groups if group.failed}
