"""States are lifted at the tensor that the nodes' rows are cut from, and only where it is constant."""

import numpy as np
import pytest

from lstm_edge_exporters.evaluate import evaluate
from lstm_edge_exporters.lift import lift, table
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, StateError


def two_layers(network, cut, opset=17, batch_first=False, learned=False):
    """PyTorch's form: one tensor (layers, N, H) for h and c alike, a row a layer."""
    net = network(opset)
    rows = (1, -2) if batch_first else (-2, 1)
    if learned:
        row = net.weight(*((1, 2, 4) if batch_first else (2, 1, 4)))
        root = net.add("Expand", [row, net.sizes("x", *rows, -4)])
    else:
        root = net.zeros("x", *rows, -4)
    x, width = "x", 3
    root = net.add("Transpose", [root], perm=[1, 0, 2]) if batch_first else root
    parts = net.add("Split", [root, net.const(np.array([1, 1]))], 2, axis=0) if cut == "Split" else None
    for layer in range(2):
        if cut == "Slice":
            part = net.slice(root, layer, layer + 1, 0)
        elif cut == "Gather":
            row = net.add("Gather", [root, net.const(np.array(layer))], axis=0)
            part = net.squeeze(row, 0, operator="Unsqueeze")
        else:
            part = parts[layer]
        y, *_ = net.recurrent("LSTM", x, width, 4, h=part, c=part, outputs=("Y",), name=f"l{layer}")
        x, width = net.squeeze(y, 1), 4
    net.add("Identity", [x], ["y"])
    return net.model({"x": ["L", "N", 3]}, ["y"])


@pytest.mark.parametrize("cut", ["Slice", "Gather", "Split"])
@pytest.mark.parametrize("learned", [False, True])
def test_rows_of_one_tensor_become_one_state_for_h_and_one_for_c(network, cut, learned):
    lifted = lift(two_layers(network, cut, learned=learned).SerializeToString())
    assert [(s.input, s.output, s.axes) for s in lifted.report.lifted] == [
        ("h_0", "h_n", (2, "N", 4)),
        ("c_0", "c_n", (2, "N", 4)),
    ]
    for state in lifted.report.lifted:
        assert np.shape(state.reset) == ((2, 1, 4) if learned else ())
    assert lifted.report.unstreamable == ""


@pytest.mark.parametrize("opset", [9, 11])
def test_the_same_holds_where_squeeze_and_slice_take_attributes(network, opset):
    lifted = lift(two_layers(network, "Slice", opset).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(2, "N", 4)] * 2


def test_a_batch_first_tensor_is_cut_where_its_rows_are_chosen(network):
    lifted = lift(two_layers(network, "Gather", batch_first=True).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(2, "N", 4)] * 2
    assert lifted.report.unstreamable == ""


def test_two_layers_that_share_the_same_zeros_have_states_of_their_own(network):
    net = network()
    zeros = net.zeros("x", -1, 1, -4)
    y, *_ = net.recurrent("GRU", "x", 3, 4, h=zeros, outputs=("Y",), name="encoder")
    z, *_ = net.recurrent("GRU", net.squeeze(y, 1), 4, 4, h=zeros, outputs=("Y",), name="decoder")
    lifted = lift(net.model({"x": ["L", "N", 3]}, [z]).SerializeToString())
    assert [s.input for s in lifted.report.lifted] == ["encoder_h_0", "decoder_h_0"]


def test_a_projected_state_is_lifted_at_its_own_width(network):
    """proj_size: h (P) enters as h @ pinv(W_hr).T and leaves as Y_h @ W_hr.T."""
    net = network()
    hidden, width = 6, 4
    w_hr = net.rng.standard_normal((width, hidden))
    zeros = net.zeros("x", -1, 1, -width)
    entering = net.add("MatMul", [zeros, net.const(np.linalg.pinv(w_hr).T.astype(np.float32))])
    y, *_ = net.recurrent("LSTM", "x", 3, hidden, h=entering, outputs=("Y",), name="lstm")
    recurrence = net.rng.standard_normal((4 * hidden, width)) @ w_hr * 0.3
    net.weights[-2].raw_data = recurrence[None].astype(np.float32).tobytes()
    net.add("MatMul", [net.squeeze(y, 1), net.const(w_hr.T.astype(np.float32))], ["y"])
    lifted = lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString())
    assert {s.input: s.axes for s in lifted.report.lifted} == {
        "h_0": (1, "N", width),
        "c_0": (1, "N", hidden),
    }
    assert lifted.report.unstreamable == ""


def test_a_product_that_can_not_be_undone_leaves_the_state_at_the_node(network):
    net = network()
    entering = net.add("MatMul", [net.zeros("x", -1, 1, -4), net.weight(4, 6)])
    y, *_ = net.recurrent("GRU", "x", 3, 6, h=entering, outputs=("Y",))
    lifted = lift(net.model({"x": ["L", "N", 3]}, [y]).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(1, "N", 6)]


def test_a_state_that_comes_from_data_is_left_alone_and_reported(network):
    net = network()
    first = net.slice("x", 0, 1, 0)
    y, *_ = net.recurrent("GRU", "x", 3, 3, h=net.add("Tanh", [first]), outputs=("Y",), name="fed")
    z, *_ = net.recurrent("GRU", net.squeeze(y, 1), 3, 4, outputs=("Y",), name="free")
    lifted = lift(net.model({"x": ["L", "N", 3]}, [z]).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(1, "N", 4)]
    assert [(e.node, e.state, e.cause) for e in lifted.report.left] == [("GRU 'fed'", "h", "data")]
    assert lifted.report.unstreamable.startswith("Slice ")


