"""A file and its module, called on the same inputs: a window and its chunks."""

import copy
from functools import wraps

import numpy as np
import onnx
import torch

import lstm_edge_exporters
from lstm_edge_exporters.chunks import take_steps
from lstm_edge_exporters.export.call import Call, flatten_output, own_copy
from lstm_edge_exporters.export.floats import Floats, copy_as
from lstm_edge_exporters.verify.cases import CaseGenerator
from lstm_edge_runtime import load
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.manifest import AxisRange

__all__ = ["export_beside"]

STEPS = 7
_export = lstm_edge_exporters.export


def _batch_axes(manifest):
    return {
        name: axes.index(manifest.batch) for name, axes in manifest.axes.items() if manifest.batch in axes
    }


@wraps(_export)
def export_beside(module, example, config=None, **options):
    artifact = _export(module, example, config, **options)
    _Beside(artifact, module, example).check()
    return artifact


def _resized(cases, sizes):
    """Return the example repeated or cut to a size for every named axis."""
    feeds = dict(cases.example().feeds)
    for input_ in cases.inputs:
        for axis, size in enumerate(resolve(input_.axes, sizes) or ()):
            feeds[input_.name] = feeds[input_.name].take(
                np.arange(size) % feeds[input_.name].shape[axis], axis
            )
    return feeds


class _Beside:
    """A file and its module, which runs in float64: what PyTorch's float32 loses is no fault of a file.

    A stream is compared with the module on all that the stream has seen.
    """

    def __init__(self, artifact, module, example):
        self.model, manifest = load(artifact.model), artifact.manifest
        self.manifest = manifest
        self.module = copy_as(own_copy(module), torch.float64)
        self.signature = Call.of(self.module, example).as_floats(torch.float32)
        examples = {
            name: tensor.numpy()
            for name, tensor in zip(self.signature.names, self.signature.example, strict=True)
        }
        cases = CaseGenerator.of(manifest, examples)
        wanted = cases.example().sizes | {manifest.batch: 1, manifest.sequence: STEPS}
        sizes = {
            name: manifest.ranges.get(name, AxisRange()).nearest(size)
            for name, size in wanted.items()
            if name
        }
        self.steps = sizes.get(manifest.sequence, STEPS)
        self.feeds = examples | _resized(cases, sizes)
        for state in manifest.states:
            shape = self.feeds[state.input].shape
            self.feeds[state.input] = np.broadcast_to(np.asarray(state.reset, state.dtype), shape)
        if manifest.lengths and manifest.sequence:
            self.feeds[manifest.lengths] = self.feeds[manifest.lengths].clip(max=self.steps)
        self.data = {spec.name: self.feeds[spec.name] for spec in manifest.data_inputs}
        self.names = [output.name for output in onnx.load_from_string(artifact.model).graph.output]
        self.streamed = {
            spec.name
            for spec in manifest.outputs
            if spec.name not in manifest.counts and not any("*" in str(axis) for axis in spec.axes)
        }

    def check(self):
        self.check_window()
        if self.manifest.streamable and self.manifest.sequence is not None:
            self.check_chunks()

    def check_window(self):
        lengths = self.manifest.lengths and self.feeds[self.manifest.lengths]
        outputs, state = self.model.run(_single(self.data), lengths=lengths)
        found = outputs | {each.output: state[each.input] for each in self.manifest.states}
        self._compare(found, self._call(self.feeds))

    def check_chunks(self):
        stream = self.model.stream(reset_every="never")
        for start, stop in zip((0, 3, 4), (3, 4, self.steps), strict=True):
            chunk = take_steps(self.manifest.time_axes, self.data, start, stop)
            result = stream.process(_single(_without(chunk, _batch_axes(self.manifest))))
            self._compare_streamed(result, self._seen(stop, range(start, stop)))

    def _seen(self, stop, steps):
        manifest, time = self.manifest, self.manifest.time_axes
        given = take_steps(manifest.time_axes, self.feeds, 0, stop)
        if manifest.lengths:
            given[manifest.lengths] = np.full_like(given[manifest.lengths], stop)
        whole = self._call(given)
        return {name: a.take(steps, time[name]) if name in time else a for name, a in whole.items()}

    def _call(self, given):
        tensors = [torch.from_numpy(np.array(given[name])) for name in self.signature.names]
        tensors = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
        with torch.no_grad(), Floats(torch.float64):
            flat = flatten_output(self.signature.run(copy.deepcopy(self.module), tensors))
        return {name: tensor.numpy() for name, (_, tensor) in zip(self.names, flat, strict=False)}

    def _compare_streamed(self, result, expected):
        found = result if isinstance(result, dict) else {self.manifest.outputs[0].name: result}
        self._compare(found, {name: expected[name] for name in self.streamed if name in expected})

    def _compare(self, found, expected):
        for name, array in expected.items():
            largest = np.abs(array[np.isfinite(array)]).max(initial=1.0)
            limit = max(2e-5 * largest, np.max(self.manifest.golden.limits.get(name, 0.0)))
            np.testing.assert_allclose(found[name].ravel(), array.ravel(), rtol=0, atol=limit, err_msg=name)


def _single(arrays):
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def _without(arrays, batch):
    """Return arrays without their batch axis of 1."""
    return {name: array.take(0, batch[name]) if name in batch else array for name, array in arrays.items()}
