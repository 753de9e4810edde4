"""Generated cells: every state is paired with its own output, or a note names it."""

import importlib.util
import random
from itertools import permutations, product

import onnx
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

CORES = {
    "lstm": (
        ("h", "c"),
        """i, f, g, o = self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        c{0} = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h{0} = torch.sigmoid(o) * torch.tanh(c{0})""",
    ),
    "counter": (
        ("h", "pos"),
        """h{0} = torch.tanh(self.one(torch.cat([x, h], -1)) + 0.01 * pos.unsqueeze(-1))
        pos{0} = pos + 1""",
    ),
    "cache": (
        ("past_k", "past_v"),
        """k = 0.9 * past_k + self.one(torch.cat([x, past_v], -1))
        v = 0.8 * past_v + self.one(torch.cat([k, past_k], -1))""",
    ),
}
"""What one step computes, by the names of its states; ``{0}`` marks their next
values."""
CONTAINERS = {
    "tuple": lambda keys, values: f"({', '.join(values)})",
    "dict": lambda keys, values: (
        f"dict({', '.join(map('{}={}'.format, keys, values))})"
    ),
    "named": lambda keys, values: (
        f"Result({', '.join(map('{}={}'.format, keys, values))})"
    ),
}
SOURCE = """from collections import namedtuple
import torch
from torch import nn

class Generated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates, self.one, self.head = nn.Linear(12, 24), nn.Linear(12, 6), nn.Linear(6, {width})

    def forward(self, x, {arguments}):
        {core}
        y = self.head({first})
        return {result}

Result = namedtuple("Result", [{fields}])
"""
STYLES = ("rebound", "renamed", "inline")
EVERY = random.Random(16).sample(
    [*product(CORES, CONTAINERS, STYLES, permutations(range(3)), (2, 6))], 80
)


def build(cell, folder):
    """Return the module, its example, and the index of the output that continues each
    state."""
    kind, container, style, order, width = cell
    names, core = CORES[kind]
    mark = "_new" if style == "renamed" and kind != "cache" else ""
    after = [name.removeprefix("past_") + mark for name in names]
    keys = ["y", *(name.removeprefix("past_") for name in names)]
    values = (
        ["y", *after]
        if style != "inline"
        else [f"{value} * 1" for value in ("y", *after)]
    )
    keys, values = ([texts[index] for index in order] for texts in (keys, values))
    result = CONTAINERS[container](keys, values)
    fields = ", ".join(map(repr, keys))
    text = {"arguments": ", ".join(names), "core": core.format(mark), "first": after[0]}
    (folder / "generated.py").write_text(
        SOURCE.format(width=width, result=result, fields=fields, **text)
    )
    spec = importlib.util.spec_from_file_location("generated", folder / "generated.py")
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    torch.manual_seed(0)
    states = [
        torch.zeros(3, dtype=torch.int64) if name == "pos" else torch.zeros(3, 6)
        for name in names
    ]
    truth = {name: order.index(index + 1) for index, name in enumerate(names)}
    return generated.Generated().eval(), (torch.randn(3, 6), *states), truth


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell,
            marks=[pytest.mark.slow] if index >= 8 else [],
            id="-".join(map(str, cell)),
        )
        for index, cell in enumerate(EVERY)
    ],
)
def test_states_of_a_generated_cell_are_neither_swapped_nor_missed_silently(
    cell, tmp_path
):
    module, example, truth = build(cell, tmp_path)
    artifact = export(module, example)
    order = [
        output.name for output in onnx.load_from_string(artifact.model).graph.output
    ]
    pairs = {
        state.input: order.index(state.output) for state in artifact.manifest.states
    }
    assert pairs == {name: truth[name] for name in pairs}, "swapped"
    for name in set(truth) - set(pairs):
        assert any(name in note and "--state" in note for note in artifact.notes), (
            f"{name} was missed"
        )


class Normalized(nn.Module):
    """A loop over a cell that carries another value than the cell gives."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 5)
        for step in range(x.size(1)):
            h = self.norm(self.cell(x[:, step], h))
        return h


class Plain(Normalized):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 5)
        for step in range(x.size(1)):
            h = self.cell(x[:, step], h)
        return h


ONE_STEP = ExportConfig(inputs={"x": ("N", 1, 3)})


def test_a_loop_of_one_step_around_a_cell_is_refused_unless_the_cell_gives_the_state():
    x = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedError, match=r"state h of cell itself.*x=N,L,3$"):
        export(Normalized().eval(), x, ONE_STEP)


def test_a_cell_of_one_step_whose_state_is_returned_is_exported():
    x = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    artifact = export(Plain().eval(), x, ONE_STEP)
    assert [state.input for state in artifact.manifest.states] == ["h_0"]


class OfVectors(nn.Module):
    """One step of one row, without axes for either."""

    def __init__(self):
        super().__init__()
        self.x = nn.Linear(3, 4)
        self.h = nn.Linear(4, 4)

    def forward(self, x, h):
        h = torch.tanh(self.x(x) + self.h(h))
        return {"y": h.sum(-1, keepdim=True), "h": h}


def test_a_step_whose_axes_are_all_fixed_needs_no_named_axes():
    generator = torch.Generator().manual_seed(0)
    module = OfVectors().eval()
    example = (torch.randn(3, generator=generator), torch.zeros(4))
    artifact = export(module, example)
    assert [(s.input, s.axes) for s in artifact.manifest.states] == [("h", (4,))]
    stream = load(artifact.model).stream()
    h = torch.zeros(4)
    for x in torch.randn(5, 3, generator=generator):
        with torch.no_grad():
            y, h = module(x, h).values()
        assert stream.step(x.numpy()) == pytest.approx(y.numpy(), abs=1e-6)
