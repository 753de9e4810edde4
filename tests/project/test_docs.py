"""The pages: every link leads somewhere, and the API reference leaves no public name
out."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "lstm_edge").rglob("*.md"),
    ]
)


def _text(page: Path) -> str:
    """The page without its code, in which brackets mean other things."""
    text = re.sub(
        r"^```.*?^```",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"`[^`\n]*`", "", text)


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    text = re.sub(
        r"^```.*?^```",
        "",
        page.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    headings = re.findall(r"^#+ +(.*?)\s*$", text, flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_every_link_leads_to_a_file_and_heading_that_are_there(page):
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", _text(page))
    dead = []
    for link in (first or second for first, second in links):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in _anchors(target)
        ):
            dead.append(link)
    assert dead == []


@pytest.mark.parametrize(
    "package", ["lstm_edge_runtime", "lstm_edge_exporters", "lstm_edge"]
)
def test_the_api_reference_shows_every_public_name(package):
    pages = (ROOT / "docs" / "api").glob("*.md")
    shown = {
        name
        for page in pages
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    }
    module = importlib.import_module(package)
    public = {
        name: getattr(module, name) for name in module.__all__ if name != "__version__"
    }
    missing = [
        name
        for name, value in public.items()
        if not {f"{package}.{name}", f"{package}.{value.__name__}", value.__module__}
        & shown
    ]
    assert missing == []
