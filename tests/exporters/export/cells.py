"""Recurrent cells as people may write them: every order, container and path of states, as source text."""

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import torch
from torch import nn

__all__ = ["Cell", "all_cells", "sample"]

WIDTH = 6
_CORES = {
    "lstm": (
        ("h", "c"),
        """
        i, f, g, o = self.gates(torch.cat([x, h], -1)).chunk(4, -1)
        c{0} = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h{0} = torch.sigmoid(o) * torch.tanh(c{0})
        y = self.head(h{0})""",
    ),
    "stack": (
        ("h1", "h2"),
        """
        h1{0} = torch.tanh(self.one(torch.cat([x, h1], -1)))
        h2{0} = torch.tanh(self.two(torch.cat([h1{0}, h2], -1)))
        y = self.head(h2{0})""",
    ),
    "counter": (
        ("h", "pos"),
        """
        h{0} = torch.tanh(self.one(torch.cat([x, h], -1)) + 0.01 * pos.unsqueeze(-1))
        pos{0} = pos + 1
        y = self.head(h{0})""",
    ),
    "cache": (
        ("past_k", "past_v"),
        """
        k = 0.9 * past_k + self.one(torch.cat([x, past_v], -1))
        v = 0.8 * past_v + self.two(torch.cat([k, past_k], -1))
        y = self.head(torch.softmax(k, -1) * v)""",
    ),
    "window": (
        ("h", "conv"),
        """
        conv{0} = torch.cat([conv[:, 1:], x.unsqueeze(1)], 1)
        h{0} = torch.tanh(self.one(torch.cat([conv{0}.mean(1), h], -1)))
        y = self.head(h{0})""",
    ),
}
"""What one step computes, by the names of its states; ``{0}`` marks their next values."""
_PATHS = {
    "plain": "{0}",
    "normed": "nn.functional.layer_norm({0}, {0}.shape[-1:])",
    "residual": "({0} + 0.5 * {1})",
    "clamped": "{0}.clamp(-0.5, 0.5)",
    "averaged": "torch.lerp({1}, {0}, 0.25)",
}
"""How a float state gets from the core to the output: ``{0}`` the new value, ``{1}`` the old one."""
CONTAINERS = ("tuple", "dict", "named tuple", "nested", "nested dict")


@dataclass(frozen=True)
class Cell:
    """One cell."""

    core: str
    order: tuple[int, ...]
    """Places of y (0) and the states (1, 2) in what forward returns."""
    container: str
    path: str
    style: str
    """``rebound``, ``renamed`` (``h_new``) or ``inline`` (no variable holds what is returned)."""
    arguments: str
    """``apart``, or ``packed`` in one tuple ``hc``."""
    wide: bool
    """Whether y has the states' shape."""

    def __str__(self) -> str:
        width = "wide" if self.wide else "narrow"
        order = "".join(map(str, self.order))
        parts = (self.core, order, self.container, self.path, self.style, self.arguments, width)
        return "-".join(part.replace(" ", "_") for part in parts)

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the inputs of the file that are states."""
        names = _CORES[self.core][0]
        return tuple(f"hc_{place}" for place in range(2)) if self.arguments == "packed" else names

    @property
    def truth(self) -> dict[str, int]:
        """The place of the output that continues each state."""
        return {name: self.order.index(place + 1) for place, name in enumerate(self.states)}

    def source(self) -> str:
        """Return the module's source text."""
        names, core = _CORES[self.core]
        mark = "_new" if self.style == "renamed" else ""
        after = [name.removeprefix("past_") + ("" if self.core == "cache" else mark) for name in names]
        old = [f"old_{place}" for place in range(2)]
        ways = [_PATHS["plain" if name in ("pos", "conv") else self.path] for name in names]
        values = [way.format(new, before) for way, new, before in zip(ways, after, old, strict=True)]
        lines = [f"{one} = {two}" for one, two in zip(old, names, strict=True)]
        if self.style != "inline":
            end = [f"{new} = {value}" for new, value in zip(after, values, strict=True)]
        else:
            end, values = [], [f"({value}) * 1" for value in values]
        given = values if self.style == "inline" else after
        items = [("y", "y * 1" if self.style == "inline" else "y"), *zip(names, given, strict=True)]
        keys = [("y", items[0][1]), *((name.removeprefix("past_"), value) for name, value in items[1:])]
        ordered = [keys[place] for place in self.order]
        if self.container == "tuple":
            result = f"({', '.join(value for _, value in ordered)})"
        elif self.container == "dict":
            result = "{" + ", ".join(f'"{key}": {value}' for key, value in ordered) + "}"
        elif self.container == "named tuple":
            result = f"Result({', '.join(f'{key}={value}' for key, value in ordered)})"
        else:
            inner = f"({', '.join(value for key, value in ordered if key != 'y')})"
            result = f"({keys[0][1]}, {inner})"
            if self.container == "nested dict":
                result = f'{{"y": {keys[0][1]}, "state": {inner}}}'
        packed = self.arguments == "packed"
        fields = ", ".join(f'"{key}"' for key, _ in ordered)
        body = "\n        ".join([*([f"{', '.join(names)} = hc"] if packed else []), *lines])
        tail = "\n        ".join([*end, f"return {result}"])
        return f"""from collections import namedtuple
import torch
from torch import nn

Result = namedtuple("Result", [{fields}])


class Generated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gates = nn.Linear({2 * WIDTH}, {4 * WIDTH})
        self.head = nn.Linear({WIDTH}, {WIDTH if self.wide else 2})
        self.one, self.two = nn.Linear({2 * WIDTH}, {WIDTH}), nn.Linear({2 * WIDTH}, {WIDTH})

    def forward(self, x, {"hc" if packed else ", ".join(names)}):
        {body}{core.format(mark)}
        {tail}
"""

    def build(self, folder: Path) -> nn.Module:
        """Return the module, imported from a file in ``folder``."""
        path = folder / "generated.py"
        path.write_text(self.source())
        spec = importlib.util.spec_from_file_location("generated", path)
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        torch.manual_seed(0)
        return found.Generated().eval()

    def inputs(self, rows: int, generator: torch.Generator) -> tuple:
        """Return arguments of ``forward``, the states at zero."""
        states = [
            torch.zeros(rows, dtype=torch.int64)
            if name == "pos"
            else torch.zeros(rows, *([4] if name == "conv" else []), WIDTH)
            for name in _CORES[self.core][0]
        ]
        x = torch.randn(rows, WIDTH, generator=generator)
        return (x, tuple(states)) if self.arguments == "packed" else (x, *states)


def all_cells() -> Iterator[Cell]:
    """Return every cell whose parts go together."""
    for core, container, path, style, arguments, wide in product(
        _CORES, CONTAINERS, _PATHS, ("rebound", "renamed", "inline"), ("apart", "packed"), (False, True)
    ):
        nested = container.startswith("nested")
        for order in ((0, 1, 2), (0, 2, 1)) if nested else permutations(range(3)):
            yield Cell(core, order, container, path, style, arguments, wide)


def sample(count: int, seed: int) -> list[Cell]:
    """Return some cells of all kinds, each container, path, style and core equally often or nearly so."""
    return random.Random(seed).sample(list(all_cells()), count)
