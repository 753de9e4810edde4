"""The C core against the engine: the same numbers, in int8 the same bits on any
processor."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import Program
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from in_c import c_of, run_in_c
from networks import USUAL, Network, Reads, copy, make_network, networks
from operations import operations, samples

from conftest import open_for
from lstm_edge_exporters.targets.c.table import Table
from lstm_edge_exporters.targets.native.operations import Code
from lstm_edge_exporters.targets.native.program import Binary, ProgramWriter

pytestmark = pytest.mark.system

Array = Any
GCC = (
    "gcc",
    "-std=c99",
    "-O1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
)
STATIC = "-static"
COMPILERS = {
    "gcc": (("gcc", "-std=c99", "-O3", "-march=native"), ()),
    "clang": (("clang", "-std=c99", "-O2"), ()),
    "armv7": (("arm-linux-gnueabihf-gcc", "-std=gnu99", "-O2", STATIC), ("qemu-arm",)),
    "DSP": (
        (
            "arm-linux-gnueabihf-gcc",
            "-std=c99",
            "-Os",
            STATIC,
            "-mthumb",
            "-mcpu=cortex-a15",
        ),
        ("qemu-arm",),
    ),
    "aarch64": (
        ("aarch64-linux-gnu-gcc", "-std=gnu99", "-O3", STATIC),
        ("qemu-aarch64",),
    ),
    "riscv64": (
        ("riscv64-linux-gnu-gcc", "-std=gnu99", "-O2", STATIC),
        ("qemu-riscv64",),
    ),
}
quick = settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def in_engine(library: Any, writer: ProgramWriter, x: Array) -> Array:
    """All outputs and states after each sample, from zeros."""
    program = Program(library, writer.to_bytes())
    states = program.zeros(1)
    rows = []
    for sample in x:
        outputs = program.run(sample[None, None], states)
        rows.append(np.concatenate([output.ravel() for output in (*outputs, *states)]))
    return np.stack(rows)


@quick
@given(network=networks(int8=False), seed=st.integers(0, 99))
def test_a_network_gives_in_c_what_it_gives_in_the_engine(
    best: Any, network: Network, seed: int, find_program: Any, tmp_path: Path
) -> None:
    find_program("gcc")
    x = samples(seed, 4, network.inputs)
    expected = in_engine(best, network.writer, x)
    assume(np.abs(expected).max() < 100)
    got = run_in_c(network.writer, x, tmp_path, GCC)
    assert np.abs(got - expected).max() <= 2e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("vectors", ["-march=native", "-msse2"])
@pytest.mark.parametrize(
    ("kind", "hidden"),
    [("LSTM", 3), ("LSTM", 16), ("LSTM", 45), ("GRU", 28), ("RNN", 40)],
)
def test_a_layer_of_any_width_follows_float64_where_processors_fuse(
    kind: str, hidden: int, vectors: str, find_program: Any, tmp_path: Path
) -> None:
    find_program("gcc")
    network = make_network(np.random.default_rng(9), [kind], 1, hidden)
    x = samples(10, 40, 1) * np.geomspace(1e-3, 1e6, 40, dtype="float32")[:, None]
    got = run_in_c(network.writer, x, tmp_path, (*GCC, "-march=native", vectors))
    states = [np.zeros(hidden)] * network.states
    for sample, row in zip(x, got, strict=True):
        outputs, states = network.run(sample[None], states)
        expected = np.concatenate([outputs[0], *states])
        assert np.abs(row - expected).max() <= 3e-6 * max(1, np.abs(expected).max())
    x[7] = np.nan
    broken = run_in_c(network.writer, x, tmp_path, (*GCC, "-march=native", vectors))
    assert np.array_equal(broken[:7], got[:7])
    assert np.isnan(broken[7:, -network.states * hidden :]).all()


def test_weights_and_tables_that_are_int8_times_a_scale_keep_their_values(
    best: Any, find_program: Any, tmp_path: Path
) -> None:
    find_program("gcc")
    rng = np.random.default_rng(8)
    scales = rng.uniform(1e-3, 1e-1, (40, 1)).astype("float32")
    stored = rng.integers(-126, 127, (40, 7)).astype("float32")
    stored[:, 2] = 127
    writer = ProgramWriter()
    ids = writer.input("x", 2, "int32")
    rows = writer.gather(ids, stored * scales)
    writer.output("rows", rows, every_step=True)
    writer.output("y", writer.linear(rows, stored * scales, None), every_step=True)
    code = c_of(writer)
    assert "lc_stored_product" in code
    assert len(writer.to_bytes()) < 1.3 * (2 * stored.size + 4 * 2 * len(stored)) + 1024
    x = rng.integers(-40, 40, (9, 2)).astype("int32")
    got = run_in_c(writer, x, tmp_path, GCC)
    expected = in_engine(best, writer, x)
    assert np.array_equal(got[:, :14], expected[:, :14])
    assert np.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def unfused(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The engine with kernels that do not fuse a multiplication and an addition."""
    if platform.machine() != "x86_64":
        pytest.skip("the engine fuses on this machine")
    return open_for("sse2", built, tmp_path_factory.mktemp("unfused"))


