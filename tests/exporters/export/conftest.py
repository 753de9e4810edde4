"""What compares a file with its module call by call, and one small module and its artifact."""

import numpy as np
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.request import own_copy
from lstm_edge_exporters.numerics.cases import CaseGenerator
from lstm_edge_exporters.numerics.reference import Signature, flatten_output
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import AxisRange, Signal, Task
from lstm_edge_runtime.onnx_reader import read_onnx
from lstm_edge_runtime.state import take_steps

STEPS = 7
CHUNKS = ((0, 3), (3, 4), (4, STEPS))


@pytest.fixture(scope="session")
def assert_file_is_module():
    """A function that calls a file and its module on the same inputs: a window, its steps and its chunks."""
    return lambda artifact, module, example: _Beside(artifact, module, example).check()


class _Beside:
    """A file and its module.

    A file that takes one step a call is compared with the module in a loop, with the states carried as its
    manifest pairs them; any other with the module on all that its stream has seen.
    """

    def __init__(self, artifact, module, example):
        self.model, self.manifest = load(artifact.model), artifact.manifest
        self.module, self.signature = module, Signature.of(own_copy(module), example)
        manifest = self.manifest
        examples = {
            name: tensor.numpy()
            for name, tensor in zip(self.signature.names, self.signature.example, strict=True)
        }
        cases = CaseGenerator.of(manifest, examples)
        limits = manifest.ranges.get(manifest.sequence, AxisRange())
        self.steps = limits.nearest(STEPS)
        sizes = cases.example().sizes | {manifest.batch: 1, manifest.sequence: self.steps}
        self.feeds = dict(cases.resized({name: size for name, size in sizes.items() if name}).feeds)
        for state in manifest.states:
            shape = self.feeds[state.input].shape
            self.feeds[state.input] = np.broadcast_to(np.asarray(state.reset, state.dtype), shape)
        self.data = {spec.name: self.feeds[spec.name] for spec in manifest.data_inputs}
        self.names = [output.name for output in read_onnx(artifact.model).graph.outputs]
        self.compared = {
            spec.name
            for spec in manifest.outputs
            if spec.name not in manifest.counts and not any("*" in str(axis) for axis in spec.axes)
        }

    def check(self):
        self.check_window()
        if self.manifest.streamable:
            self.check_steps()
            if self.manifest.sequence is not None:
                self.check_chunks()

    def check_window(self):
        lengths = np.full(1, self.steps) if self.manifest.lengths else None
        outputs, _ = self.model.run(_single(self.data), lengths=lengths)
        self._compare(outputs, self._call(self.feeds))

    def check_steps(self):
        manifest, time = self.manifest, self.manifest.time_axes
        stream, held = self.model.stream(reset_every="never"), self.feeds
        for step in range(STEPS):
            sample = {n: a.take(step, time[n]) if n in time else a for n, a in self.data.items()}
            moved = {name: axis - (axis > time.get(name, axis)) for name, axis in manifest.batch_axes.items()}
            result = stream.step(_single(_without(sample, moved)))
            if manifest.sequence is None:
                expected = self._call(held)
                held = held | manifest.states_out(expected)
                self._compare(result, expected)
            else:
                expected = self._call(take_steps(manifest, self.feeds, 0, step + 1))
                self._compare(
                    result, {n: a.take([-1], time[n]) if n in time else a for n, a in expected.items()}
                )

    def check_chunks(self):
        manifest, time = self.manifest, self.manifest.time_axes
        stream = self.model.stream(reset_every="never")
        for start, stop in CHUNKS:
            chunk = _without(take_steps(manifest, self.data, start, stop), manifest.batch_axes)
            result = stream.process(_single(chunk))
            expected = self._call(take_steps(manifest, self.feeds, 0, stop))
            steps = range(start, stop)
            self._compare(
                result, {n: a.take(steps, time[n]) if n in time else a for n, a in expected.items()}
            )

    def _call(self, given):
        if self.manifest.lengths:
            given = given | {self.manifest.lengths: np.full(1, self.manifest.steps(given))}
        tensors = [torch.from_numpy(np.array(given[name])) for name in self.signature.names]
        with torch.no_grad():
            flat = flatten_output(self.signature.call(own_copy(self.module), tensors))
        return {name: tensor.numpy() for name, (_, tensor) in zip(self.names, flat, strict=False)}

    def _compare(self, result, expected):
        found = result if isinstance(result, dict) else {self.manifest.outputs[0].name: result}
        for name in self.compared:
            np.testing.assert_allclose(found[name].ravel(), expected[name].ravel(), rtol=0, atol=2e-5)


def _single(arrays):
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _without(arrays, batch):
    """Return arrays without their batch axis of 1."""
    return {name: array.take(0, batch[name]) if name in batch else array for name, array in arrays.items()}


class Plain(nn.Module):
    """``forward(x, h_0, c_0) -> logits, h_n, c_n``."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 6, 2, batch_first=True)
        self.fc = nn.Linear(6, 3)

    def forward(self, x, h_0, c_0):
        _, (h_n, c_n) = self.lstm(x, (h_0, c_0))
        return self.fc(h_n[-1]), h_n, c_n


@pytest.fixture(scope="session")
def plain():
    torch.manual_seed(0)
    return Plain().eval()


@pytest.fixture(scope="session")
def plain_example():
    return torch.randn(2, 4, 5), torch.zeros(2, 2, 6), torch.zeros(2, 2, 6)


@pytest.fixture(scope="session")
def plain_config():
    return ExportConfig(
        inputs={"x": ("N", "L", 5), "h_0": (2, "N", 6), "c_0": (2, "N", 6)},
        outputs=("logits", "h_n", "c_n"),
        task=Task("classification", "logits", labels=("a", "b", "c")),
        signal=Signal(("v", "w", "x", "y", "z"), 10.0, 4),
        checkpoint_sha256="ab" * 32,
    )


@pytest.fixture(scope="session")
def artifact(plain, plain_example, plain_config):
    return export(plain, plain_example, plain_config)
