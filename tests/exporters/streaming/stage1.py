"""The verification of a graph that streams, with a graph of which parts can be broken."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lstm_edge_exporters.export.pipeline import convert
from lstm_edge_exporters.export.request import make_request
from lstm_edge_exporters.graph import to_bytes
from lstm_edge_exporters.streaming import late
from lstm_edge_exporters.streaming.late import make_late_stream
from lstm_edge_exporters.streaming.streamable import make_streamable
from lstm_edge_runtime.errors import CheckFailedError


class Stage1:
    """The graph that streams of a network, and its verification."""

    def __init__(self, kind, config):
        torch.manual_seed(0)
        (axes,) = config.inputs.values()
        self.file = next(convert(make_request(kind().eval(), torch.randn(2, 48, axes[-1]), config)))

    def run(self, monkeypatch, change):
        right = make_streamable

        def wrong(*arguments):
            found = right(*arguments)
            return change(found) or found

        monkeypatch.setattr(late, "make_streamable", wrong)
        cases = self.file.cases
        return make_late_stream(
            self.file.model,
            self.file.manifest,
            lambda rows, steps, reset: cases.case(rows, steps, at_reset=reset, full=True).feeds,
            to_bytes,
        )

    def check(self, monkeypatch, change, *, right):
        """Check that a change is found, or that what is ``right`` passes."""
        if right:
            assert self.run(monkeypatch, change).golden is not None
            return
        with pytest.raises(CheckFailedError, match=r"in chunks|does not run"):
            self.run(monkeypatch, change)


def export_elsewhere(module, steps, width, path):
    """Write a file as PyTorch's exporter does, without states."""
    torch.onnx.export(
        module,
        (torch.randn(2, steps, width),),
        path,
        dynamo=False,
        input_names=["x"],
        output_names=["output"],
        dynamic_axes={"x": {0: "N", 1: "L"}, "output": {0: "N", 1: "frames"}},
    )


def of(found, name):
    return next(value for value in found.model.graph.inputs if value.name == name)


def resize(found, name, frames):
    """Give a state more frames, or fewer."""
    state = next(each for each in found.states if each.input == name)
    axes = (*state.axes[:2], state.axes[2] + frames)
    leaving = next(value for value in found.model.graph.outputs if value.name == state.output)
    of(found, name).shape, leaving.shape = ir.Shape(axes), ir.Shape(axes)
    start = leaving.producer().inputs[1]
    start.const_value = ir.tensor(np.array([-axes[2]]), name=start.name)
    return replace(
        found, states=tuple(each._replace(axes=axes) if each is state else each for each in found.states)
    )


def restart(found, name, more):
    if name in found.starts:
        return replace(found, starts={**found.starts, name: found.starts[name] + more})
    states = (each._replace(start=each.start + more) if each.input == name else each for each in found.states)
    return replace(found, states=tuple(states))
