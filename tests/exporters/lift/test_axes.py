"""Batch and time are found where no name tells them, and sizes that the graph holds are asked for."""

import numpy as np
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError


def behind_a_reshape(network, axes, batch_first=True):
    net = network()
    x = net.add("Reshape", ["x", net.const(np.array([0, 0, 6]))])
    x = net.add("Transpose", [x], perm=[1, 0, 2]) if batch_first else x
    net.squeeze(net.recurrent("GRU", x, 6, 4, outputs=("Y",))[0], 1)
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": [*axes, 2, 3]}, ["y"]).SerializeToString()


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_files_own_names_are_told_apart_by_running_it(network, batch_first):
    lifted = lift(behind_a_reshape(network, ["one", "two"], batch_first))
    names = ("one", "two") if batch_first else ("two", "one")
    assert (lifted.manifest.batch, lifted.manifest.sequence) == names
    assert [s.axes for s in lifted.report.lifted] == [(1, names[0], 4)]


@pytest.mark.parametrize("name", ["N", "frames"])
def test_a_sequence_that_is_the_only_free_axis_is_not_taken_for_a_batch(network, name):
    """Frames become the time axis by an Unsqueeze; the batch is 1."""
    net = network()
    frames = net.add("Reshape", ["x", net.const(np.array([-1, 1, 3]))])
    net.recurrent("GRU", frames, 3, 4, outputs=("Y",))
    net.add("Reshape", [net.nodes[-1].output[0], net.const(np.array([-1, 4]))], ["y"])
    lifted = lift(net.model({"x": [name, 3]}, ["y"]).SerializeToString())
    assert (lifted.manifest.batch, lifted.manifest.sequence) == (None, name)


def test_fixed_lengths_of_two_inputs_that_differ_do_not_become_dynamic_as_one(network):
    net = network()
    for name in "ab":
        net.recurrent("GRU", name, 3, 4, outputs=("Y_h",), name=name)
    net.add("Concat", [node.output[1] for node in net.nodes], ["y"], axis=2)
    lifted = lift(net.model({"a": [5, 1, 3], "b": [7, 1, 3]}, ["y"]).SerializeToString())
    assert lifted.report.made_dynamic == ("batch",)
    assert [spec.axes for spec in lifted.manifest.inputs] == [(5, "N", 3), (7, "N", 3)]


def test_one_name_for_every_free_axis_is_no_name(network):
    net = network()
    net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    lifted = lift(net.model({"x": ["?", "?", 3]}, ["y"]).SerializeToString())
    assert lifted.manifest.inputs[0].axes == ("L", "N", 3)


def test_a_name_given_for_an_axis_is_taken_by_the_state_that_shares_it(network):
    net = network()
    rows = [net.add("Gather", ["state", net.const(np.array([row]))], axis=0) for row in (0, 1)]
    x = net.add("Unsqueeze", [net.add("MatMul", ["x", net.weight(8, 3)]), net.const(np.array([0]))])
    net.recurrent("LSTM", x, 3, 4, h=rows[0], c=rows[1], outputs=("Y", "Y_h", "Y_c"))
    y, *last = net.nodes[-1].output
    net.add("Concat", last, ["stateN"], axis=0)
    net.add("Identity", [y], ["y"])
    model = net.model({"x": ["batch", "samples"], "state": [2, "batch", 4]}, ["y", "stateN"])
    with pytest.raises(FileFormatError, match=r"does not run at other sizes: .*--input NAME=AXES"):
        lift(model.SerializeToString())
    lifted = lift(model.SerializeToString(), LiftConfig(inputs={"x": ("N", 8)}))
    assert [s.axes for s in lifted.report.recognized] == [(2, "N", 4)]
    stream = load(lifted.model).stream()
    stream.step(np.ones(8, np.float32))
    assert stream.state["state"].any()


@pytest.mark.parametrize("axes", [("N", "N", 2, 3), ("N", 0, 2, 3)])
def test_axes_that_make_no_sense_are_refused(network, axes):
    with pytest.raises(InputError, match="sizes are from 1, and no two names are the same"):
        lift(behind_a_reshape(network, ["one", "two"]), LiftConfig(inputs={"x": axes}))
