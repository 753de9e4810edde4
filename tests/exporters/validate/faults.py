"""Faults that are put into files."""

import numpy as np
from onnx import helper, numpy_helper

from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed


def recurrent(model, ops=("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")):
    return next(node for node in model.graph.node if node.op_type in ops)


def change(model, name, how):
    """Replace an initializer's array by ``how(array)``."""
    tensor = next(
        initializer
        for initializer in model.graph.initializer
        if initializer.name == name
    )
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(
        numpy_helper.from_array(
            np.ascontiguousarray(how(array)).astype(array.dtype), name
        )
    )


def restate(model, **fields):
    """Change fields of the manifest; a function gets the current value."""
    entry = next(prop for prop in model.metadata_props if prop.key == KEY)
    manifest = read_manifest(entry.value)
    values = {
        name: how(getattr(manifest, name)) if callable(how) else how
        for name, how in fields.items()
    }
    entry.value = manifest._replace(**values).to_json()


def _one_ulp(array):
    flat = array.reshape(-1)
    index = int(np.abs(flat).argmax()) // 2
    flat[index] = np.nextafter(flat[index], np.float32(np.inf))
    return array


def _swapped(array, axis, order=(1, 0, 2, 3)):
    gates = np.split(array, len(order), axis)
    return np.concatenate([gates[index] for index in order], axis)


def _weight(position):
    return lambda model, how: change(model, recurrent(model).input[position], how)


def one_ulp_of_a_weight(model):
    _weight(1)(model, _one_ulp)


def one_ulp_of_a_bias(model):
    _weight(3)(model, _one_ulp)


def gates_exchanged(model):
    _weight(1)(model, lambda array: _swapped(array, 1))


def one_number_of_the_head(model):
    head = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]

    def moved(array):
        array.reshape(-1)[0] *= 1.001
        return array

    change(model, head.input[1], moved)


def state_not_carried(model):
    """Return the initial state as the last."""
    state = recurrent(model).input[5]
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "h_n":
                node.output[index] = "h_lost"
            for position, read in enumerate(node.input):
                if read == "h_n":
                    node.input[position] = "h_lost"
    model.graph.node.append(helper.make_node("Identity", [state], ["h_n"]))


def state_ignored(model):
    recurrent(model).input[5] = ""


def runs_backwards(model):
    node = recurrent(model)
    kept = [attribute for attribute in node.attribute if attribute.name != "direction"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("direction", "reverse")])


def gates_clipped(model):
    recurrent(model).attribute.append(helper.make_attribute("clip", 4.0))


def another_epsilon(model):
    node = next(
        node for node in model.graph.node if node.op_type == "LayerNormalization"
    )
    kept = [attribute for attribute in node.attribute if attribute.name != "epsilon"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("epsilon", 1e-3)])


def first_steps_only(model):
    """Cut the input after 60 steps."""
    name = model.graph.input[0].name
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array([value], np.int64), f"cut_{key}")
        for key, value in (("start", 0), ("end", 60), ("axis", 1), ("steps", 1))
    )
    for node in model.graph.node:
        for position, read in enumerate(node.input):
            if read == name and node.op_type != "Shape":
                node.input[position] = "cut"
    model.graph.node.insert(
        0,
        helper.make_node(
            "Slice", [name, "cut_start", "cut_end", "cut_axis", "cut_steps"], ["cut"]
        ),
    )


def rows_mixed(model):
    """Every row takes 0 times the sum of all, which is 0 unless a row is NaN."""
    name = model.graph.input[0].name
    zero = np.zeros(1, np.float32)
    model.graph.initializer.append(numpy_helper.from_array(zero, "zero"))
    for node in model.graph.node:
        node.input[:] = [
            "mixed" if read == name and node.op_type != "Shape" else read
            for read in node.input
        ]
    made = (
        ("ReduceSum", [name], ["all"]),
        ("Mul", ["all", "zero"], ["none"]),
        ("Add", [name, "none"], ["mixed"]),
    )
    for index, node in enumerate(made):
        model.graph.node.insert(index, helper.make_node(*node))


def save(model, path):
    path.write_bytes(sealed(model.SerializeToString()))
    return path
