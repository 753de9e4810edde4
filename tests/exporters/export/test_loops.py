"""Loops over time: whole at any length, and streamed with their states carried."""

import importlib
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from compared import export_and_compare
from loop_networks import NETWORKS, Linears
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.quantize import QuantizeConfig, quantize
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import AxisRange

X = {"x": ("N", "L", 3)}


def exported(name):
    torch.manual_seed(len(name))
    network = NETWORKS[name]
    config = ExportConfig(inputs=network.inputs)
    return export_and_compare(network.kind().eval(), network.example(), config)


@pytest.mark.system
@pytest.mark.parametrize("name", NETWORKS)
def test_a_loop_is_exact_at_any_length_and_streams(name):
    network = NETWORKS[name]
    artifact = exported(name)
    assert artifact.manifest.streamable == network.streams
    assert artifact.nodes.get(network.node)
    assert artifact.verified.largest < 1e-13
    assert not any(map(products_of_inputs, scans(artifact)))


def scans(artifact):
    model = ir.from_proto(onnx.load_from_string(artifact.model))
    return [node for node in model.graph if node.op_type == "Scan"]


def products_of_inputs(scan):
    """Products with weights in the body of a loop that no state passes through."""
    body = scan.attributes["body"].as_graph()
    scanned = scan.attributes["num_scan_inputs"].as_int()
    varying = {*body.inputs[: len(body.inputs) - scanned]}
    found = []
    for node in body:
        if not varying.isdisjoint(node.inputs):
            varying.update(node.outputs)
        elif node.op_type in ("Gemm", "MatMul"):
            found.append(node.name)
    return found


class ShiftedInputs(Linears):
    """A loop that reads the two steps before, times a state."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(7, 4), v=(4, 2))

    def forward(self, x):
        before = x.new_zeros(x.size(0), 3)
        older = torch.full_like(before, 0.5)
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            change = self.w(older - 2 * before)
            h = torch.tanh(self.u(torch.cat([x[:, t], h * change], 1)))
            outs.append(torch.relu(self.v(h)) + change[:, :2])
            older = before
            before = x[:, t]
        return torch.stack(outs, 1), before


@pytest.mark.system
def test_steps_before_are_the_sequence_shifted_and_readouts_stand_behind():
    torch.manual_seed(5)
    module = ShiftedInputs().eval()
    artifact = export_and_compare(
        module, (torch.randn(2, 6, 3),), ExportConfig(inputs=X)
    )
    (scan,) = scans(artifact)
    body = [node.op_type for node in scan.attributes["body"].as_graph()]
    assert sorted({*body} - {"Identity"}) == ["Gemm", "Mul", "Tanh"]
    assert artifact.manifest.streamable
    assert artifact.verified.largest < 1e-13


class Stepwise(Linears):
    """A loop whose body is ``step``."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = self.step(x, t, h, outs)
            outs.append(h)
        return torch.stack(outs, 1)

    def plain(self, x_t, h):
        return torch.tanh(self.w(x_t) + self.u(h))


class Wide(Stepwise):
    def __init__(self):
        Linears.__init__(self, w=(3, 64), u=(64, 64))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 64)
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
        return h


@pytest.mark.system
def test_int8_stores_the_products_of_a_loop(tmp_path):
    torch.manual_seed(7)
    config = ExportConfig(inputs=X)
    path = tmp_path / "loop.onnx"
    path.write_bytes(export(Wide().eval(), torch.randn(2, 6, 3), config).model)
    small = quantize(path, QuantizeConfig())
    assert len(small.model) < 0.6 * path.stat().st_size
    x = np.random.default_rng(7).standard_normal((1, 9, 3)).astype(np.float32)
    expected, _ = load(path.read_bytes()).run(x)
    for content in (small.model, to_native(small.model)):
        outputs, _ = load(content).run(x)
        assert np.abs(outputs["output"] - expected["output"]).max() < 0.05


class LaterBranch(Stepwise):
    def step(self, x, t, h, outs):
        return h if t == 400 else self.plain(x[:, t], h)


class EverySecond(Stepwise):
    def step(self, x, t, h, outs):
        return self.plain(x[:, t], h) if t % 2 == 0 else h


class LateThreshold(Stepwise):
    def step(self, x, t, h, outs):
        return self.plain(x[:, t] * (2.0 if t * 0.1 > 50.0 else 1.0), h)


class LateThresholdOfAFloat(Stepwise):
    def step(self, x, t, h, outs):
        return self.plain(x[:, t] * (2.0 if 0.1 * float(t) > 50.0 else 1.0), h)


