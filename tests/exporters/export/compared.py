"""An export whose file is compared with its module once more: a full sequence, and its
chunks."""

import copy
from functools import wraps

import numpy as np
import onnx
import torch

import lstm_edge_exporters
from lstm_edge_exporters.export.call import Call, flatten_output, own_copy
from lstm_edge_exporters.export.floats import Floats, copy_as
from lstm_edge_exporters.verify.cases import CaseGenerator
from lstm_edge_runtime import load
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.chunks import take_steps
from lstm_edge_runtime.manifest import AxisRange

STEPS = 7


@wraps(lstm_edge_exporters.export)
def export_and_compare(module, example, config=None, **options):
    artifact = lstm_edge_exporters.export(module, example, config, **options)
    comparison = _Comparison(artifact, module, example)
    comparison.check_sequence()
    if artifact.manifest.streamable and artifact.manifest.sequence is not None:
        comparison.check_chunks()
    return artifact


class _Comparison:
    """A file and its module in float64; a stream is compared with the module on all
    steps so far."""

    def __init__(self, artifact, module, example):
        self.model = load(artifact.model)
        self.manifest = artifact.manifest
        self.module = copy_as(own_copy(module), torch.float64)
        self.call = Call.of(self.module, example).as_floats(torch.float32)
        tensors = zip(self.call.names, self.call.example, strict=True)
        self.feeds = {name: tensor.numpy() for name, tensor in tensors}
        cases = CaseGenerator.of(self.manifest, self.feeds)
        manifest = self.manifest
        wanted = cases.example().sizes | {manifest.batch: 1, manifest.sequence: STEPS}
        sizes = {
            n: manifest.ranges.get(n, AxisRange()).nearest(size)
            for n, size in wanted.items()
            if n
        }
        self.steps = sizes.get(manifest.sequence, STEPS)
        for spec in cases.inputs:  # the example is repeated or cut to these sizes
            array = cases.example().feeds[spec.name]
            for axis, size in enumerate(resolve(spec.axes, sizes) or ()):
                array = array.take(np.arange(size) % array.shape[axis], axis)
            self.feeds[spec.name] = array
        for state in manifest.states:
            reset = np.asarray(state.reset, state.dtype)
            self.feeds[state.input] = np.broadcast_to(
                reset, self.feeds[state.input].shape
            )
        if manifest.lengths and manifest.sequence:
            self.feeds[manifest.lengths] = self.feeds[manifest.lengths].clip(
                max=self.steps
            )
        self.data = {spec.name: self.feeds[spec.name] for spec in manifest.data_inputs}
        self.names = [
            output.name for output in onnx.load_from_string(artifact.model).graph.output
        ]

    def check_sequence(self):
        lengths = self.manifest.lengths and self.feeds[self.manifest.lengths]
        outputs, state = self.model.run(_single(self.data), lengths=lengths)
        states = {spec.output: state[spec.input] for spec in self.manifest.states}
        self._compare(outputs | states, self._run(self.feeds))

    def check_chunks(self):
        manifest = self.manifest
        stream = self.model.stream(reset_every="never")
        streamed = [
            s.name
            for s in manifest.outputs
            if not any("*" in str(axis) for axis in s.axes)
        ]
        rows = {
            name: axes.index(manifest.batch)
            for name, axes in manifest.axes.items()
            if manifest.batch in axes
        }
        for start, stop in ((0, 3), (3, 4), (4, self.steps)):
            chunk = take_steps(manifest.time_axes, self.data, start, stop)
            chunk = {
                name: array.take(0, rows[name]) if name in rows else array
                for name, array in chunk.items()
            }
            result = stream.process(_single(chunk))
            result = (
                result
                if isinstance(result, dict)
                else {manifest.outputs[0].name: result}
            )
            expected = self._seen(stop, range(start, stop))
            kept = {
                name: expected[name]
                for name in {*streamed} - {*manifest.counts}
                if name in expected
            }
            self._compare(result, kept)

    def _seen(self, stop, steps):
        manifest = self.manifest
        time = self.manifest.time_axes
        given = take_steps(time, self.feeds, 0, stop)
        if manifest.lengths:
            given[manifest.lengths] = np.full_like(given[manifest.lengths], stop)
        return {
            n: a.take(steps, time[n]) if n in time else a
            for n, a in self._run(given).items()
        }

    def _run(self, given):
        tensors = [torch.from_numpy(np.array(given[name])) for name in self.call.names]
        tensors = [
            tensor.double() if tensor.is_floating_point() else tensor
            for tensor in tensors
        ]
        with torch.no_grad(), Floats(torch.float64):
            flat = flatten_output(self.call.run(copy.deepcopy(self.module), tensors))
        return {
            name: tensor.numpy()
            for name, (_, tensor) in zip(self.names, flat, strict=False)
        }

    def _compare(self, got, expected):
        for name, array in expected.items():
            largest = np.abs(array[np.isfinite(array)]).max(initial=1.0)
            limit = max(
                2e-5 * largest, np.max(self.manifest.golden.limits.get(name, 0.0))
            )
            np.testing.assert_allclose(
                got[name].ravel(), array.ravel(), rtol=0, atol=limit, err_msg=name
            )


def _single(arrays):
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
