"""Run the tests on the built wheel in fresh environments: without torch, with the oldest, with the newest.

Each ROW is one environment in a temporary folder, holding the wheel and never the source tree:

  thin           the wheel without torch, on the running Python: the runtime's tests
  oldest         every lower bound of the base and of [cpu], on the oldest Python: the runtime's tests
  newest         the newest of everything, on the newest Python found here: the runtime's tests
  export-oldest  every lower bound of [export], torch and onnx among them, on aarch64: some of the exporter's
                 tests. Old releases of torch for x86-64 need gigabytes of CUDA, those for aarch64 need none.

A row that can't run here is skipped with the reason.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import metadata
from pathlib import Path

from _arm_pip import install_for_arm
from _arm_root import UnsupportedMachineError, arm_python
from _pythons import find_pythons
from _requirements import declared, oldest
from packaging.specifiers import SpecifierSet

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
ROWS = ("export-oldest", "newest", "oldest", "thin")
SOME = "TutorialLSTM1 or SentimentClassifier or ActorCritic or differs_is_not_given or chunks_equal_the_whole"
"""The exporter's tests that an emulator has time for."""
_TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis")


class SkippedRowError(Exception):
    """A row can't run on this machine; the message says why."""


def _pip(python: Path, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "-q", *arguments], check=True)


def _version(python: Path) -> str:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    ran = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def _pick_python(row: str) -> Path:
    if row == "thin":
        return Path(sys.executable)
    supported = SpecifierSet(metadata("lstm-edge")["Requires-Python"])
    found = {
        version: path for version, path in find_pythons().items() if f"{version[0]}.{version[1]}" in supported
    }
    if row == "newest":
        return found[max(found)]
    (bound,) = [tuple(map(int, spec.version.split("."))) for spec in supported if spec.operator == ">="]
    if bound not in found:
        raise SkippedRowError(f"no Python {'.'.join(map(str, bound))} on PATH or under pyenv")
    return found[bound]


def _lay_tree(folder: Path) -> Path:
    """Copy everything but the packages, so that only the wheel's can be imported."""
    tree = folder / "tree"
    for part in ("tests", "examples", "docs", "benchmarks"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tools", tree / "tools")
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def _run_runtime(row: str, wheel: Path, folder: Path) -> bool:
    interpreter = _pick_python(row)
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    needed = declared(["cpu"], python=_version(interpreter))
    requirements = oldest(needed) if row == "oldest" else [str(requirement) for requirement in needed]
    print(f"\n{row}: {interpreter}: {' '.join(requirements)}", flush=True)
    _pip(python, *requirements, *_TEST_TOOLS)
    _pip(python, "--no-deps", "--no-index", wheel)
    pytest = [str(python.with_name("pytest")), "-q", "-n", "2", "--dist", "worksteal", "-m", "not slow"]
    return subprocess.run([*pytest, "tests/runtime"], cwd=_lay_tree(folder), check=False).returncode == 0


def _run_export_oldest(wheel: Path, folder: Path) -> bool:
    base = {requirement.name for requirement in declared()}
    pins = oldest(requirement for requirement in declared(["export"]) if requirement.name not in base)
    print(f"\nexport-oldest: {' '.join(pins)}", flush=True)
    if platform.machine() == "aarch64":
        python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        _pip(python, *pins, *_TEST_TOOLS, f"{wheel}[cpu]")
        return _run_exporter(python, folder)
    site = folder / "site"
    try:
        with arm_python([site]) as python:
            torch = [pin for pin in pins if pin.startswith("torch==")]
            others = [pin for pin in pins if pin not in torch]
            install_for_arm(site, others, python=_version(python), alone=[*torch, wheel])
            return _run_exporter(python, folder)
    except UnsupportedMachineError as reason:
        raise SkippedRowError(str(reason)) from reason


def _run_exporter(python: Path, folder: Path) -> bool:
    tests = ["tests/exporters/export/test_export.py", "tests/exporters/export/test_people.py"]
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SOME, *tests]
    environment = {**os.environ, "QEMU_CPU": "neoverse-n1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=_lay_tree(folder), env=environment, check=False).returncode == 0


def main() -> int:
    """Run the rows asked for, one after another; 1 where one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", metavar="ROW", nargs="*", choices=[*ROWS, []], default=ROWS)
    rows = parser.parse_args().rows
    failed = []
    with tempfile.TemporaryDirectory(prefix="lstm-edge-matrix-") as name:
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", name, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(name).glob("*.whl")
        for row in rows:
            folder = Path(name) / row
            folder.mkdir()
            try:
                if row == "export-oldest":
                    passed = _run_export_oldest(wheel, folder)
                else:
                    passed = _run_runtime(row, wheel, folder)
            except SkippedRowError as reason:
                print(f"\n{row}: skipped: {reason}", flush=True)
            else:
                failed += [] if passed else [row]
            shutil.rmtree(folder)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
