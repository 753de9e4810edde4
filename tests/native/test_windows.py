"""The library built by MinGW, under Wine: the same bits as here."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.native import installed

ROOT = Path(__file__).parents[2]
COMPILER, WINE = "x86_64-w64-mingw32-gcc-posix", "wine"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed"),
]


@pytest.fixture(scope="module")
def stream(find_program: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that runs the C example on a program and lines of samples."""
    wine, build = find_program(WINE), tmp_path_factory.mktemp("windows")
    target = (
        "-DCMAKE_SYSTEM_NAME=Windows",
        "-DCMAKE_SYSTEM_PROCESSOR=AMD64",
        f"-DCMAKE_C_COMPILER={find_program(COMPILER)}",
        "-DCMAKE_C_FLAGS=-Werror",
        "-DLSTM_EDGE_EXAMPLES=ON",
    )
    subprocess.run(["cmake", "-S", ROOT / "native", "-B", build, *target], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "-j2"], check=True, capture_output=True)

    def run(program: Path, text: str, isa: str = "") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "WINEPREFIX": str(build / "wine"),
            "WINEDEBUG": "-all",
            "LSTM_EDGE_ISA": isa,
        }
        command = [wine, str(build / "stream.exe"), str(program)]
        return subprocess.run(
            command, input=text, text=True, capture_output=True, env=environment, timeout=300, check=False
        )

    return run


def test_windows_gives_the_same_bits(stream: Any, tmp_path: Path) -> None:
    program = tmp_path / "net.lep"
    program.write_bytes(to_native(ROOT / "tests/runtime/data/lstm.onnx"))
    model = load(program)
    width = model.inputs[0].axes[-1]
    x = np.random.default_rng(0).normal(size=(300, width)).astype(np.float32)
    source = model.stream()
    expected = np.stack([np.ravel(source.step(each)) for each in x])
    done = stream(program, "\n".join(" ".join(f"{value:.9g}" for value in row) for row in x))
    assert done.returncode == 0, done.stderr
    assert "golden case at" in done.stderr
    got = np.array([line.split() for line in done.stdout.splitlines()], np.float32)
    assert np.array_equal(got, expected)
