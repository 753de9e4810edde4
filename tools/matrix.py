"""Run the tests on the built wheel in fresh environments: without torch, with the oldest, with the newest.

Each ROW is one environment in a temporary folder, holding the wheel and never the source tree:

  thin           the wheel without torch on the running Python: the runtime's tests
  oldest         every lower bound that pyproject.toml declares, on the oldest Python: the runtime's tests
  newest         the newest of everything, on the newest Python found here: the runtime's tests
  export-oldest  every lower bound, torch and onnx included, on the running Python: the other tests

A row whose Python is not here is skipped with the reason.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import metadata
from pathlib import Path

from _pythons import find_pythons
from _requirements import declared, oldest
from packaging.specifiers import SpecifierSet

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
ROWS = ("export-oldest", "newest", "oldest", "thin")
_TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis")


class SkippedRowError(Exception):
    """A row can't run on this machine; the message says why."""


def _pip(python: Path, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", *arguments], check=True)


def _pick_python(row: str) -> Path:
    if row in ("thin", "export-oldest"):
        return Path(sys.executable)
    supported = SpecifierSet(metadata("lstm-edge")["Requires-Python"])
    found = {
        version: path for version, path in find_pythons().items() if f"{version[0]}.{version[1]}" in supported
    }
    if row == "newest":
        return found[max(found)]
    (bound,) = [tuple(map(int, spec.version.split("."))) for spec in supported if spec.operator == ">="]
    if bound not in found:
        raise SkippedRowError(f"no Python {bound[0]}.{bound[1]} on PATH or under pyenv")
    return found[bound]


def _requirements(row: str, python: Path) -> list[str]:
    version = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    needed = declared(["cpu", "export"] if row.startswith("export") else ["cpu"], python=version)
    return oldest(needed) if row.endswith("oldest") else [str(requirement) for requirement in needed]


def _run_row(row: str, wheel: Path, folder: Path) -> bool:
    interpreter = _pick_python(row)
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    requirements = _requirements(row, interpreter)
    print(f"\n{row}: {interpreter}: {' '.join(requirements)}", flush=True)
    _pip(python, *requirements, *_TEST_TOOLS)
    _pip(python, "--no-deps", "--no-index", wheel)
    tree = folder / "tree"  # everything but the packages, so that only the wheel's can be imported
    for part in ("tests", "examples", "docs", "benchmarks"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    tests = ["tests/exporters", "tests/lstm_edge"] if row.startswith("export") else ["tests/runtime"]
    pytest = [
        str(python.with_name("pytest")),
        "-q",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-m",
        "not slow",
        *tests,
    ]
    return subprocess.run(pytest, cwd=tree, check=False).returncode == 0


def main() -> int:
    """Run the rows asked for, one after another; 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", metavar="ROW", nargs="*", choices=[*ROWS, []], default=ROWS)
    rows = parser.parse_args().rows
    failed = []
    with tempfile.TemporaryDirectory(prefix="lstm-edge-matrix-") as name:
        folder = Path(name)
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = folder.glob("*.whl")
        for row in rows:
            try:
                passed = _run_row(row, wheel, folder / row)
            except SkippedRowError as reason:
                print(f"\n{row}: skipped: {reason}", flush=True)
            else:
                failed += [] if passed else [row]
            shutil.rmtree(folder / row, ignore_errors=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
