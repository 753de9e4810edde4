"""Run the runtime's tests and the committed artefacts' self-tests on aarch64.

On an ARM machine they run as they are. On Debian or Ubuntu for x86-64 they run under qemu-user, on an
aarch64 Python from the distribution and aarch64 wheels of numpy and onnxruntime, all kept in a cache folder
outside the tree; nothing is installed and nothing needs root. Elsewhere the reason is printed, no more.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _arm_root import UnsupportedMachineError, arm_python

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1")
"""Raspberry Pi 3, Raspberry Pi 4, Raspberry Pi 5, and a server core with dot products."""
TESTED = ("cortex-a53", "cortex-a76")
"""Where the tests run too: a core without and one with dot products, for which other kernels are picked."""


def _environment(cpu: str) -> dict[str, str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "exporters", "runtime"))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "QEMU_CPU": cpu,
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _run(name: str, python: Path, arguments: list[str], cpu: str) -> bool:
    """Run one program; print how it went, with its output where it failed or says something."""
    start = time.monotonic()
    ran = subprocess.run(
        [python, *arguments], cwd=ROOT, env=_environment(cpu), capture_output=True, text=True, check=False
    )
    verdict = "ok" if ran.returncode == 0 else f"FAILED ({ran.returncode})"
    lines = (ran.stdout + ran.stderr).strip().splitlines()
    shown = lines if ran.returncode else lines[-1:]
    print(f"{cpu}: {name}: {verdict}, {time.monotonic() - start:.0f} s", *shown, sep="\n    ", flush=True)
    return ran.returncode == 0


def main() -> int:
    """Run everything, two at a time; 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="append", choices=CPUS, help="only this core (repeatable)")
    parser.add_argument("tests", nargs="*", default=["tests/runtime"], help="what pytest runs")
    options = parser.parse_args()
    emulated = platform.machine() != "aarch64"
    try:
        python = arm_python() if emulated else Path(sys.executable)
    except UnsupportedMachineError as reason:
        print(f"ARM tests skipped: {reason}")
        return 0
    cpus = (options.cpu or CPUS) if emulated else ["this machine"]
    artefacts = sorted(file for kind in ("onnx", "ort") for file in (ROOT / "tests").rglob(f"*.{kind}"))
    selftest = "import sys; from lstm_edge.cli import main; sys.argv[0] = 'lstm-edge'; main()"
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    jobs = [
        (f"tests of {' '.join(options.tests)}", [*pytest, *options.tests], cpu)
        for cpu in cpus
        if cpu in TESTED or not emulated
    ]
    jobs += [
        (f"selftest {file.name}", ["-c", selftest, "selftest", str(file)], cpu)
        for cpu in cpus
        for file in artefacts
    ]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: _run(job[0], python, job[1], job[2]), jobs))
    print(f"arm: {results.count(True)} passed, {results.count(False)} failed")
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