class LastStep(Stepwise):
    def step(self, x, t, h, outs):
        new = self.plain(x[:, t], h)
        return new if t == x.size(1) - 1 else torch.relu(new)


class Power(Stepwise):
    def step(self, x, t, h, outs):
        return self.plain(x[:, t], h) * 0.9**t


class GrowingHistory(Stepwise):
    def step(self, x, t, h, outs):
        past = torch.stack(outs).mean(0) if outs else h
        return self.plain(x[:, t], past)


class Nested(Stepwise):
    def step(self, x, t, h, outs):
        for s in range(x.size(1)):
            h = h + self.w(x[:, s])
        return h


class WholeBuffer(Linears):
    def __init__(self):
        super().__init__(w=(3, 3))

    def forward(self, x):
        out = torch.zeros_like(x)
        for t in range(x.size(1)):
            out[:, t] = self.w(x[:, t]) + out.sum(1)
        return out


class Leaving(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
            if t >= 0:
                break
        return h


class Backwards(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1) - 1, -1, -1):
            h = self.plain(x[:, t], h)
        return h


class OneOfTheList(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
            outs.append(h)
        return outs[-2]


class NumberBehind(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
        return h / (t + 1)


class OverTheListBefore(Stepwise):
    def forward(self, x):
        encoded = [self.w(x[:, t]) for t in range(x.size(1))]
        h = x.new_zeros(x.size(0), 4)
        for e in encoded:
            h = torch.tanh(e + self.u(h))
        return h


class ListOfNumbers(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for t in list(range(x.size(1))):
            h = self.plain(x[:, t], h)
        return h


class WeightsPerStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(6)])

    def forward(self, x):
        h = torch.zeros_like(x[:, 0])
        for t in range(x.size(1)):
            h = torch.tanh(self.layers[t](x[:, t]) + h)
        return h


class Selecting(Stepwise):
    """Functions of tensors instead of an index."""

    def step(self, x, t, h, outs):
        return self.plain(x.select(1, t) + x.narrow(1, t, 1).squeeze(1), h)


class ShiftByTheStep(Stepwise):
    def step(self, x, t, h, outs):
        return self.plain(x[:, t], h.roll(t, 1))


class SelectingByAList(Stepwise):
    def step(self, x, t, h, outs):
        order = [0, 1, 2, 3, 4, 5, 5]
        return self.plain(x.select(1, order[t]) + x.select(1, t), h)


class Weighted(nn.Module):
    """A loop whose steps have gains of their own."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 3)
        self.schedule = [1.0] * 700 + [0.1] * 700

    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h) * self.gain(t)
        return h


class GainOfTheSchedule(Weighted):
    def gain(self, t):
        return self.schedule[t]


class StepOfASet(Weighted):
    def gain(self, t):
        return 0.0 if t in {700, 800} else 1.0


class StepAsText(Weighted):
    def gain(self, t):
        return 0.0 if f"{t}" == "700" else 1.0


class StepsAndTheNext(Stepwise):
    """``zip`` ends with the shorter one."""

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for now, then in zip(x.unbind(1), x[:, 1:].unbind(1)):  # noqa: B905
            h = self.plain(now - then, h)
        return h


class EveryStepAndEverySecond(Stepwise):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for now, then in zip(x.unbind(1), x[:, ::2].unbind(1)):  # noqa: B905
            h = self.plain(now - then, h)
        return h


class FromInfinity(Stepwise):
    """A running maximum."""

    def forward(self, x):
        most = torch.full_like(x[:, 0], self.start(x))
        for t in range(x.size(1)):
            most = torch.maximum(most, x[:, t])
        return most

    def start(self, x):
        return float("-inf")


class FromTheLeastNumber(FromInfinity):
    def start(self, x):
        return torch.finfo(x.dtype).min


@pytest.mark.system
def test_a_state_may_start_from_the_least_number():
    torch.manual_seed(2)
    example = (torch.randn(2, 6, 3),)
    module = FromTheLeastNumber().eval()
    artifact = export_and_compare(module, example, ExportConfig(inputs=X))
    assert artifact.manifest.streamable


def test_a_loop_may_select_its_step_by_functions():
    torch.manual_seed(2)
    example = (torch.randn(2, 6, 3),)
    artifact = export_and_compare(Selecting().eval(), example, ExportConfig(inputs=X))
    assert artifact.manifest.streamable


def test_a_loop_over_steps_and_the_next_ones_ends_with_these():
    torch.manual_seed(2)
    module = StepsAndTheNext().eval()
    artifact = export_and_compare(
        module, (torch.randn(2, 6, 3),), ExportConfig(inputs=X)
    )
    assert artifact.manifest.ranges["L"].least == 2


class FromNext(nn.Module):
    def forward(self, x):
        steps = iter(x.unbind(1))
        h = next(steps)
        outs = [h]
        for x_t in steps:
            h = torch.tanh(h + x_t)
            outs.append(h)
        return torch.stack(outs, 1)


class FromTheFirst(nn.Module):
    def forward(self, x):
        h = next(iter(x.transpose(0, 1)))
        outs = []
        for x_t, _ in zip(iter(x.unbind(1)), x.unbind(1), strict=True):
            h = torch.tanh(h + x_t)
            outs.append(h)
        return torch.stack(outs, 1)


@pytest.mark.parametrize(("kind", "least"), [(FromNext, 2), (FromTheFirst, 1)])
def test_next_takes_the_first_step_in_front_of_a_loop(kind, least):
    example = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3))
    config = ExportConfig(inputs=X)
    artifact = export_and_compare(kind().eval(), (example,), config)
    assert artifact.manifest.ranges.get("L", AxisRange()).least == least


@pytest.mark.parametrize("inputs", [{}, X])
def test_an_example_in_which_a_loop_runs_no_step_is_refused(inputs):
    with pytest.raises(InputError, match="example"):
        export(FromNext().eval(), torch.zeros(2, 1, 3), ExportConfig(inputs=inputs))


class ColumnsOfItsState(nn.Module):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 2, 3)
        outs = []
        for t in range(x.size(1)):
            h[:, 0] = torch.tanh(h[:, 1] + x[:, t])
            h[:, 1] = 0.5 * h[:, 0]
            outs.append(h.sum(1))
        return torch.stack(outs, 1)


def test_a_loop_that_writes_its_state_column_by_column_takes_one_row():
    example = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3))
    module = ColumnsOfItsState().eval()
    artifact = export_and_compare(module, (example,), ExportConfig(inputs=X))
    assert artifact.manifest.ranges == {}
    assert artifact.manifest.streamable


class FromZero(nn.Module):
    def forward(self, x):
        mean = 0
        outs = []
        for t in range(x.size(1)):
            mean = 0.9 * mean + 0.1 * x[:, t]
            outs.append(mean)
        return torch.stack(outs, 1)


def test_a_state_that_starts_as_a_number_is_noted_with_what_to_write():
    example = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(3))
    artifact = export(FromZero().eval(), example, ExportConfig(inputs=X))
    (note,) = artifact.notes
    assert "its state mean stays in the graph, because it starts as a number" in note
    assert note.endswith("start from a tensor (N, 3), such as torch.zeros")


class TwoStepsBack(nn.Module):
    def forward(self, x):
        outs = []
        for t in range(x.size(1)):
            outs.append(torch.tanh(x[:, t] - x[:, t - 2]))  # noqa: PERF401
        return torch.stack(outs, 1)


class UntilNoneIsLeft(nn.Module):
    def forward(self, x):
        steps = iter(x.unbind(1))
        h = torch.zeros_like(x[:, 0])
        while True:
            try:
                h = torch.tanh(h + next(steps))
            except StopIteration:  # noqa: PERF203
                return h


class TakesFeaturesApart(Stepwise):
    """A loop whose first iteration is where PyTorch learns the number of features."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def step(self, x, t, h, outs):
        return self.plain(self.features(x[:, t]), h)


FEATURES = {
    "new axis": lambda x: x[:, :, None].sum(-1),
    "unpacked": lambda x: torch.cat([part * 2 for part in x.split(1, -1)], -1),
    "listed": lambda x: torch.stack([*x.unbind(-1)], -1),
    "reversed": lambda x: torch.stack([*reversed(x.unbind(1))], 1),
    "counted": lambda x: torch.stack(
        [k * part for k, part in enumerate(x.unbind(1))], 1
    ),
    "transposed": lambda x: torch.stack([*x.T], -1),
}


@pytest.mark.system
@pytest.mark.parametrize("features", FEATURES)
def test_a_step_may_take_its_features_apart_without_named_axes(features):
    torch.manual_seed(2)
    module = TakesFeaturesApart(FEATURES[features]).eval()
    artifact = export_and_compare(module, (torch.randn(2, 6, 3),))
    assert artifact.manifest.streamable


class WritesAPart(Stepwise):
    """A loop that writes into a part of its state."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def step(self, x, t, h, outs):
        new = self.plain(x[:, t], h)
        h = h.clone()
        h[self.index] = 0.5 * new[self.index]
        return h


PARTS = {
    "features": (slice(None), slice(1, 3)),
    "one feature": (slice(None), -1),
    "behind dots": (..., 0),
    "every second": (slice(None), slice(None, None, 2)),
    "listed": (slice(None), [0, 2]),
    "all": slice(None),
}


@pytest.mark.system
@pytest.mark.parametrize("part", PARTS)
def test_a_loop_that_writes_a_part_of_its_state_takes_one_row(part):
    torch.manual_seed(2)
    module = WritesAPart(PARTS[part]).eval()
    example = (torch.randn(2, 6, 3),)
    artifact = export_and_compare(module, example, ExportConfig(inputs=X))
    assert artifact.manifest.ranges == {}
    assert artifact.manifest.streamable


class NestedOverTime(Stepwise):
    def step(self, x, t, h, outs):
        for frame in x.unbind(1):
            h = h + self.w(frame)
        return h


REFUSED = {
    UntilNoneIsLeft: ("by next() until none is left", "h + next(steps)"),
    NestedOverTime: ("inside of another one", "for frame in x.unbind(1)"),
    EveryStepAndEverySecond: ("zips sequences of different lengths", "x[:, ::2]"),
    FromInfinity: ("the state most of a loop", "for t in range(x.size(1))"),
    LaterBranch: ("treats one of the later steps differently", "if t == 400"),
    EverySecond: ("computes with the number of a step", "if t % 2 == 0"),
    LateThreshold: ("treats one of the later steps differently", "t * 0.1 > 50.0"),
    LateThresholdOfAFloat: (
        "treats one of the later steps differently",
        "0.1 * float(t) > 50.0",
    ),
    LastStep: ("forward", "if t == x.size(1) - 1"),
    Power: ("computes with the number of a step", "0.9**t"),
    GrowingHistory: ("its steps", "for t in range(x.size(1))"),
    Nested: ("inside of another one", "for s in range(x.size(1))"),
    WholeBuffer: ("reads the buffer that it writes", "out.sum(1)"),
    Leaving: ("leaves a loop over time early", "for t in range(x.size(1))"),
    Backwards: ("runs backwards", "range(x.size(1) - 1, -1, -1)"),
    TwoStepsBack: ("two or more steps back from the first step on", "x[:, t - 2]"),
    OneOfTheList: ("read behind the loop", "for t in range(x.size(1))"),
    NumberBehind: ("behind the loop", "h / (t + 1)"),
    OverTheListBefore: ("read behind the loop", "for t in range(x.size(1))"),
    ListOfNumbers: ("takes the number of steps for a number", "list(range(x.size(1)))"),
    ShiftByTheStep: ("number of a step", "h.roll(t, 1)"),
    SelectingByAList: ("number of a step", "x.select(1, order[t])"),
    WeightsPerStep: ("number of a step", "self.layers[t]"),
    GainOfTheSchedule: ("number of a step", "self.schedule[t]"),
    StepOfASet: ("number of a step", "t in {700, 800}"),
    StepAsText: ("number of a step", 'f"{t}"'),
}
"""What each module does that is refused, and the line that the message has."""


@pytest.mark.system
@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_a_loop_that_is_no_recurrence_is_refused_with_its_line(kind):
    torch.manual_seed(1)
    reason, line = REFUSED[kind]
    with pytest.raises(UnsupportedError) as refusal:
        export(kind().eval(), torch.randn(2, 6, 3), ExportConfig(inputs=X))
    message = str(refusal.value)
    assert reason in message
    assert "test_loops.py" in message
    assert line in message


class NormalizedBehindItsCell(nn.Module):
    """A loop without rows, whose state is not the cell's."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        h = torch.zeros(4)
        outs = []
        for t in range(x.size(0)):
            h = self.norm(self.cell(x[t], h))
            outs.append(h)
        return torch.stack(outs)


@pytest.mark.system
def test_a_loop_without_rows_is_exact_and_refused_at_one_fixed_step():
    torch.manual_seed(6)
    module = NormalizedBehindItsCell().eval()
    config = ExportConfig(inputs={"x": ("L", 3)})
    artifact = export_and_compare(module, (torch.randn(5, 3),), config)
    assert artifact.manifest.states == ()
    one_step = ExportConfig(inputs={"x": (1, 3)})
    with pytest.raises(UnsupportedError, match="forward makes the state h of cell"):
        export(module, torch.randn(1, 3), one_step)


class BatchOfTheExample(Stepwise):
    """A module that keeps the number of rows, as layers of speechbrain do."""

    def forward(self, x):
        if x.size(0) != 2:
            x = x * 1.0
        h = x.new_zeros(2, 4).expand(x.size(0), 4)
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
        return h


@pytest.mark.system
def test_a_batch_that_forward_fixes_is_refused_without_named_axes():
    torch.manual_seed(3)
    with pytest.raises(UnsupportedError, match=r"axis 0 of x at 2 .*size\(0\) != 2"):
        export(BatchOfTheExample().eval(), torch.randn(2, 6, 3))


class StateOfAnotherBatch(Stepwise):
    """A check of the batch, as in every neuron of snntorch."""

    def forward(self, x, h):
        if h.size(0) != x.size(0):
            h = x.new_zeros(x.size(0), 4)
        outs = []
        for t in range(x.size(1)):
            h = self.plain(x[:, t], h)
            outs.append(h)
        return torch.stack(outs, 1), h


@pytest.mark.system
def test_a_state_whose_batch_is_compared_with_the_inputs_continues():
    torch.manual_seed(4)
    axes = X | {"h": ("N", 4)}
    example = (torch.randn(2, 6, 3), torch.randn(2, 4))
    module = StateOfAnotherBatch().eval()
    artifact = export_and_compare(module, example, ExportConfig(inputs=axes))
    assert [(s.input, s.output) for s in artifact.manifest.states] == [("h", "h_n")]
    assert artifact.manifest.streamable


_PACKAGE = {
    "__init__.py": "",
    "layers.py": """
from torch import nn
from . import functional

class Decay(nn.Module):
    def forward(self, x):
        return functional.decay(x)
""",
    "functional/__init__.py": "from .loop import decay",
    "functional/loop.py": """
import torch

def decay(x):
    h = torch.zeros_like(x[:, 0])
    outs = []
    for t in range(x.size(1)):
        h = 0.9 * h + x[:, t]
        outs.append(h)
    return torch.stack(outs, 1)
""",
}
"""An installed package whose loop stands behind a folder that does not use PyTorch."""


@pytest.mark.system
def test_a_loop_anywhere_in_the_package_of_a_layer_is_exported(tmp_path, monkeypatch):
    for name, text in _PACKAGE.items():
        path = tmp_path / "dist-packages" / "decaying" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "dist-packages")
    module = importlib.import_module("decaying.layers").Decay()
    example = (torch.ones(2, 6, 3),)
    artifact = export_and_compare(module, example, ExportConfig(inputs=X))
    assert artifact.manifest.streamable


