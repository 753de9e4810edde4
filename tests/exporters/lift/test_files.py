"""Files that can't be used are refused in one line; external data is read from the
model's folder only."""

import onnx
import pytest
from onnx import TensorProto, helper

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    LstmEdgeError,
    NotFoundError,
)


@pytest.fixture
def model(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 8, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["L", "N", 3]}, ["y"])


@pytest.mark.parametrize(
    "location", ["../m.bin", "{folder}/m.bin", "link.bin", "absent.bin", "short.bin"]
)
def test_external_data_is_read_whole_and_from_the_models_folder_only(
    model, tmp_path, location
):
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="m.bin", size_threshold=0
    )
    (folder / "short.bin").write_bytes((folder / "m.bin").read_bytes()[:10])
    (folder / "m.bin").rename(tmp_path / "m.bin")
    (folder / "link.bin").symlink_to(tmp_path / "m.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = location.format(folder=tmp_path)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FileFormatError, match="weights in another file can't be read"):
        lift(path)
    with pytest.raises(
        FileFormatError, match=r"its weights are in .*; load it by its path"
    ):
        lift(path.read_bytes())


def edited(model, *, opset=17, operator="Identity"):
    model.opset_import[0].version = opset
    model.graph.node[-1].op_type = operator
    return model.SerializeToString()


def untyped(model):
    """Return the file with a constant of no data type."""
    model.graph.initializer[0].CopyFrom(TensorProto(name="W", dims=[3]))
    return model.SerializeToString()


def without_results(model):
    """Return the file of a graph that has no outputs."""
    del model.graph.output[:]
    return model.SerializeToString()


def test_nodes_may_come_in_any_order(model):
    model.graph.node.reverse()
    assert [state.input for state in lift(model.SerializeToString()).report.lifted] == [
        "h_0",
        "c_0",
    ]


NO_NETWORKS = {
    "not an ONNX file": lambda *_: b"PK\x03\x04 this is a zip file, not a network",
    "does not exist": lambda _, folder: folder / "absent.onnx",
    "is a folder": lambda _, folder: folder,
    "opset 6, expected 7": lambda model, _: edited(model, opset=6),
    "NoSuchOperator": lambda model, _: edited(model, operator="NoSuchOperator"),
    "carries lstm-edge's manifest": lambda model, _: lift(edited(model)).model,
    "no node of the graph computes": lambda model, _: without_results(model),
    "Tensor does not have type information": lambda model, _: untyped(model),
    "is empty": lambda *_: b"",
}


@pytest.mark.parametrize("message", NO_NETWORKS)
def test_what_is_no_network_of_another_tool_is_refused_in_one_line(
    model, tmp_path, message
):
    with pytest.raises(
        (FileFormatError, InputError, NotFoundError), match=message
    ) as caught:
        lift(NO_NETWORKS[message](model, tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_gets_one_clear_line(model, share):
    content = model.SerializeToString()
    with pytest.raises(LstmEdgeError) as caught:
        lift(content[: int(len(content) * share)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": {"z": ("N",)}}, "no input 'z'; the inputs are x, sr"),
        ({"inputs": {"x": ("N", "L")}}, "3 axes, 2 were given"),
        (
            {"inputs": {"x": ("N", "N", 3)}},
            "names are different identifiers",
        ),
        ({"inputs": {"x": ("N", 0, 3)}}, "sizes are from 1"),
        ({"inputs": {"x": ("N", "seq-len", 3)}}, "identifiers such as N and L"),
        ({"constants": {"rate": 1}}, "no input 'rate'; the inputs are x, sr"),
        ({"constants": {"sr": 0.5}}, "sr int64 .* can't be the number 0.5"),
        ({"constants": {"sr": 1e30}}, "sr int64 .* can't be the number 1e\\+30"),
        ({"constants": {"sr": float("nan")}}, "sr int64 .* can't be the number nan"),
        ({"constants": {"x": 1}}, "x .* can't be the number 1"),
        ({"states": {"x": "y"}}, "of one shape: the inputs are x float32"),
        ({"states": {"h": "y"}}, "of one shape: the inputs are x float32"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, options, message):
    model.graph.input.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    with pytest.raises(InputError, match=message):
        lift(model.SerializeToString(), LiftConfig(**options))


def test_an_input_without_a_shape_is_asked_for_and_taken(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(
        InputError, match="declares no shape; give its axes: --input x=N,L,8"
    ):
        lift(model.SerializeToString())
    lifted = lift(model.SerializeToString(), LiftConfig(inputs={"x": ("L", "N", 3)}))
    assert lifted.manifest.inputs[0].axes == ("L", "N", 3)


def test_a_node_inside_a_function_is_lifted(model):
    inner = onnx.NodeProto()
    inner.CopyFrom(model.graph.node[0])
    inputs = inner.input[:4]
    outputs = inner.output[:1]
    opset = helper.make_opsetid("", 17)
    model.functions.append(
        helper.make_function("local", "layer", inputs, outputs, [inner], [opset])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(
        helper.make_node("layer", inputs, outputs, domain="local")
    )
    lifted = lift(model.SerializeToString())
    assert [state.input for state in lifted.report.lifted] == ["h_0", "c_0"]


def test_a_size_of_the_file_is_never_evaluated(model):
    """``9**9**9`` has 369 million digits."""
    other = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", "9**9**9*L"])
    model.graph.input.append(other)
    model.graph.node.append(helper.make_node("Identity", ["z"], ["copy"]))
    model.graph.output.append(
        helper.make_tensor_value_info("copy", TensorProto.FLOAT, None)
    )
    lifted = lift(model.SerializeToString())
    assert [spec.axes for spec in lifted.manifest.inputs] == [
        ("L", "N", 3),
        ("N", "axis_9_9_9_L"),
    ]
