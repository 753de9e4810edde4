"""Faults that are put into a float file and into an int8 one alike."""

import numpy as np
from onnx import helper, numpy_helper


def recurrent(model, ops=("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")):
    return next(node for node in model.graph.node if node.op_type in ops)


def change(model, name, how):
    """Put ``how(array)`` in the place of an initializer."""
    tensor = next(each for each in model.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(how(array)).astype(array.dtype), name))


def forget_state_output(model):
    """``c_n`` is what came in."""
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "c_n":
                node.output[place] = "c_lost"
    model.graph.node.append(helper.make_node("Identity", ["c_0"], ["c_n"]))


def ignore_state_input(model):
    node = recurrent(model)
    node.input[6] = ""


def swap_states(model):
    """``h_0`` and ``c_0`` change places where the layer reads them."""
    node = recurrent(model)
    node.input[5], node.input[6] = node.input[6], node.input[5]


def run_backwards(model):
    node = recurrent(model)
    kept = [each for each in node.attribute if each.name != "direction"]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("direction", "reverse")])