def test_a_state_whose_value_depends_on_the_sequence_length_is_left_alone(network):
    net = network()
    steps = net.add("Cast", [net.slice(net.add("Shape", ["x"]), 0, 1, 0)], to=1)
    h = net.add("Expand", [steps, net.sizes("x", -1, 1, -4)])
    y, *_ = net.recurrent("GRU", "x", 3, 4, h=h, outputs=("Y",))
    with pytest.raises(ContractError, match="not the same for every batch member and sequence length"):
        lift(net.model({"x": ["L", "N", 3]}, [y]).SerializeToString())


def test_random_states_are_not_taken_for_constants(network):
    net = network()
    h = net.add("RandomNormal", [], shape=[1, 1, 4])
    y, *_ = net.recurrent("GRU", "x", 3, 4, h=h, outputs=("Y",))
    with pytest.raises(ContractError, match="no state to lift"):
        lift(net.model({"x": ["L", "N", 3]}, [y]).SerializeToString())


def test_a_fixed_input_shape_becomes_dynamic_where_nothing_else_fixes_it(network):
    net = network()
    x = net.add("Transpose", ["x"], perm=[1, 0, 2])
    zeros = net.const(np.zeros((1, 1, 4), np.float32))
    net.recurrent("LSTM", x, 3, 4, h=zeros, c=zeros, outputs=("Y_h",))
    h = net.squeeze(net.nodes[-1].output[1], 0)
    net.add("MatMul", [h, net.weight(4, 2)], ["y"])
    lifted = lift(net.model({"x": [1, 20, 3]}, ["y"]).SerializeToString())
    assert lifted.report.made_dynamic == ("batch", "sequence")
    assert lifted.manifest.inputs[0].axes == ("N", "L", 3)
    assert "N=1, L=20" in lifted.report.sizes
    assert lifted.manifest.outputs[0].axes == ("N", 2)


@pytest.mark.parametrize("steps", [[5, 5], [5, 3]])
def test_lengths_that_are_constants_hold_the_shape(network, steps):
    """A dynamic sequence would still end at step 5, and no shorter chunk would run."""
    net = network()
    lengths = net.const(np.array(steps, np.int32))
    y, *_ = net.recurrent("GRU", "x", 3, 4, lengths=lengths, outputs=("Y",))
    lifted = lift(net.model({"x": [5, 2, 3]}, [y]).SerializeToString())
    assert lifted.report.made_dynamic == ()
    assert lifted.manifest.inputs[0].axes == (5, 2, 3)


def test_a_fixed_shape_that_the_graph_needs_stays_fixed(network):
    """Flattening all steps fixes L; flattening the batch away fixes N."""
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    flat = net.add("Reshape", [y, net.const(np.array([1, -1]))])
    net.add("MatMul", [flat, net.weight(20, 2)], ["y"])
    lifted = lift(net.model({"x": [5, 1, 3]}, ["y"]).SerializeToString())
    assert lifted.report.made_dynamic == ()
    assert lifted.manifest.batch is None
    assert lifted.manifest.sequence is None
    assert [s.axes for s in lifted.report.lifted] == [(1, 1, 4)]


def test_rows_merged_into_time_are_not_taken_for_a_free_batch(network):
    net = network()
    merged = net.add("Reshape", ["x", net.const(np.array([-1, 1, 3]))])
    y, *_ = net.recurrent("GRU", merged, 3, 4, outputs=("Y",))
    model = net.model({"x": ["rows", "steps", 3]}, [y])
    lifted = lift(model.SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(1, 1, 4)]


def test_a_state_with_several_rows_for_each_row_of_the_input_runs(network):
    """Two channels of one source are rows of the layer."""
    net = network()
    merged = net.add("Reshape", ["x", net.const(np.array([0, -1, 3]))])
    y, *_ = net.recurrent("GRU", merged, 3, 4, outputs=("Y",))
    net.squeeze(y, 1)
    lifted = lift(net.model({"x": ["L", "N", 2, 3]}, [net.nodes[-1].output[0]]).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(1, "2*N", 4)]
    model, x = load(lifted.model), np.random.default_rng(0).standard_normal((5, 1, 2, 3)).astype(np.float32)
    (whole,), stream = model.run(x)[0].values(), model.stream()
    steps = [stream.step(sample) for sample in x[:, 0]]
    np.testing.assert_allclose(np.reshape(steps, whole.shape), whole, rtol=0, atol=1e-6)
    _, state = model.run(np.repeat(x, 3, axis=1))
    assert state["h_0"].shape == (1, 6, 4)
    with pytest.raises(StateError, match="expected"):
        model.run(x, state)


def test_one_run_of_the_graph_answers_all_that_lift_asks(network, monkeypatch):
    asked = []

    def counted(model, values, cases):
        asked.append([len(values), len(cases)] if values else None)
        return evaluate(model, values, cases)

    monkeypatch.setattr(table, "evaluate", counted)
    lift(two_layers(network, "Slice").SerializeToString())
    assert [each[1] for each in asked if each] == [3]
