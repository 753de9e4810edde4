"""Lay out an aarch64 Python with this project's light dependencies in a cache folder,
for qemu-user.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path(__file__).parents[1]

_SITE = "lib/python3/dist-packages"
_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
_DECLARED = _ROOT / "runtime" / "pyproject.toml"
_REQUIREMENTS = (
    "-r",
    str(_DECLARED),
    "--extra=cpu",
    "click",
    "rich",
    "pytest",
    "hypothesis",
)
"""For uv: what the runtime declares, and what its tests need."""
_WRAPPER = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../../../qemu-aarch64" -L "$here/../.." -0 "$0" "$here/{python}" "$@"
"""
"""Stands beside the real interpreter and is its ``sys.executable``, so that
subprocesses are emulated too."""


class UnsupportedMachineError(Exception):
    """This machine can't run aarch64 programs under emulation; the message says
    why.
    """


def _require_supported() -> None:
    machine = f"{platform.system()} on {platform.machine()}"
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UnsupportedMachineError(
            f"this is {machine}; Debian on x86-64, or aarch64, is needed"
        )
    missing = [
        program for program in ("apt-get", "dpkg-deb") if not shutil.which(program)
    ]
    if missing:
        raise UnsupportedMachineError(
            f"no {' and '.join(missing)} here; Debian is needed"
        )


def _apt(folder: Path, *options: str) -> list[str]:
    """Return the start of an apt-get command that keeps everything it writes under a
    folder.
    """
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": folder / "state",
        "Dir::Cache": folder / "cache",
        "APT::Install-Recommends": "false",
        "APT::Update::Post-Invoke": "",
        "APT::Sandbox::User": "",
    }
    return [
        "apt-get",
        "-qq",
        *(f"-o{key}={value}" for key, value in settings.items()),
        *options,
    ]


def _call(command: Sequence[str | Path], cwd: Path | None = None) -> None:
    """Run a program silently; print its output if it fails."""
    ran = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=cwd,
    )
    if ran.returncode:
        raise SystemExit(
            f"setting up aarch64 failed at: {' '.join(map(str, command))}\n{ran.stdout}"
        )


def _unpack(folder: Path, root: Path) -> None:
    for part in (
        "lib",
        "bin",
        "sbin",
    ):  # as on a merged-/usr system, whichever way a package spells paths
        (root / "usr" / part).mkdir(parents=True, exist_ok=True)
        if not (root / part).is_symlink():
            (root / part).symlink_to(f"usr/{part}")
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        _call(["dpkg-deb", "-x", package, root])


def _starts(program: Path) -> bool:
    try:
        return (
            subprocess.run(
                [program, "--version"], capture_output=True, check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


def _get_qemu(folder: Path) -> None:
    """Put ``qemu-aarch64`` into the folder: this machine's own, or the one in the
    distribution's package.
    """
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu:
        (folder / "qemu-aarch64").symlink_to(qemu)
        return
    apt = _apt(folder / "apt-host")
    _call([*apt, "update"])
    archives = folder / "apt-host" / "cache" / "archives"
    for package in (
        "qemu-user",
        "qemu-user-static",
    ):  # static builds are in one or the other, by release
        _call([*apt, "download", package], cwd=archives)
        _unpack(folder / "apt-host", folder / "qemu")
        for name in ("qemu-aarch64-static", "qemu-aarch64"):
            if _starts(folder / "qemu" / "usr" / "bin" / name):
                shutil.copy(
                    folder / "qemu" / "usr" / "bin" / name, folder / "qemu-aarch64"
                )
                shutil.rmtree(folder / "qemu")
                return
    raise SystemExit(
        "no qemu-aarch64 in this distribution's packages starts here; install qemu-user"
        " by hand"
    )


def _foreign_apt(folder: Path) -> list[str]:
    return _apt(
        folder,
        "-oAPT::Architecture=arm64",
        "-oAPT::Architectures=arm64",
        "-oDir::State::status=/dev/null",
    )


def _get_python(folder: Path) -> None:
    apt = _foreign_apt(folder / "apt-arm64")
    _call([*apt, "update"])
    _call([*apt, "-y", "--download-only", "install", *_PACKAGES])
    root = folder / "root"
    _unpack(folder / "apt-arm64", root)
    (python,) = (path.name for path in (root / "usr" / "bin").glob("python3.*[0-9]"))
    wrapper = root / "usr" / "bin" / "python"
    wrapper.write_text(_WRAPPER.format(python=python), encoding="utf-8")
    wrapper.chmod(0o755)
    install_for_arm(wrapper, root / "usr" / _SITE, _REQUIREMENTS)


def install_for_arm(python: Path, site: Path, arguments: Sequence[str]) -> None:
    """Install wheels for aarch64, and what they need there, into a folder.

    Args:
        python: the interpreter that ``arm_python`` gives; its version is the wheels'.
        site: the folder.
        arguments: what ``uv pip install`` takes.
    """
    (interpreter,) = python.parent.glob("python3.*[0-9]")
    uv = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--no-config",
        "--only-binary=:all:",
    ]
    target: list[str | Path] = [
        "--target",
        site,
        "--python-platform",
        "aarch64-manylinux_2_28",
    ]
    _call(
        [
            *uv,
            *target,
            "--python-version",
            interpreter.name.removeprefix("python"),
            *arguments,
        ]
    )


@contextmanager
def arm_python(packages: Sequence[Path]) -> Iterator[Path]:
    """Return a program that is an aarch64 Python to whoever starts it; lay it out where
    it isn't yet.

    It is this process's alone until the block ends.

    Args:
        packages: Folders that hold import packages; it imports them as if they were
            installed.

    Raises:
        UnsupportedMachineError: This is not Debian on x86-64.
    """
    _require_supported()
    system = platform.freedesktop_os_release()
    recipe = [
        Path(__file__).read_text(encoding="utf-8"),
        system["ID"],
        system.get("VERSION_ID", ""),
        _DECLARED.read_text(encoding="utf-8"),
    ]
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lstm-edge"
    )
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"arm-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"
    with (cache / "arm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for stale in cache.glob(
                "arm-*"
            ):  # of another recipe, or of a run that was stopped half-way
                shutil.rmtree(stale)
            print(
                f"setting up aarch64 Python, numpy and onnxruntime under {folder}",
                flush=True,
            )
            building = folder.with_name(f"{folder.name}.part")
            building.mkdir()
            _get_qemu(building)
            _get_python(building)
            for apt in building.glob("apt-*"):
                shutil.rmtree(apt)
            building.rename(folder)
        usr = folder / "root" / "usr"
        (usr / _SITE / "lstm_edge.pth").write_text(
            "".join(f"{path}\n" for path in packages), encoding="utf-8"
        )
        yield usr / "bin" / "python"
