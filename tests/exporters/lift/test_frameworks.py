"""Graphs as tf2onnx, Keras and PyTorch's own exporters write them."""

import numpy as np
import pytest
import torch
from torch.export import Dim

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load


def tf2onnx_layer(net, x, width, hidden, name, go=()):
    """One Keras LSTM layer as tf2onnx writes it: batch-major x, int32 shape arithmetic,
    lengths filled in."""
    major = net.add("Transpose", [x], perm=[1, 0, 2])
    shape = net.add("Cast", [net.add("Shape", [x])], to=6)
    rows = net.slice(net.add("Cast", [shape], to=7), 0, 1, 0)
    filled = net.add("Concat", [rows, net.const(np.array([hidden]))], axis=0)
    zeros = net.add("Expand", [net.const(np.zeros((1,), np.float32)), filled])
    steps = net.add("Cast", [net.slice(net.add("Cast", [shape], to=7), 1, 2, 0)], to=6)
    lengths = net.add("Expand", [steps, rows])
    h, c = (net.squeeze(zeros, 0, operator="Unsqueeze") for _ in "hc")
    y, *_ = net.recurrent(
        "LSTM",
        major,
        width,
        hidden,
        lengths=lengths,
        h=h,
        c=c,
        outputs=("Y",),
        name=f"StatefulPartitionedCall/sequential/{name}/PartitionedCall/LSTM__{len(net.nodes)}",
    )
    return net.add("Transpose", [net.squeeze(y, 1)], perm=[1, 0, 2])


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("axes", [[None, None, 6], ["unk__10", 20, 6], [1, 20, 6]])
def test_a_keras_stack_by_tf2onnx(network, lift_freed, opset, axes):
    net = network(opset)
    y = tf2onnx_layer(net, "x", 6, 8, "lstm")
    y = tf2onnx_layer(net, y, 8, 5, "lstm_1")
    last = net.add("Gather", [y, net.const(np.array(-1))], axis=1)
    net.add("Softmax", [net.add("MatMul", [last, net.weight(5, 3)])], ["dense"], axis=1)
    lifted = lift_freed(
        net.model({"x": axes}, ["dense"], producer_name="tf2onnx").SerializeToString()
    )
    assert [(s.input, s.output) for s in lifted.report.lifted] == [
        (f"{layer}_{kind}_0", f"{layer}_{kind}_n")
        for layer in ("lstm", "lstm_1")
        for kind in "hc"
    ]
    batch = lifted.manifest.batch
    sequence = lifted.manifest.sequence
    assert lifted.manifest.inputs[0].axes == (batch, sequence, 6)
    assert lifted.manifest.unstreamable == ""
    stream = load(lifted.model).stream()
    for _ in range(3):
        stream.step(np.ones(6, np.float32))
    assert lifted.manifest.provenance["producer"] == "tf2onnx"


class _Frames(torch.nn.Module):
    def __init__(self, kind, *, head=True, layers=1):
        super().__init__()
        self.rnn = getattr(torch.nn, kind)(5, 6, layers, batch_first=True)
        self.head = torch.nn.Linear(6, 3) if head else torch.nn.Identity()

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def assert_streams(content, module):
    x = torch.randn(1, 40, 5)
    with torch.no_grad():
        expected = module(x)[0].numpy()
    with load(content) as model:
        stream = model.stream()
        parts = [stream.process(chunk.numpy()) for chunk in x[0].split([5, 12, 1, 22])]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_file_of_pytorchs_deprecated_exporter(
    torch_file, lift_freed, kind, layers, dynamic
):
    torch.manual_seed(0)
    module = _Frames(kind, layers=layers)
    axes = {"x": {0: "batch", 1: "time"}} if dynamic else None
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
    lifted = lift_freed(
        torch_file(module, (torch.zeros(1, 9, 5),), dynamo=False, **names)
    )
    assert lifted.manifest.unstreamable == ""
    kinds = 2 if kind == "LSTM" else 1
    assert [s.axes[0] for s in lifted.report.lifted] == [1] * layers * kinds
    assert_streams(lifted.model, module)


def test_initial_states_of_a_declared_number_of_rows_take_any_number(torch_file):
    torch.manual_seed(0)
    module = _Frames("LSTM")
    names = {"input_names": ["x"], "output_names": ["y"]}
    content = torch_file(module, (torch.zeros(2, 9, 5),), dynamo=False, **names)
    lifted = lift(content, LiftConfig(inputs={"x": ("N", "L", 5)}))
    assert lifted.manifest.unstreamable == ""
    assert [state.axes for state in lifted.report.lifted] == [(1, "N", 6)] * 2
    assert_streams(lifted.model, module)


FORMS = {
    "auto": {0: Dim.AUTO, 1: Dim.AUTO},
    "dynamic": {
        0: Dim.DYNAMIC
    },  # torch.export refuses the time axis of a recurrent layer in these two forms
    "named": {0: "rows"},
    "fixed": None,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("head", [False, True])
def test_a_file_of_pytorchs_exporter_streams_in_any_chunk(
    torch_file, lift_freed, kind, head, form
):
    """Shapes that it declares inside of the graph keep the example's size for axes that
    are dynamic."""
    torch.manual_seed(0)
    module = _Frames(kind, head=head)
    shapes = FORMS[form] and (FORMS[form],)
    content = torch_file(
        module,
        (torch.zeros(2, 12, 5),),
        dynamo=True,
        dynamic_shapes=shapes,
        verbose=False,
    )
    lifted = lift_freed(content)
    for file in (lifted.model, to_native(lifted.model)):
        assert_streams(file, module)