@pytest.mark.system
def test_axes_are_found_without_being_named():
    torch.manual_seed(2)
    network = NETWORKS["LayerNormLSTM"]
    artifact = export(network.kind().eval(), network.example())
    assert artifact.manifest.inputs[0].axes == ("N", "L", 3)
    assert [state.input for state in artifact.manifest.states] == ["h_0", "c_0"]


@pytest.mark.system
def test_states_have_the_names_of_the_loops_variables():
    states = exported("StabilizedLSTM").manifest.states
    assert [(state.input, state.output) for state in states] == [
        ("h_0", "h_n"),
        ("c_0", "c_n"),
        ("n_0", "n_n"),
        ("m_0", "m_n"),
    ]


@pytest.mark.system
def test_a_state_from_data_stays_inside_with_a_note():
    artifact = exported("Encoded")
    assert artifact.manifest.states == ()
    line = (
        r"loop loop_networks\.py:\d+: for t in range\(x\.size\(1\)\): its state h stays"
    )
    assert re.match(line, artifact.notes[0])


class OwnFeedback(nn.Module):
    """A decoder of five steps that reads what it gave."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.GRU(3, 4, batch_first=True)
        self.cell = nn.GRUCell(3, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        h = self.encoder(x)[1][0]
        y = x[:, -1]
        outs = []
        for _ in range(5):
            h = self.cell(y, h)
            y = self.out(h)
            outs.append(y)
        return torch.stack(outs, 1)


@pytest.mark.system
def test_a_cell_that_decodes_several_steps_has_one_note():
    torch.manual_seed(5)
    example = (torch.randn(2, 6, 3),)
    artifact = export_and_compare(OwnFeedback().eval(), example)
    notes = [note for note in artifact.notes if "layer 'cell'" in note]
    assert notes == ["layer 'cell': its state h stays in the graph"]


class ReadsBefore(nn.Module):
    """A loop whose steps read the input at ``where(t)``."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.line = nn.Linear(7, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outputs = []
        for t in range(x.size(1)):
            read = x[:, self.where(t)]
            h = torch.tanh(self.line(torch.cat([read, h], 1)))
            outputs.append(h)
        return torch.stack(outputs, 1)


