"""Files that can't be used are refused in one line; external data is read from the model's folder only."""

import os

import onnx
import pytest
from onnx import helper

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime.errors import FileFormatError, InputError, LstmEdgeError, NotFoundError


@pytest.fixture
def model(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 8, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["L", "N", 3]}, ["y"])


@pytest.mark.parametrize("location", ["../m.bin", "{folder}/m.bin", "link.bin"])
def test_external_data_outside_the_models_folder_is_refused(model, tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    (folder / "m.bin").rename(tmp_path / "m.bin")
    (folder / "link.bin").symlink_to(tmp_path / "m.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location.format(folder=tmp_path)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match="weights in another file can't be read"):
        lift(path)


def test_external_data_that_is_missing_or_short_or_unreachable_is_refused(model, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    with pytest.raises(FileFormatError, match=r"its weights are in .*; load it by its path"):
        lift(path.read_bytes())
    os.truncate(tmp_path / "m.bin", 10)
    with pytest.raises(FileFormatError, match="weights in another file"):
        lift(path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(FileFormatError, match="weights in another file"):
        lift(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_gets_one_clear_line(model, share):
    content = model.SerializeToString()
    with pytest.raises(LstmEdgeError) as caught:
        lift(content[: int(len(content) * share)])
    assert "\n" not in str(caught.value)


def test_foreign_and_old_and_absent_files_are_refused(model, tmp_path):
    with pytest.raises(FileFormatError, match="not an ONNX file"):
        lift(b"PK\x03\x04 this is a zip file, not a network")
    with pytest.raises(NotFoundError, match="does not exist"):
        lift(tmp_path / "absent.onnx")
    with pytest.raises(FileFormatError, match="is a folder"):
        lift(tmp_path)
    model.opset_import[0].version = 6
    with pytest.raises(FileFormatError, match="opset 6, expected 7"):
        lift(model.SerializeToString())


def test_a_file_that_onnxruntime_refuses_is_refused_with_its_reason(model):
    model.graph.node[-1].op_type = "NoSuchOperator"
    with pytest.raises(FileFormatError, match="NoSuchOperator"):
        lift(model.SerializeToString())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": ("N",)}, "no input 'z'; the inputs are x"),
        ({"x": ("N", "L")}, "3 axes, 2 were given"),
        ({"x": ("N", "N", 3)}, "sizes are from 1, and no two names are the same"),
        ({"x": ("N", 0, 3)}, "sizes are from 1, and no two names are the same"),
    ],
)
def test_input_axes_that_do_not_fit_are_refused(model, inputs, message):
    with pytest.raises(InputError, match=message):
        lift(model.SerializeToString(), LiftConfig(inputs=inputs))


def test_an_input_without_a_shape_is_asked_for_and_taken(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="declares no shape; give its axes: --input x=N,L,8"):
        lift(model.SerializeToString())
    lifted = lift(model.SerializeToString(), LiftConfig(inputs={"x": ("L", "N", 3)}))
    assert lifted.manifest.inputs[0].axes == ("L", "N", 3)


def test_a_node_inside_a_function_is_lifted(network):
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",), name="inner")
    net.add("Identity", [y], ["y"])
    model = net.model({"x": ["L", "N", 3]}, ["y"])
    inner = net.nodes[0]
    weights = list(inner.input[1:4])
    function = helper.make_function(
        "local", "layer", ["x", *weights], [y], [inner], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(helper.make_node("layer", ["x", *weights], [y], domain="local"))
    lifted = lift(model.SerializeToString())
    assert [state.input for state in lifted.report.lifted] == ["h_0"]
