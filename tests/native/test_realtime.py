"""Steps in real time: nothing but arithmetic, in silence too, whatever mode the
processor was left in."""

import ctypes as C
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine import Program, Stream
from networks import USUAL, make_network
from test_safety import every_operation, late_operation, saved, sparse_operations

from lstm_edge_exporters.targets.native.operations import Code
from lstm_edge_exporters.targets.native.program import ProgramWriter


def bias_free(inputs: int, hidden: int) -> bytes:
    """Return an LSTM whose states fade towards zero while its input is zero."""
    rng = np.random.default_rng(3)
    writer = ProgramWriter()
    x = writer.input("x", inputs)
    old = [writer.state(name, hidden, np.zeros(hidden)) for name in ("h", "c")]
    weights = [rng.normal(0, 0.02, (4 * hidden, width)) for width in (inputs, hidden)]
    new = writer.recurrent(
        Code.LSTM, x, old, weights, np.zeros(4 * hidden), functions=USUAL["LSTM"]
    )
    for pair in zip(old, new, strict=True):
        writer.next_state(*pair)
    writer.output("y", new[0], every_step=True)
    return writer.to_bytes()


@pytest.fixture(scope="module")
def compiled(
    built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    def compile_with(source: str, compiler: str | None, *flags: str) -> Path:
        if compiler is None:
            pytest.skip(f"no compiler for {source}")
        folder = Path(__file__).parent
        program = tmp_path_factory.mktemp("compiled") / "program"
        include = folder.parents[1] / "native" / "include"
        options = [
            *flags,
            "-O1",
            "-Wall",
            "-Wextra",
            "-Wconversion",
            "-pedantic",
            "-Werror",
            f"-I{include}",
        ]
        libraries = [built, f"-Wl,-rpath,{built.parent}", "-lpthread", "-lm", "-ldl"]
        command = [compiler, *options, folder / source, *libraries, "-o", program]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return program

    return compile_with


def test_steps_and_prepared_chunks_only_compute_and_keep_their_bits_in_any_mode(
    compiled: Callable[..., Path], tmp_path: Path
) -> None:
    if sys.platform != "linux":
        pytest.skip("seccomp is Linux's")
    realtime = compiled(
        "realtime.c",
        os.environ.get("CC") or shutil.which("cc"),
        "-std=gnu11",
        "-D_GNU_SOURCE",
    )
    rng = np.random.default_rng(1)
    contents = [
        every_operation(),
        late_operation(),
        bias_free(4, 16),
        make_network(rng, ["LSTM", "GRU", "RNN"], 3, 6, plain=False).program,
        make_network(rng, ["GRU", "LSTM"], 3, 6, int8=True).program,
        make_network(rng, ["LSTM", "LSTM"], 9, 40).program,
        *sparse_operations(5),
    ]
    ran = subprocess.run(
        [realtime, "100000", *saved(tmp_path, contents)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{len(contents)} programs, 100000 steps")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_cpp_blocks_of_any_size_give_what_one_chunk_gives(
    compiled: Callable[..., Path], compiler: str, best: C.CDLL, tmp_path: Path
) -> None:
    blocks = compiled("blocks.cpp", shutil.which(compiler), "-std=c++17")
    network = make_network(np.random.default_rng(5), ["LSTM", "GRU"], 3, 20)
    path = tmp_path / "p.lep"
    path.write_bytes(network.program)
    x = np.random.default_rng(6).standard_normal((50, 3)).astype("float32")
    ran = subprocess.run(
        [blocks, path, "50"], input=x.tobytes(), capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    expected = Stream(Program(best, network.program)).chunk(x)
    np.testing.assert_array_equal(
        np.frombuffer(ran.stdout, "float32").reshape(expected.shape), expected
    )
    path.write_bytes(network.program[:-1])
    ran = subprocess.run(
        [blocks, path, "50"], input=x.tobytes(), capture_output=True, check=False
    )
    assert ran.returncode == 3
    assert b"truncated" in ran.stderr
