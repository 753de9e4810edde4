import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError
from lstm_edge_runtime.onnx_reader import SparseTensor, Tensor, add_outputs, read_onnx

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

DATA = Path(__file__).parent / "data"


def model_of(nodes=(), initializers=(), sparse=(), functions=(), **options):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, ["N", 3])],
        [info("y", TensorProto.FLOAT, ["N", None])],
        list(initializers),
        sparse_initializer=list(sparse),
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], functions=list(functions), **options
    )


def read(model, folder=None):
    return read_onnx(model.SerializeToString(), folder)


def outside(location, name="w"):
    """A tensor whose values are elsewhere."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "4"}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def plain(proto):
    """What onnx's own helper gives for an attribute, as the reader gives it."""
    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple) or hasattr(value, "append"):
        return tuple(each.decode() if isinstance(each, bytes) else each for each in value)
    return value


def onnx_files():
    found = sorted(Path(onnx.__file__).parent.joinpath("backend/test/data").rglob("model.onnx"))
    return [*DATA.glob("*.onnx"), *found]


def same_graph(graph, proto):
    stored = {tensor.name for tensor in proto.initializer}
    assert [node.op_type for node in graph.nodes] == [node.op_type for node in proto.node]
    assert [(node.domain, node.name) for node in graph.nodes] == [(n.domain, n.name) for n in proto.node]
    assert [node.inputs for node in graph.nodes] == [tuple(node.input) for node in proto.node]
    assert [node.outputs for node in graph.nodes] == [tuple(node.output) for node in proto.node]
    assert [each.name for each in graph.inputs] == [v.name for v in proto.input if v.name not in stored]
    assert [each.name for each in graph.outputs] == [value.name for value in proto.output]
    assert list(graph.initializers) == [tensor.name for tensor in proto.initializer]
    for tensor in proto.initializer:
        same_array(graph.initializers[tensor.name], tensor)
    for node, expected in zip(graph.nodes, proto.node, strict=True):
        assert list(node.attributes) == [entry.name for entry in expected.attribute]
        for entry in expected.attribute:
            value = node.attributes[entry.name]
            if isinstance(value, Tensor):
                same_array(value, entry.t)
            elif entry.type == onnx.AttributeProto.GRAPH:
                same_graph(value, entry.g)
            else:
                assert value == plain(entry)


def same_array(tensor, proto):
    if proto.data_type != TensorProto.STRING:
        expected = numpy_helper.to_array(proto)
        assert (tensor.shape, tensor.size) == (expected.shape, expected.size)
        np.testing.assert_array_equal(tensor.array(), expected)


@pytest.mark.parametrize("path", onnx_files(), ids=lambda path: path.parent.name + "/" + path.stem)
def test_what_is_read_is_what_onnx_reads(path):
    content = path.read_bytes()
    proto, file = onnx.load_model_from_string(content), read_onnx(content, path.parent)
    assert file.opsets == {entry.domain: entry.version for entry in proto.opset_import}
    assert (file.ir_version, file.producer) == (proto.ir_version, proto.producer_name)
    assert file.metadata == {entry.key: entry.value for entry in proto.metadata_props}
    same_graph(file.graph, proto.graph)


def test_inputs_and_outputs_tell_dtype_and_axes():
    graph = read(model_of()).graph
    assert graph.inputs == (("x", "float32", ("N", 3)),)
    assert graph.outputs == (("y", "float32", ("N", None)),)


DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, "uint64", "bool", "complex64", "complex128"])
def test_values_are_read_however_they_are_stored(dtype, raw):
    rng = np.random.default_rng(1)
    low = 0 if dtype.startswith(("u", "b")) else -100
    array = rng.integers(low, 2 if dtype == "bool" else 100, size=(3, 1, 4)).astype(dtype)
    if array.dtype.kind in "iu":
        array.flat[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.flatten().tolist()
    if dtype == "float16" and not raw:
        values = array.flatten()
    tensor = helper.make_tensor("w", kind, array.shape, values, raw=raw)
    found = read(model_of(initializers=[tensor])).graph.initializers["w"]
    assert (found.dtype, found.shape) == (dtype, (3, 1, 4))
    np.testing.assert_array_equal(found.array(), array)


@pytest.mark.parametrize("dtype", ["INT4", "UINT4", "INT2", "UINT2", "BFLOAT16"])
@pytest.mark.parametrize("raw", [True, False])
def test_small_types_that_numpy_lacks_are_widened(dtype, raw):
    if not hasattr(TensorProto, dtype):
        pytest.skip("this onnx does not know it")
    values = {"INT4": [-8, 7, 0, -1, 3], "UINT4": [0, 15, 7, 8, 1], "INT2": [-2, 1, 0, -1, 1]}
    expected = values.get(dtype, [0, 3, 2, 1, 3] if dtype == "UINT2" else [0.0, -1.5, 3.25, 1e38, 2.0**-120])
    tensor = helper.make_tensor("w", getattr(TensorProto, dtype), [5], expected)
    array = numpy_helper.to_array(tensor)
    if raw:
        tensor = numpy_helper.from_array(array, "w")
    found = read(model_of(initializers=[tensor])).graph.initializers["w"].array()
    np.testing.assert_array_equal(found, array.astype(found.dtype))


def test_raw_values_are_views_of_the_file(tmp_path):
    content = model_of(initializers=[numpy_helper.from_array(np.arange(6.0), "w")]).SerializeToString()
    array = read_onnx(content).graph.initializers["w"].array()
    assert np.shares_memory(array, np.frombuffer(content, np.uint8))
    assert not array.flags.writeable


def test_external_data_is_read_from_its_place(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(bytes(8) + np.array([1.5, 2.5], "<f4").tobytes())
    tensor = outside("sub/w.bin")
    tensor.dims[:] = [2]
    del tensor.external_data[1:]
    tensor.external_data.add(key="offset", value="8")
    file = read(model_of(initializers=[tensor]), tmp_path)
    assert file.external_paths() == {str(tmp_path / "sub" / "w.bin")}
    assert file.graph.initializers["w"].array().tolist() == [1.5, 2.5]


def anywhere(tensor):
    """The tensor in every place where a file may have one."""
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "v"), tensor, [4])
    values = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [4])
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    constant = helper.make_node("Constant", [], ["c"], value=tensor)
    lists = helper.make_node("Custom", ["x"], ["y"], domain="d")
    lists.attribute.append(onnx.AttributeProto(name="ts", type=onnx.AttributeProto.TENSORS, tensors=[tensor]))
    many = helper.make_node("Custom", ["x"], ["y"], domain="d")
    many.attribute.append(
        onnx.AttributeProto(name="ss", type=onnx.AttributeProto.SPARSE_TENSORS, sparse_tensors=[values])
    )
    function = helper.make_function("d", "F", ["x"], ["c"], [constant], [helper.make_opsetid("", 18)])
    default = helper.make_function("d", "F", ["x"], ["y"], [], [helper.make_opsetid("", 18)])
    default.attribute_proto.append(helper.make_attribute("t", tensor))
    return {
        "initializer": model_of(initializers=[tensor]),
        "sparse indices": model_of(sparse=[sparse]),
        "sparse values": model_of(sparse=[values]),
        "constant": model_of([constant]),
        "sparse constant": model_of([helper.make_node("Constant", [], ["c"], sparse_value=values)]),
        "inner graph": model_of([helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)]),
        "list": model_of([lists]),
        "sparse list": model_of([many]),
        "function": model_of(functions=[function]),
        "function's default": model_of(functions=[default]),
    }


PLACES = list(anywhere(outside("w")))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "link.bin", "w\0.bin", ""]
)
def test_external_data_outside_the_folder_is_refused_wherever_the_tensor_is(location, place, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(4))
    here = tmp_path / "here"
    (here / "a").mkdir(parents=True)
    (here / "link.bin").symlink_to(tmp_path / "w.bin")
    file = read(anywhere(outside(location))[place], here)
    with pytest.raises(FileFormatError, match="outside its folder; refused as unsafe"):
        file.external_paths()
    with pytest.raises(FileFormatError, match="outside its folder; refused as unsafe"):
        next(tensor for tensor in file.every_tensor() if tensor.external).array()


