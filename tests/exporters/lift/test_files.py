"""Files that can't be used are refused in one line; external data is read from the model's folder only."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError, LstmEdgeError, NotFoundError

DATA = Path(__file__).parents[2] / "runtime/data"


@pytest.fixture
def model(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 8, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["L", "N", 3]}, ["y"])


def test_external_data_ends_up_inside_the_lifted_file(model, tmp_path):
    inside = lift(model.SerializeToString())
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    lifted = lift(path)
    lifted.save(tmp_path / "out.onnx")
    (tmp_path / "m.bin").unlink()
    feeds = np.ones((4, 2, 3), np.float32)
    got, _ = load(tmp_path / "out.onnx").run(feeds)
    expected, _ = load(inside.model).run(feeds)
    np.testing.assert_array_equal(got["y"], expected["y"])


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
    with pytest.raises(FileFormatError, match="weights in another file, can't be read"):
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


def test_input_axes_that_do_not_fit_are_refused(model):
    with pytest.raises(InputError, match="no input 'z'; the inputs are x"):
        lift(model.SerializeToString(), LiftConfig(inputs={"z": ("N",)}))
    with pytest.raises(InputError, match="3 axes, 2 were given"):
        lift(model.SerializeToString(), LiftConfig(inputs={"x": ("N", "L")}))


def test_an_input_without_a_shape_is_asked_for_and_taken(model):
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InputError, match="declares no shape; give its axes: --input x=N,L,8"):
        lift(model.SerializeToString())
    lifted = lift(model.SerializeToString(), LiftConfig(inputs={"x": ("L", "N", 3)}))
    assert lifted.manifest.inputs[0].axes == ("L", "N", 3)


def test_a_seed_below_0_is_refused(model):
    with pytest.raises(InputError, match="seed is -1"):
        lift(model.SerializeToString(), LiftConfig(seed=-1))


def test_a_device_is_said_to_be_no_plain_file():
    with pytest.raises(FileFormatError, match=r"/dev/null.* is not a regular file"):
        lift("/dev/null")


@pytest.fixture
def quantized(network, tmp_path):
    def write(**convolution):
        from onnxruntime.quantization import quantize_dynamic

        net = network()
        x = net.add("Transpose", ["x"], perm=[1, 2, 0])
        x = net.add("Conv", [x, net.weight(8, 4, 3 if convolution else 1)], **convolution)
        x = net.add("MatMul", [net.add("Transpose", [x], perm=[2, 0, 1]), net.weight(8, 8)])
        y, *_ = net.recurrent("LSTM", x, 8, 16, outputs=("Y",))
        net.add("MatMul", [net.squeeze(y, 1), net.weight(16, 3)], ["y"])
        onnx.save(net.model({"x": ["L", "N", 4]}, ["y"]), tmp_path / "m.onnx")
        quantize_dynamic(tmp_path / "m.onnx", tmp_path / "q.onnx", per_channel=True)
        return tmp_path / "q.onnx"

    return write


def test_a_quantized_file_is_lifted_and_its_chunks_are_compared_in_float(quantized):
    lifted = lift(quantized())
    assert [s.axes for s in lifted.report.lifted] == [(1, "N", 16)] * 2
    assert lifted.manifest.precision == "int8"
    assert lifted.report.chunks.in_float
    assert lifted.report.unstreamable == ""


def test_a_convolution_over_time_is_seen_in_a_quantized_file(quantized):
    assert "Conv" in lift(quantized(pads=[1, 1])).report.unstreamable


def test_the_float_twin_is_within_a_quantization_step_of_the_file(quantized):
    import onnx_ir as ir

    from lstm_edge_exporters.graph import to_bytes
    from lstm_edge_exporters.lift.quantized import float_twin, is_quantized

    path = quantized(pads=[1, 1])
    twin = float_twin(ir.load(path))
    assert not is_quantized(twin)
    x = np.random.default_rng(0).standard_normal((9, 2, 4)).astype(np.float32)
    got, expected = (
        onnxruntime.InferenceSession(content).run(None, {"x": x})[0] for content in (to_bytes(twin), path)
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.05 * np.abs(expected).max())


@pytest.mark.system
def test_damaged_bytes_never_give_a_traceback_or_more_than_one_line(model, capfd):
    content, rng = model.SerializeToString(), np.random.default_rng(0)
    messages = []
    for _ in range(80):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 5)):
            damaged[place] = rng.integers(0, 256)
        try:
            lift(bytes(damaged))
        except LstmEdgeError as error:
            messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)
    assert capfd.readouterr() == ("", "")


def test_nodes_without_a_name_are_lifted_and_named_by_their_kind(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 4, outputs=("Y",), name="")
    net.recurrent("LSTM", net.squeeze(net.nodes[-1].output[0], 1), 4, 4, outputs=("Y",), name="")
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    lifted = lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString())
    assert [state.input for state in lifted.report.lifted] == [
        "lstm0_h_0",
        "lstm0_c_0",
        "lstm1_h_0",
        "lstm1_c_0",
    ]


def test_nodes_that_stand_before_what_they_read_are_sorted(model):
    """onnxruntime's own float16 converter writes such files, and onnxruntime takes them."""
    expected = lift(model.SerializeToString())
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    got = lift(model.SerializeToString())
    feeds = np.ones((4, 2, 3), np.float32)
    np.testing.assert_array_equal(load(got.model).run(feeds)[0]["y"], load(expected.model).run(feeds)[0]["y"])
