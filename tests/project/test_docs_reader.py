"""The pages as a reader sees them: no invisible names, and messages that exist."""

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md")),
]
GIVEN = {"__name__", "__file__"}


def snippets(page: Path) -> Iterator[str]:
    """Yield the visible Python of a page, files that it shows left out."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"^<!-- setup\n.*?^-->$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(
        r"^<!-- (file|not run): [^\n]*-->\n```python\n.*?^```$",
        "",
        text,
        flags=re.MULTILINE | re.DOTALL,
    )
    yield from re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def names_of(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the names that code binds, and those that it reads."""
    bound = set()
    read = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).partition(".")[0])
    return bound, read


def unknown_names(codes: Iterator[str]) -> list[str]:
    """Return the names that snippets read, one after another, and none has bound."""
    known = {*dir(builtins), *GIVEN}
    unknown = []
    for code in codes:
        bound, read = names_of(ast.parse(code))
        known |= bound
        unknown += sorted(read - known)
    return unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_visible_snippet_uses_no_name_from_hidden_code(page):
    assert unknown_names(snippets(page)) == []


def test_a_name_that_nothing_visible_binds_is_found():
    codes = iter(["import torch\nx = torch.ones(3)", "export(module, x)"])
    assert unknown_names(codes) == ["export", "module"]


def literals() -> list[str]:
    """Return the texts in the code of the packages, with "…" for each value."""
    texts = []
    for folder in ("lstm_edge", "exporters", "runtime"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(part.value) if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    ]
                    texts.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    return texts


def test_every_message_of_the_troubleshooting_page_is_in_the_code():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(messages) > 20
    texts = "\n".join(literals())
    missing = [
        message
        for message in messages
        if not re.search(".*".join(map(re.escape, message.split("…"))), texts)
    ]
    assert missing == []