@pytest.mark.parametrize("location", ["*/_ORT_MEM_ADDR_/*", "*/_ORT_MEM_ADDR_/*/x"])
def test_an_address_of_memory_is_no_place_for_weights(location, tmp_path):
    (tmp_path / "*" / "_ORT_MEM_ADDR_" / "*").mkdir(parents=True)
    (tmp_path / "*" / "_ORT_MEM_ADDR_" / "*" / "x").write_bytes(bytes(4))
    with pytest.raises(FileFormatError, match="refused as unsafe"):
        read(model_of(initializers=[outside(location)]), tmp_path).external_paths()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "w.bin", "offset": "9"}, "has 8 bytes, expected -1 from 9 on"),
        ({"location": "w.bin", "offset": "-4", "length": "4"}, "expected 4 from -4 on"),
        ({"location": "w.bin", "offset": "4", "length": "8"}, "expected 8 from 4 on"),
        ({"location": "w.bin", "offset": "0", "length": "8"}, r"has 2 values, expected float32 \(1,\)"),
        ({"location": "w.bin", "offset": "x"}, "expected a whole offset and length"),
        ({"offset": "0"}, "does not name one file"),
    ],
)
def test_external_data_that_does_not_fit_is_refused(entries, message, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(8))
    tensor = outside("w.bin")
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(FileFormatError, match=message):
        read(model_of(initializers=[tensor]), tmp_path).graph.initializers["w"].array()


def test_data_that_one_of_two_locations_names_is_refused(tmp_path):
    tensor = outside("w.bin")
    tensor.external_data.add(key="location", value="/etc/hostname")
    with pytest.raises(FileFormatError, match="does not name one file"):
        read(model_of(initializers=[tensor]), tmp_path)


@pytest.mark.parametrize("rank", [1, 2])
def test_sparse_tensors_become_dense(rank):
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "s")
    places = np.array([1, 5]) if rank == 1 else np.array([[0, 1], [1, 2]])
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "i"), [2, 3])
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    graph = read(model_of([node], sparse=[sparse])).graph
    for found in (graph.sparse_initializers["s"], graph.nodes[0].attributes["sparse_value"]):
        assert isinstance(found, SparseTensor)
        assert found.array().tolist() == [[0, 1, 0], [0, 0, 2]]


@pytest.mark.parametrize("places", [[1, 6], [-1, 0], [0], [[0, 1], [1, 3]], [0.5, 1.0]])
def test_sparse_tensors_with_wrong_indices_are_refused(places):
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(places), "i"), [2, 3])
    with pytest.raises(FileFormatError, match="sparse tensor 's' has indices"):
        read(model_of(sparse=[sparse])).graph.sparse_initializers["s"].array()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": [3]}, r"has 2 values, expected float32 \(3,\)"),
        ({"dims": [-2]}, "has 2 values"),
        ({"dims": [1 << 62, 1 << 62]}, "has 2 values"),
        ({"dims": [0, 1 << 62, 1 << 62], "raw_data": b""}, "can't be read"),
        ({"raw_data": b"123"}, "can't be read"),
        ({"data_type": 8}, "dtype string"),
        ({"data_type": 99}, "dtype type 99"),
    ],
)
def test_values_that_do_not_fill_their_shape_are_refused(change, message):
    tensor = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "w")
    for name, value in change.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    with pytest.raises(FileFormatError, match=message):
        read(model_of(initializers=[tensor])).graph.initializers["w"].array()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda graph: graph.initializer[2].dims.__setitem__(0, 1 << 62), "does not fill float32"),
        (lambda graph: graph.initializer[2].dims.__setitem__(1, -32), "does not fill float32"),
        (
            lambda graph: setattr(graph.node[1].attribute[0], "i", 1),
            "Split.* has 2 outputs, and num",
        ),
    ],
)
def test_what_ends_the_process_in_onnxruntime_is_refused_before_it(edit, message):
    model = onnx.load(DATA / "lstm.onnx")
    read(model).check()
    edit(model.graph)
    with pytest.raises(FileFormatError, match=message):
        load(model.SerializeToString())