@pytest.mark.parametrize(
    "where",
    [lambda t: t - 1, lambda t: max(t - 1, 0), lambda t: 0 if t == 0 else t - 1],
    ids=["wrapped", "clamped", "by a condition"],
)
def test_a_first_step_may_read_another_frame(where):
    torch.manual_seed(1)
    module = ReadsBefore(where).eval()
    model = load(export(module, torch.randn(2, 5, 3)).model)
    for steps in range(2, 9):
        x = torch.randn(3, steps, 3)
        outputs, _ = model.run(x.numpy())
        want = module(x).detach().numpy()
        np.testing.assert_allclose(outputs["output"], want, atol=1e-6)


class ComparesWithTheLength(nn.Module):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        for t in range(x.size(1)):
            h = h * 0.5 + x[:, t] * (1 if t < x.size(1) - 1 else 5)
        return h


class AppendsOneTensor(nn.Module):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        outputs = []
        for t in range(x.size(1)):
            h.mul_(0.5).add_(x[:, t])
            outputs.append(h)
        return torch.stack(outputs, 1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ComparesWithTheLength, "compares the number of a step with a length"),
        (AppendsOneTensor, "appends the same tensor at every step.*h.clone"),
    ],
)
def test_steps_that_look_like_others_and_are_not_are_refused(kind, message):
    with pytest.raises(UnsupportedError, match=message):
        export(kind().eval(), torch.randn(2, 5, 3))


