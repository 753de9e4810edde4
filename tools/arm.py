"""Run the runtime's tests and the committed artifacts' self-tests on aarch64.

On an ARM machine they run as they are. On Debian for x86-64 they run under qemu-user,
on an aarch64 Python from the distribution and aarch64 wheels of numpy and onnxruntime,
all kept in a cache folder outside the tree; nothing is installed and nothing needs
root. On other machines the reason is printed.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from arm_root import UnsupportedMachineError, arm_python

ROOT = Path(__file__).parents[1]
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1")
"""Raspberry Pi 3, 4 and 5, and a server."""
TESTED = ("cortex-a53", "cortex-a76")
"""Cores on which all tests run: one without dot products and one with them, which use
different kernels."""
ARTIFACTS = "tests/runtime/test_artifacts.py"
"""The self-test of every committed file, which runs on every core."""
TOO_SLOW = (
    "memory_stays_flat",
    "Sources",
    "any_cutting",
    "no_model_are_refused",
    "fades_into_denormals",
)
"""Soaks, wide searches and timings, which an emulator a twentieth as fast has no use
for."""
TRACES = ("test_isolation",)
"""Tests that trace system calls, which would be the emulator's."""
CROSS = "aarch64-linux-gnu-gcc"
_PYTEST = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow")


def _environment(cpu: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONDONTWRITEBYTECODE": "1",
        "QEMU_CPU": cpu,
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _run(python: Path, arguments: list[str], cpu: str) -> bool:
    """Run one program; print its duration, and all its output if it failed."""
    start = time.monotonic()
    ran = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env=_environment(cpu),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (ran.stdout + ran.stderr).strip().splitlines()
    print(
        f"{cpu}, {time.monotonic() - start:.0f} s:",
        *(lines if ran.returncode else lines[-1:]),
        sep="\n",
        flush=True,
    )
    return ran.returncode == 0


def _native_package(folder: Path) -> list[Path]:
    """Cross-compile lstm-edge-native into a folder of import packages; none without
    such a compiler.
    """
    if not (shutil.which(CROSS) and shutil.which("cmake")):
        print(f"the native engine is left out: it needs cmake and {CROSS}")
        return []
    target = [
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={CROSS}",
    ]
    build = folder / "build"
    package = folder / "site" / "lstm_edge_native"
    subprocess.run(
        ["cmake", "-S", ROOT / "native", "-B", build, *target],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    subprocess.run(["cmake", "--build", build], check=True, stdout=subprocess.DEVNULL)
    package.mkdir(parents=True)
    shutil.copy(ROOT / "native" / "lstm_edge_native" / "__init__.py", package)
    shutil.copy(build / "liblstm_edge.so", package)
    return [package.parent]


def main() -> int:
    """Run everything, two at a time; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cpu", action="append", choices=CPUS, help="only this core (repeatable)"
    )
    parser.add_argument(
        "tests", nargs="*", default=["tests/runtime"], help="what pytest runs"
    )
    options = parser.parse_args()
    if platform.machine() == "aarch64":
        return int(
            not _run(Path(sys.executable), [*_PYTEST, *options.tests], "this machine")
        )
    left_out = ["-k", f"not ({' or '.join((*TOO_SLOW, *TRACES))})"]
    jobs = [
        (cpu, [*options.tests, *left_out] if cpu in TESTED else [ARTIFACTS])
        for cpu in options.cpu or CPUS
    ]
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            arm_python(
                [
                    ROOT,
                    ROOT / "exporters",
                    ROOT / "runtime",
                    *_native_package(Path(folder)),
                ]
            ) as python,
            ThreadPoolExecutor(2) as pool,
        ):
            return int(
                not all(
                    list(
                        pool.map(
                            lambda job: _run(python, [*_PYTEST, *job[1]], job[0]), jobs
                        )
                    )
                )
            )
    except UnsupportedMachineError as reason:
        print(f"ARM tests skipped: {reason}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