def test_messages_that_come_in_two_parts_are_merged_as_protobuf_does():
    whole = model_of(initializers=[outside("../w.bin")])
    part = onnx.ModelProto()
    part.graph.initializer.add().CopyFrom(outside("../v.bin", "v"))
    content = whole.SerializeToString() + part.SerializeToString()
    assert len(onnx.load_model_from_string(content).graph.initializer) == 2
    assert list(read_onnx(content).graph.initializers) == ["w", "v"]


def test_a_tensor_beside_an_attribute_of_another_kind_does_not_hide():
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.append(onnx.AttributeProto(name="a", type=onnx.AttributeProto.INT, i=1, t=outside("../w")))
    with pytest.raises(FileFormatError, match="attribute 'a' has values of two types"):
        read(model_of([node]))
    node.attribute[0].CopyFrom(helper.make_attribute("a", 1))
    node.attribute.append(helper.make_attribute("a", outside("../w")))
    with pytest.raises(FileFormatError, match="two attributes 'a'"):
        read(model_of([node]))
    with pytest.raises(FileFormatError, match="two tensors with the same name"):
        read(model_of(initializers=[outside("../w"), numpy_helper.from_array(np.ones(1), "w")]))


def test_outputs_are_added_without_onnx():
    content = add_outputs(model_of().SerializeToString(), ["x", "a" * 300])
    assert [each.name for each in onnx.load_model_from_string(content).graph.output] == ["y", "x", "a" * 300]


NOT_TEXT = b"caf\xe9"


@pytest.mark.parametrize("where", [b"the_name", b"the_op", b"the_key", b"the_value", b"the_input"])
def test_text_that_is_not_utf_8_is_one_line(where):
    node = helper.make_node("the_op", ["the_input"], ["y"], name="the_name")
    model = model_of([node])
    model.metadata_props.add(key="the_key", value="the_value")
    content = model.SerializeToString()
    assert where in content
    with pytest.raises(FileFormatError, match=r"expected UTF-8 text; export it again$") as caught:
        read_onnx(content.replace(where, NOT_TEXT.ljust(len(where), b"_")))
    assert "\n" not in str(caught.value)


def test_an_attribute_may_hold_any_bytes():
    node = helper.make_node("Custom", ["x"], ["y"], domain="d", blob=NOT_TEXT, many=[b"one", NOT_TEXT])
    assert read(model_of([node])).graph.nodes[0].attributes == {"blob": NOT_TEXT, "many": ("one", NOT_TEXT)}


def test_old_files_do_not_say_an_attributes_kind():
    node = helper.make_node("Custom", ["x"], ["y"], domain="d", a=1, b=2.5, c="s", d=[1, 2], e=[0.5])
    for entry in node.attribute:
        entry.ClearField("type")
    found = read(model_of([node])).graph.nodes[0].attributes
    assert found == {"a": 1, "b": 2.5, "c": "s", "d": (1, 2), "e": (0.5,)}


def test_deeply_nested_graphs_are_refused_and_do_not_end_the_process():
    content = b""
    for _ in range(3000):  # node { attribute { g } } }
        for number in (6, 5, 1):
            content = bytes([number << 3 | 2]) + encoded(len(content)) + content
    with pytest.raises(FileFormatError):
        read_onnx(bytes([7 << 3 | 2]) + encoded(len(content)) + content)


def encoded(size):
    found = bytearray()
    while size >= 0x80:
        found.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*found, size])


WHOLE = anywhere(numpy_helper.from_array(np.arange(3, dtype=np.float32), "w"))


def use(content, folder):
    file = read_onnx(content, folder)
    file.external_paths()
    for tensor in file.every_tensor():
        tensor.array()
    for sparse in file.graph.sparse_initializers.values():
        sparse.array()
    return list(file.every_node())


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_in_one_line_or_read(data):
    content = bytearray(WHOLE[data.draw(st.sampled_from(PLACES))].SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    try:
        use(bytes(content), os.devnull)
    except FileFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused_in_one_line(content):
    try:
        use(content, None)
    except FileFormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
