"""The C library, built from this tree, once for each instruction set that this machine
has."""

import ctypes as C
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers in this folder

from lstm_edge_exporters.targets.native import program
from lstm_edge_runtime.native import open_library

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "native"
ISAS = (
    ("avx512vnni", "avx512", "avxvnni", "avx2", "sse2")
    if platform.machine() == "x86_64"
    else ("neon-dotprod", "neon")
)
Build = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def zero_blocks_are_left_out_of_small_matrices() -> Iterator[None]:
    """Let products in blocks be tested where the dense ones take less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "BAND_COST", 0)
        yield


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build the library with CMake options, once for all workers; return the folder
    that holds it."""
    if not shutil.which("cmake") or not (os.environ.get("CC") or shutil.which("cc")):
        pytest.skip("building the C library needs cmake and a C compiler")

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def run(*options: str, targets: tuple[str, ...] = ()) -> Path:
        folder = (
            shared
            / f"build-{hashlib.sha256(repr((options, targets)).encode()).hexdigest()[:16]}"
        )
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "complete").exists():
                make(folder, options, targets)
                (folder / "complete").touch()
        return folder

    def make(folder: Path, options: tuple[str, ...], targets: tuple[str, ...]) -> None:
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        wanted = [f"--target={target}" for target in targets]
        for command in (
            ["cmake", "-S", NATIVE, "-B", folder, *generator, *options],
            ["cmake", "--build", folder, "--parallel", "2", *wanted],
        ):
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stdout + ran.stderr

    return run


@pytest.fixture(scope="session")
def folder(build: Build) -> Path:
    """The folder of the shared library and the example program, where warnings are
    errors."""
    return build("-DCMAKE_C_FLAGS=-Werror", "-DLSTM_EDGE_EXAMPLES=ON")


@pytest.fixture(scope="session")
def built(folder: Path) -> Path:
    """The shared library."""
    return next(folder.glob("liblstm_edge.*"))


def open_for(isa: str, path: Path, folder: Path) -> C.CDLL:
    """Open a separate copy of the library, which chooses its instruction set itself."""
    copy = shutil.copy(path, folder / f"{isa}{path.suffix}")
    os.environ["LSTM_EDGE_ISA"] = isa
    try:
        library = open_library(copy)
        library.lstm_edge_isa()
    finally:
        del os.environ["LSTM_EDGE_ISA"]
    return library


@pytest.fixture(scope="session", params=ISAS)
def library(
    request: pytest.FixtureRequest,
    build: Build,
    built: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> C.CDLL:
    """The library with each instruction set; without AVX-VNNI, which few processors
    have, its one instruction is computed by others.
    """
    opened = open_for(request.param, built, tmp_path_factory.mktemp("isa"))
    if request.param == "avxvnni" and opened.lstm_edge_isa() is None:
        emulated = Path(__file__).with_name("avxvnni.h")
        folder = build(f"-DCMAKE_C_FLAGS=-Werror -include {emulated}")
        path = next(folder.glob("liblstm_edge.*"))
        opened = open_for(request.param, path, tmp_path_factory.mktemp("isa"))
    if opened.lstm_edge_isa() is None:
        pytest.skip(f"this machine has no {request.param}")
    assert opened.lstm_edge_isa().decode() == request.param
    return opened


@pytest.fixture(scope="session")
def best(built: Path) -> C.CDLL:
    """The library with the best instruction set of this machine."""
    return open_library(built)