@pytest.mark.parametrize("compiler", COMPILERS)
def test_int8_has_the_same_bits_on_every_processor(
    unfused: Any, compiler: str, find_program: Any, tmp_path: Path
) -> None:
    command, emulator = COMPILERS[compiler]
    command = (find_program(command[0]), *command[1:])
    emulator = tuple(map(find_program, emulator))
    network = make_network(
        np.random.default_rng(3), ["LSTM", "GRU", "RNN"], 11, 22, int8=True
    )
    x = (
        samples(4, 30, network.inputs)
        * np.geomspace(1e-3, 1e3, 30, dtype="float32")[:, None]
    )
    got = run_in_c(network.writer, x, tmp_path, command, emulator)
    expected = in_engine(unfused, network.writer, x)
    head = len(network.head[1])  # in float32
    # the engine treats numbers below 2^-126 as zero
    got[np.abs(got) < np.finfo("float32").tiny] = 0
    assert np.array_equal(got[:, head:], expected[:, head:])
    assert np.allclose(got[:, :head], expected[:, :head], atol=1e-5)


def test_states_of_whole_numbers_come_first_where_they_are_aligned() -> None:
    writer = ProgramWriter()
    for state in (writer.state("h", 3), writer.state("count", 1, dtype="int64")):
        writer.next_state(state, state)
    assert Table(writer).offsets == [2, 0]


def test_every_operation_is_that_of_the_engine(
    best: Any, find_program: Any, tmp_path: Path
) -> None:
    find_program("gcc")
    writer = ProgramWriter()
    rng = np.random.default_rng(5)
    x = writer.input("x", 12)
    results = [buffer for buffer, _ in operations(writer, x).values()]
    results.append(writer.linear(x, rng.standard_normal((23, 4)).astype("float32")))
    results.append(
        writer.linear(
            x, rng.integers(-127, 127, (7, 3)), scales=np.full(7, 0.01, "float32")
        )
    )
    old = writer.state("h", 3)
    weights = [rng.standard_normal((3, size)).astype("float32") for size in (12, 3)]
    new = writer.recurrent(Code.RNN, x, [old], weights, functions=USUAL["RNN"])[0]
    writer.next_state(old, new)
    results += [
        writer.binary(Binary.SUBTRACT, new, old),
        old,
        x,
    ]  # the state is read behind its layer
    copied = writer.buffer(9)
    shifted = writer.buffer(24)
    window = writer.state("window", 24)
    copy(writer, x, copied, 3, (1, 0), 3, (4, 3))
    copy(writer, window, shifted, 12, (12, 0))
    copy(writer, x, shifted, 12, (0, 12))
    writer.next_state(window, shifted)
    for index, result in enumerate((*results, copied, shifted)):
        writer.output(f"y{index}", result, every_step=True)
    reads = Reads(rng, 5).writer
    for case, width in ((writer, 12), (reads, 3)):
        inputs = (
            samples(6, 20, width) * np.geomspace(1e-3, 50, 20, dtype="float32")[:, None]
        )
        inputs[3, 2] = np.nan
        inputs[4, 1] = np.inf
        inputs[5, 1] = 0
        got = run_in_c(case, inputs, tmp_path, GCC)
        expected = in_engine(best, case, inputs)
        with np.errstate(invalid="ignore"):
            size = np.nanmax(np.abs(inputs), 1, keepdims=True)
            close = np.abs(got - expected) <= 1e-6 * np.maximum(
                np.abs(expected), np.maximum(size, 1)
            )
        assert (close | (got == expected) | (np.isnan(got) & np.isnan(expected))).all()
