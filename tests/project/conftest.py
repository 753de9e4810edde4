"""The tree as data: packages, modules and what each imports, read from source and never
imported."""

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {
    "lstm_edge_runtime": ROOT / "runtime" / "lstm_edge_runtime",
    "lstm_edge_exporters": ROOT / "exporters" / "lstm_edge_exporters",
    "lstm_edge": ROOT / "lstm_edge",
}
"""From the bottom up: a package may import those before it and none after it."""


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def is_init(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @cached_property
    def imports(self) -> frozenset[str]:
        """Every dotted name imported anywhere in the file, relative ones made
        absolute."""
        parts = self.name.split(".") if self.is_init else self.name.split(".")[:-1]
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = parts[: len(parts) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                names.update(f"{source}.{alias.name}" for alias in node.names)
        return frozenset(names)


def _scan() -> dict[str, Module]:
    modules = {}
    for root in ROOTS.values():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = Module(name, path)
    return modules


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def packages() -> list[str]:
    """The three import packages, from the bottom up."""
    return list(ROOTS)


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    """Every module of the three packages, by dotted name."""
    return _scan()