class Backwards(nn.Module):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 3)
        for t in range(x.size(1)):
            h = torch.tanh(h + x[:, x.size(1) - 1 - t])
        return h


def test_a_batch_that_the_loop_fixes_is_noted():
    artifact = export(Backwards().eval(), torch.randn(2, 5, 3))
    assert artifact.manifest.inputs[0].axes == (2, "L", 3)
    assert any("axis 0 of x is fixed at 2" in note for note in artifact.notes)
    named = export(Backwards().eval(), torch.randn(2, 5, 3), ExportConfig(inputs=X))
    assert not any("fixed" in note for note in named.notes)


class Ramp(nn.Module):
    def forward(self, x):
        return x * torch.arange(1, 4.0)


def test_a_range_is_of_floats_if_one_end_is():
    x = torch.randn(2, 5, 3)
    config = ExportConfig(inputs=X)
    outputs, _ = load(export(Ramp(), x, config).model).run(x.numpy())
    np.testing.assert_allclose(outputs["output"], Ramp()(x).numpy(), atol=1e-6)


class WritesBehindTheFirst(Linears):
    """A loop that writes a part of the features, from the second frame on."""

    def __init__(self):
        super().__init__(w=(3, 4), u=(4, 4))

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        out = x.new_ones(x.size(0), x.size(1) + 1, 6)
        for t in range(x.size(1)):
            h = torch.tanh(self.w(x[:, t]) + self.u(h))
            out[:, t + 1, 1:5] = h
        return out


def test_a_part_of_a_buffer_may_be_written_behind_its_first_frame():
    torch.manual_seed(6)
    export_and_compare(
        WritesBehindTheFirst().eval(), (torch.randn(2, 6, 3),), ExportConfig(inputs=X)
    )


class Shared(nn.Module):
    """A state that starts at a share of the number of steps."""

    def forward(self, x):
        h = x.new_full((x.size(0), 3), 1.0 / x.size(1))
        outs = []
        for t in range(x.size(1)):
            h = 0.5 * h + x[:, t]
            outs.append(h)
        return torch.stack(outs, 1)


def test_a_reset_value_that_follows_the_length_stays_inside():
    artifact = export_and_compare(Shared().eval(), torch.randn(2, 5, 3))
    assert not artifact.manifest.states
    assert not artifact.manifest.streamable


@pytest.mark.parametrize("name", ["ThirdOrder", "Fired", "AddedInPlace"])
def test_a_loop_reads_what_earlier_steps_have_made(name):
    assert exported(name).manifest.streamable == NETWORKS[name].streams
