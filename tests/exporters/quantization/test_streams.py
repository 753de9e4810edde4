"""Files whose stream is behind, or gives a frame for several steps, are quantized in both their graphs."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.quantization import QuantizeConfig, quantize
from lstm_edge_exporters.validate import ValidateConfig, open_file
from lstm_edge_exporters.validate.engine import Validation
from lstm_edge_exporters.validate.reference import against_file
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import KEY, Manifest, Task
from lstm_edge_runtime.onnx_reader import add_initializers


class Late(nn.Module):
    """Two frames behind; classifies."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(3, 8, 5, padding=2), nn.Linear(32, 3)
        self.gru = nn.GRU(8, 32, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.gru(y)[0])


class Strided(nn.Module):
    """A frame every 4 samples, one behind; frames, and a result of the last one alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.last = nn.Conv1d(3, 8, 6, 4, padding=1), nn.Linear(32, 3), nn.Linear(32, 2)
        self.lstm = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x):
        y = self.lstm(torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]
        return self.head(y), self.last(y[:, -1])


WAYS = {
    "native": (Late, QuantizeConfig(target="arm"), Task("classification", "output", ("a", "b", "c"))),
    "int8": (Strided, QuantizeConfig(target="x86-vnni"), None),
}


@pytest.fixture(scope="module", params=WAYS)
def pair(request, tmp_path_factory):
    """Return a float file and what was quantized from it."""
    kind, config, task = WAYS[request.param]
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    export(kind().eval(), torch.randn(2, 40, 3), ExportConfig(task=task)).save(folder / "float.onnx")
    quantize(folder / "float.onnx", config).save(folder / "smaller.onnx", force=True)
    return folder / "float.onnx", folder / "smaller.onnx"


def failed(path, parent):
    """Return the names of the checks of the contract that failed."""
    file = open_file(path)
    groups = Validation(file, against_file(parent, file), ValidateConfig(quick=True)).groups()
    return [check.name for check in next(groups).failed]


def rewritten(path, change, folder):
    """Write the file with another ``stream`` in its manifest."""
    model = onnx.load(path)
    prop = next(each for each in model.metadata_props if each.key == KEY)
    manifest = Manifest.from_json(prop.value)
    prop.value = manifest._replace(stream=change(manifest.stream, path)).to_json()
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def test_both_graphs_have_the_same_small_weights_and_the_stream_is_near_the_float_files(pair):
    parent, path = pair
    before, after = load(parent), load(path)
    own = onnx.load_from_string(after.manifest.stream.graph).graph.initializer
    assert not [each.name for each in own if np.prod(each.dims) > 1]
    assert path.stat().st_size < 0.75 * parent.stat().st_size
    assert after.selftest().ok
    x = np.random.default_rng(3).standard_normal((90, 3)).astype(np.float32)
    one, other = (model.stream().process({"x": x}) for model in (before, after))
    for name, theirs in one.items() if isinstance(one, dict) else [("", one)]:
        mine = other[name] if name else other
        assert mine.shape == theirs.shape
        assert 0 < np.abs(mine - theirs).max() < 0.05
    drifted = after.manifest.equivalence["drift"]
    assert {state.output for state in after.manifest.stream.states} == drifted.keys()


def test_a_quantized_stream_is_validated_against_its_float_parent(pair):
    assert not failed(pair[1], pair[0])


def shift_a_bias(stream, path):
    """Give the graph that streams a bias of its own."""
    model = onnx.load_from_string(add_initializers(stream.graph, path.read_bytes()))
    bias = next(
        each
        for each in model.graph.initializer
        if each.data_type == TensorProto.FLOAT and list(each.dims) == [3]
    )
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))
    added = onnx.load_from_string(stream.graph)
    added.graph.initializer.append(bias)
    return stream._replace(graph=added.SerializeToString())


def start_early(stream, path):
    return stream._replace(states=tuple(each._replace(start=0) for each in stream.states))


def widen(stream, path):
    limit = {name: 20 * each for name, each in stream.golden.limit.items()}
    return stream._replace(golden=stream.golden._replace(limit=limit))


def restate(stream, path):
    outputs = {name: 1.001 * array for name, array in stream.golden.outputs.items()}
    return stream._replace(golden=stream.golden._replace(outputs=outputs))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (shift_a_bias, "a stream gives the frames of the whole"),
        (start_early, "a stream gives the frames of the whole"),
        (widen, "golden case of the stream"),
        (restate, "golden case of the stream"),
    ],
)
def test_a_fault_of_the_stream_alone_is_found(change, name, pair, tmp_path):
    assert name in failed(rewritten(pair[1], change, tmp_path), pair[0])


def test_a_stream_that_ends_is_judged_and_validated_up_to_its_end(pair, tmp_path):
    path = rewritten(pair[0], lambda stream, _: stream._replace(end=40), tmp_path)
    quantize(path, QuantizeConfig("fp16", target="arm")).save(tmp_path / "smaller.onnx", force=True)
    assert not failed(tmp_path / "smaller.onnx", path)
