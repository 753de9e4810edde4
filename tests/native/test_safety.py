"""The C library with untrusted programs, under the sanitizers, in threads, in forks,
and for long."""

import ctypes as C
import gc
import multiprocessing
import os
import re
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import LibraryError, Program, Stream
from networks import GATES, STATES, USUAL, Reads, copy, joined, make_network, pruned

from conftest import ISAS, open_for
from lstm_edge_exporters.targets.native.program import (
    Binary,
    Code,
    Function,
    ProgramWriter,
)
from lstm_edge_runtime.native import Past, Rows, open_library

pytestmark = pytest.mark.system

Array = Any

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -O0"


def every_operation() -> bytes:
    """Return a program with every operation."""
    rng = np.random.default_rng(0)
    writer = ProgramWriter()
    x = writer.input("x", 6)
    ids = writer.input("ids", 2, "int32")
    parts = writer.buffer(6)
    copy(writer, x, parts, 2, count=3, strides=(2, 2))
    value = joined(
        writer,
        [parts, writer.gather(ids, rng.standard_normal((9, 4))), writer.cast(ids)],
    )
    vectors = [writer.optional(rng.standard_normal(8)) for _ in range(2)]
    value = writer.add(Code.NORMALIZE, value, 8, 1e-5, *vectors)
    value = writer.binary(Binary.MULTIPLY, value, rng.standard_normal(16))
    stored = rng.integers(-126, 127, (40, 7)).astype("float32")
    stored[:, 2] = 127
    looked_up = writer.linear(writer.gather(ids, stored), stored * np.float32(0.01))
    writer.output("stored", looked_up, every_step=True)
    for kind, flags in (("LSTM", 0), ("GRU", 1), ("GRU", 0), ("RNN", 0)):
        for int8 in (False, True):
            rows = GATES[kind] * 5
            old = [
                writer.state(f"{kind}{flags}{int8}{i}", 5, np.ones(5))
                for i in range(STATES[kind])
            ]
            weights = [rng.integers(-9, 9, (rows, n)) for n in (writer.width(value), 5)]
            options = {
                "scales": [np.full(rows, 0.01)] * 2 if int8 else None,
                "flags": flags,
            }
            bias = rng.standard_normal(rows * (2 if kind == "GRU" else 1))
            new = writer.recurrent(
                Code[kind], value, old, weights, bias, functions=USUAL[kind], **options
            )
            for pair in zip(old, new, strict=True):
                writer.next_state(*pair)
            value = new[0]
    past = writer.past("past", Past(1, 3, 5), np.ones((1, 3, 5)))
    read = writer.window(value, past, 0, 1, 4)
    read = writer.depthwise(
        read, 10, rng.standard_normal((2, 10)), rng.standard_normal(10)
    )
    writer.operation(Code.PUSH, value, past, 3, 1)
    value = writer.depthwise(read, 5, None)
    value = writer.linear(value, rng.standard_normal((7, 5)), rng.standard_normal(7))
    value = writer.unary(writer.add(Code.SOFTMAX, value, 7, 0), Function.ELU, 0.5)
    condition = writer.binary(Binary.LESS, value, np.zeros(1))
    other = writer.filled(rng.standard_normal(7))
    chosen = writer.buffer(7)
    writer.operation(Code.WHERE, condition, value, other, chosen)
    writer.output("y", chosen, every_step=True)
    writer.output("last", chosen, every_step=False)
    writer.golden(
        {"x": rng.standard_normal((3, 6)), "ids": np.zeros((3, 2))},
        {"y": (np.zeros((3, 7)), 9.0)},
    )
    writer.manifest('{"format": "lstm-edge"}')
    return writer.to_bytes()


def late_operation() -> bytes:
    """Return a program of units of three steps, whose states and outputs start at
    different ones."""
    rng = np.random.default_rng(2)
    writer = ProgramWriter(unit=3)
    x = writer.input("x", 6)
    past = writer.past("past", Past(1, 4, 2), np.ones((1, 4, 2)))
    read = writer.window(x, past, 1, 1, 6, 3)
    writer.operation(Code.PUSH, x, past, 4, 1)
    value = writer.linear(read, rng.standard_normal((8, 12)), rng.standard_normal(8))
    old = [writer.state(name, 5, np.ones(5)) for name in ("h", "c")]
    weights = [rng.standard_normal((20, width)) for width in (8, 5)]
    new = writer.recurrent(Code.LSTM, value, old, weights, functions=USUAL["LSTM"])
    new = writer.recurrent_again(
        len(writer.operations) - 1, writer.unary(value, Function.RELU), new
    )
    for pair in zip(old, new, strict=True):
        writer.next_state(*pair)
    writer.output("y", value, every_step=True, delay=3, frames=2)
    writer.output("last", new[0], every_step=False, delay=1)
    writer.output("same", x, every_step=True, frames=3)
    writer.golden({"x": rng.standard_normal((12, 2))}, {"y": (np.zeros((8, 4)), 99.0)})
    return writer.to_bytes()


def counting_operation() -> bytes:
    """Return a program of units of two steps with a counter."""
    rng = np.random.default_rng(3)
    writer = ProgramWriter(unit=2)
    x = writer.input("x", 6)
    count = writer.state("count", 1, np.array([1]), "int64")
    hours = writer.cast(writer.binary(Binary.DIVIDE, count, np.array([5])))
    value = writer.binary(
        Binary.ADD,
        writer.binary(Binary.ADD, x, hours),
        writer.unary(hours, Function.SIN),
    )
    writer.output("y", value, every_step=True, frames=2)
    writer.next_state(count, writer.binary(Binary.ADD, count, np.array([2])))
    writer.golden({"x": rng.standard_normal((4, 3))}, {"y": (np.zeros((4, 3)), 99.0)})
    return writer.to_bytes()


def sparse_operations(seed: int) -> list[bytes]:
    """Return programs whose weights are stored in blocks: of each kind of layer, of a
    linear layer, in float32 and int8."""
    rng = np.random.default_rng(seed)
    kinds = ["LSTM", "GRU", "RNN"]
    forms: list[dict[str, bool]] = [{"plain": False}, {"int8": True}, {"stored": True}]
    programs = []
    for form in forms:
        network = make_network(rng, kinds, 5, 16, golden_steps=2, density=0.2, **form)
        programs.append(network.program)
    writer = ProgramWriter()
    weights = pruned(rng, rng.standard_normal((48, 9)), 0.3, int8=False)
    row = writer.linear(writer.input("x", 18), weights, rng.standard_normal(48))
    writer.output("y", row, every_step=True)
    return [*programs, writer.to_bytes()]


def saved(folder: Path, programs: list[bytes]) -> list[Path]:
    """Write programs to files in ``folder``; return the paths."""
    paths = [folder / f"{index}.lep" for index in range(len(programs))]
    for path, content in zip(paths, programs, strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("programs")
    rng = np.random.default_rng(1)
    contents = [
        every_operation(),
        late_operation(),
        counting_operation(),
        make_network(
            rng, ["LSTM", "GRU", "RNN"], 3, 6, plain=False, golden_steps=2
        ).program,
        make_network(rng, ["GRU", "LSTM"], 3, 6, int8=True).program,
        Reads(rng, 4).writer.to_bytes(),
        *sparse_operations(4),
    ]
    return saved(folder, contents)


@pytest.fixture(scope="module")
def fuzzer(build: Callable[..., Path]) -> Path:
    flags = f"-DCMAKE_C_FLAGS={SANITIZERS}"
    return (
        build(
            "-DCMAKE_BUILD_TYPE=None", flags, "-DLSTM_EDGE_FUZZ=ON", targets=("fuzz",)
        )
        / "fuzz"
    )


def _fuzz(
    fuzzer: Path, seed: int, count: int, programs: list[Path], isa: str = ""
) -> None:
    environment = {
        **os.environ,
        "LSTM_EDGE_ISA": isa,
        "ASAN_OPTIONS": "allocator_may_return_null=1",
    }
    ran = subprocess.run(
        [fuzzer, str(seed), str(count), *programs],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    match = re.match(r"(\d+) of (\d+) loaded", ran.stdout)
    assert match is not None
    assert int(match[2]) / 50 < int(match[1]) < int(match[2])


def test_damaged_programs_are_refused_or_run_without_a_bad_access(
    fuzzer: Path, programs: list[Path]
) -> None:
    _fuzz(fuzzer, 1, 1500, programs)


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_many_damaged_programs_run_without_a_bad_access(
    fuzzer: Path, programs: list[Path], built: Path, tmp_path: Path, isa: str
) -> None:
    if open_for(isa, built, tmp_path).lstm_edge_isa() is None:
        pytest.skip(f"this machine has no {isa}")
    _fuzz(fuzzer, 2 + ISAS.index(isa), 8_000, programs, isa)


def test_every_truncation_and_every_flipped_byte_is_refused(best: C.CDLL) -> None:
    data = every_operation()
    for size in range(0, len(data), 37):
        with pytest.raises(LibraryError, match=r"no program|bytes, expected"):
            Program(best, data[:size])
    for at in range(0, len(data), 53):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        with pytest.raises(LibraryError):
            Program(best, bytes(damaged))
    assert Program(best, data).selftest() <= 1


@pytest.mark.parametrize(
    ("group", "field"), [(1, "row_stride"), (2, "row_stride"), (2, "step_stride")]
)
def test_rows_that_would_be_written_over_each_other_are_refused(
    best: C.CDLL, group: int, field: str
) -> None:
    """Strides of an int8 state pool, a quarter of the size in the program."""
    program = Program(
        best, make_network(np.random.default_rng(2), ["LSTM"], 4, 8).program
    )
    x = np.ones((3, 2, 4), np.float32)
    states = program.zeros(3)
    groups = [
        [x],
        states,
        [np.zeros((3, 2, port.width), np.float32) for port in program.outputs],
    ]
    views = [
        (Rows * len(g))(*(Rows(a.ctypes.data, *a.strides[:-1]) for a in g))
        for g in groups
    ]
    setattr(views[group][0], field, getattr(views[group][0], field) // 4)
    status = best.lstm_edge_run(program.handle, 3, 2, None, *views)
    assert (status, best.lstm_edge_last_error()) == (5, b"a stride smaller than a row")
    assert not any(array.any() for array in (*states, *groups[2]))


PATCHES = {
    "format version 2, this library reads 1": (8, 2),
    "a golden case of more steps than the file has bytes": (52, 2**32 - 1),
    "a unit of 0 steps": (60, 0),
    "x: an input of another unit": (60, 2),
    "a unit of 2147483648 steps": (60, 2**31),
    "y: frames that do not fit its row": (-28, 3),
    "y: its delay is too long": (-24, 2**31),
    "y: a golden case shorter than its delay": (-24, 8),
}
"""By the refusal: where a word of the header is, or minus where one of the first
output's, and its value."""


@pytest.mark.parametrize("message", PATCHES)
def test_a_header_or_pace_that_can_not_be_is_refused(
    best: C.CDLL, message: str
) -> None:
    data, (at, value) = bytearray(late_operation()), PATCHES[message]
    constants, buffers = struct.unpack_from("<2I", data, 24)
    struct.pack_into(
        "<I", data, at if at > 0 else 64 + 24 * constants + 8 * buffers + 32 - at, value
    )
    struct.pack_into("<I", data, 12, zlib.crc32(data[16:]))
    with pytest.raises(LibraryError, match=message):
        Program(best, bytes(data))


@pytest.mark.parametrize("kind", ["output", "state"])
def test_two_ports_of_one_name_are_refused(best: C.CDLL, kind: str) -> None:
    names = {"output": ["y", "last"], "state": ["h", "c"]}
    names[kind] = ["same", "same"]
    writer = ProgramWriter()
    x = writer.input("x", 2)
    for name in names["state"]:
        state = writer.state(name, 2)
        writer.next_state(state, writer.binary(Binary.ADD, x, state))
    for name in names["output"]:
        writer.output(name, writer.unary(x, Function.RELU), every_step=True)
    with pytest.raises(LibraryError, match=f"same: two {kind}s of this name"):
        Program(best, writer.to_bytes())


def with_list(change: Callable[[Array], object]) -> bytes:
    """Return a program of a layer with blocks, whose list of blocks is changed."""
    writer = ProgramWriter()
    weights = np.zeros((32, 40), "float32")
    weights[:16, [3, 7]] = [1, 0.7713]  # not int8 times a scale
    weights[16:, [0, 39]] = [0.2718, 2]
    writer.output("y", writer.linear(writer.input("x", 40), weights), every_step=True)
    (index,) = [
        number
        for number, constant in enumerate(writer.constants)
        if constant.dtype == np.int16
    ]
    assert writer.constants[index].tolist() == [[16, 1, 2, 3, 7, 2, 0, 39]]
    change(writer.constants[index][0])
    return writer.to_bytes()


LISTS: dict[str, Callable[[Array], object]] = {
    "a block at column 40 of 40": lambda row: row.put(7, 40),
    "a block at column 65535 of 40": lambda row: row.put(3, -1),
    "a block at column 3 of 40, expected ascending": lambda row: row.put(4, 3),
    "a list of blocks goes on after its last band": lambda row: row.put(5, 1),
    "a list of blocks ends within its bands": lambda row: row.put(5, 3),
    "blocks of another size than its weights take": lambda row: row.put(0, 8),
}
"""By the refusal, how a list of blocks is changed."""


@pytest.mark.parametrize("message", LISTS)
def test_a_list_of_blocks_that_can_not_be_is_refused(
    best: C.CDLL, message: str
) -> None:
    Program(best, with_list(lambda row: None))
    with pytest.raises(LibraryError, match=message):
        Program(best, with_list(LISTS[message]))


def patched_constant(data: bytes, index: int, field: int, value: int) -> bytes:
    """Return a program with another word at ``field`` of a constant's entry: 0 is half
    of its offset, 8 its rows, 20 its list of blocks."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, 64 + 24 * index + field, value)
    struct.pack_into("<I", changed, 12, zlib.crc32(changed[16:]))
    return bytes(changed)


def test_blocks_that_go_beyond_the_file_or_that_no_weights_have_are_refused(
    best: C.CDLL,
) -> None:
    data = with_list(lambda row: None)
    count = struct.unpack_from("<I", data, 24)[0]
    entries = [struct.unpack_from("<Q4I", data, 64 + 24 * i) for i in range(count)]
    (weights,) = [index for index, entry in enumerate(entries) if entry[4]]
    listed = entries[weights][4] - 1
    beyond = len(data) // 8 * 8 - 8
    for index, field, value, message in (
        (weights, 0, beyond, "blocks beyond the end of the file"),
        (weights, 20, count + 1, f"there is no constant {count}"),
        (weights, 20, weights + 1, "expected .* of type 3"),
        (weights, 8, 48, "ends within its bands"),
        (weights, 8, 40, "span two gates"),
        (listed, 20, 1, "is stored in blocks, as weights alone can be"),
    ):
        with pytest.raises(LibraryError, match=message):
            Program(best, patched_constant(data, index, field, value))


def test_streams_and_calls_of_one_program_on_eight_threads_are_equal_in_every_bit(
    best: C.CDLL,
) -> None:
    network = make_network(np.random.default_rng(2), ["LSTM", "GRU"], 6, 33)
    program = Program(best, network.program, threads=3)
    rng = np.random.default_rng(3)
    x, rows = (
        rng.standard_normal(shape).astype("float32")
        for shape in ((400, 6), (200, 3, 6))
    )
    expected = Stream(program).chunk(x)
    (together,) = Program(best, network.program).run(rows, program.zeros(200))
    equal: list[bool] = []

    def run() -> None:
        stream = Stream(program)
        equal.append(np.array_equal([stream.step(sample) for sample in x], expected))
        equal.extend(
            np.array_equal(program.run(rows, program.zeros(200))[0], together)
            for _ in range(10)
        )

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 88


def test_a_forked_process_goes_on_with_threads_of_its_own(best: C.CDLL) -> None:
    network = make_network(np.random.default_rng(6), ["LSTM"], 6, 33)
    program = Program(best, network.program, threads=3)
    x = np.random.default_rng(7).standard_normal((200, 3, 6)).astype("float32")
    (expected,) = program.run(x, program.zeros(200))
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        gc.disable()  # sessions of other tests wait for threads that are not here
        try:
            (y,) = program.run(x, program.zeros(200))
            writer.send(bool(np.array_equal(y, expected)))
        finally:
            os._exit(0)
    assert reader.poll(300)
    assert reader.recv() is True
    os.waitpid(child, 0)
    (y,) = program.run(x, program.zeros(200))
    assert np.array_equal(y, expected)


def test_a_stream_keeps_the_program_that_was_freed(best: C.CDLL) -> None:
    network = make_network(np.random.default_rng(9), ["LSTM"], 4, 16)
    handle = best.lstm_edge_load(network.program, len(network.program))
    stream = best.lstm_edge_stream_new(handle)
    best.lstm_edge_free(handle)
    assert best.lstm_edge_step(stream) == 0
    best.lstm_edge_stream_free(stream)


def test_an_age_that_would_overflow_is_refused_and_the_largest_one_runs(
    best: C.CDLL,
) -> None:
    """A wrapped age would lose its position in the unit, and a chunk would leave the
    caller's arrays."""
    stream = Stream(Program(best, late_operation()))
    for age in (2**62, 2**63, 2**64 - 1):
        assert best.lstm_edge_set_age(stream.handle, age) != 0
        assert best.lstm_edge_age(stream.handle) == 0
    assert best.lstm_edge_set_age(stream.handle, 2**62 - 1) == 0
    x = np.zeros((9, 2), "float32")
    written = np.full((3, 4 * 3 * 4), 7, "float32")
    inputs = (C.c_void_p * 1)(x.ctypes.data)
    outputs = (C.c_void_p * 3)(*(row.ctypes.data for row in written))
    assert best.lstm_edge_chunk(stream.handle, inputs, len(x), outputs) == 0
    assert best.lstm_edge_age(stream.handle) == 2**62 + 8


@pytest.mark.parametrize(
    "kind", ["Debug", pytest.param("Release", marks=pytest.mark.slow)]
)
def test_clang_builds_it_without_a_warning(
    build: Callable[..., Path], kind: str
) -> None:
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("needs clang")
    folder = build(
        f"-DCMAKE_C_COMPILER={clang}",
        "-DCMAKE_C_FLAGS=-Werror",
        f"-DCMAKE_BUILD_TYPE={kind}",
    )
    built = open_library(next(folder.glob("liblstm_edge.*")))
    network = make_network(
        np.random.default_rng(12), ["LSTM", "GRU"], 5, 37, golden_steps=5
    )
    assert Program(built, network.program).selftest() <= 1
    assert Program(built, every_operation()).selftest() <= 1


BOARDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "aarch64": (
        "aarch64-linux-gnu-gcc", "",
        {
            "neon": "qemu-aarch64 -cpu cortex-a53",
            "neon-dotprod": "qemu-aarch64 -cpu cortex-a76",
            "neon-i8mm": "qemu-aarch64 -cpu max",
        },
    ),
    "arm": (
        "arm-linux-gnueabihf-gcc", "-mfpu=neon-vfpv4 -mcpu=cortex-a7", {"generic": "qemu-arm -cpu cortex-a7"},
    ),
    "riscv64": ("riscv64-linux-gnu-gcc", "", {"generic": "qemu-riscv64 -cpu rv64"}),
    "AMD64": ("x86_64-w64-mingw32-gcc-posix", "", {"": "wine"}),
}  # fmt: skip
"""By processor: the compiler, its flags, and the command that runs each instruction
set; AMD64 is Windows."""


@pytest.mark.slow
@pytest.mark.parametrize("processor", BOARDS)
def test_a_program_runs_on_other_boards(
    processor: str,
    build: Callable[..., Path],
    best: C.CDLL,
    find_program: Callable[..., str],
    tmp_path: Path,
) -> None:
    """The example in C, cross-compiled, replays golden cases and gives the same results
    as this machine."""
    compiler, flags, commands = BOARDS[processor]
    compiler, target = find_program(compiler), compiler.removesuffix("-gcc")
    folder = build(
        f"-DCMAKE_SYSTEM_NAME={'Windows' if processor == 'AMD64' else 'Linux'}",
        f"-DCMAKE_SYSTEM_PROCESSOR={processor}",
        f"-DCMAKE_C_COMPILER={compiler}",
        f"-DCMAKE_C_FLAGS=-Werror {flags}",
        "-DLSTM_EDGE_EXAMPLES=ON",
    )
    rng = np.random.default_rng(10)
    x = rng.standard_normal((12, 3)).astype("float32")
    kinds = ["LSTM", "GRU", "RNN"]
    programs = [
        make_network(rng, kinds, 3, 37, int8=int8, golden_steps=5).program
        for int8 in (False, True)
    ]
    programs += [
        make_network(rng, kinds, 3, 48, int8=int8, golden_steps=5, density=0.2).program
        for int8 in (False, True)
    ]
    programs.append(Reads(rng, 4).writer.to_bytes())
    text = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in x)
    paths = saved(tmp_path, programs)
    tests = Path(__file__).parent
    modes = tmp_path / "modes"
    example = folder / "stream"
    if processor != "AMD64":
        options = [
            "-std=gnu11",
            "-D_GNU_SOURCE",
            f"-I{tests.parents[1] / 'native' / 'include'}",
            *flags.split(),
        ]
        source = [
            tests / "realtime.c",
            next(folder.glob("liblstm_edge.*")),
            "-lpthread",
            "-lm",
            "-o",
            modes,
        ]
        subprocess.run([compiler, *options, *source], check=True)
    environment = os.environ | {
        "WINEPREFIX": str(tmp_path / "wine"),
        "WINEDEBUG": "-all",
    }
    for isa, emulator in commands.items():
        command = [find_program(emulator.split()[0]), *emulator.split()[1:]]
        if processor != "AMD64":
            command += ["-L", f"/usr/{target}", "-E", f"LD_LIBRARY_PATH={folder}"]
            ran = subprocess.run(
                [*command, modes, "0", *paths],
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
        for int8, path in zip((False, True) * 2 + (False,), paths, strict=True):
            expected = Stream(Program(best, path.read_bytes())).chunk(x)
            full = [*command, next(folder.glob("stream.exe"), example), path]
            ran = subprocess.run(
                full,
                input=text,
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert (
                f"{isa or best.lstm_edge_isa().decode()}: golden case at" in ran.stderr
            )
            y = np.array([line.split() for line in ran.stdout.splitlines()], "float32")
            assert np.abs(y - expected).max() <= (
                0 if not isa else 2e-2 if int8 else 1e-5
            )


@pytest.mark.parametrize("density", [1.0, 0.2])
def test_int8_ticks_have_the_same_bits_on_every_aarch64_processor(
    density: float,
    build: Callable[..., Path],
    find_program: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Rows of a tick, alone and among others, with inputs that fill no product of eight
    and with weights of -128."""
    compiler = find_program("aarch64-linux-gnu-gcc")
    emulator = find_program("qemu-aarch64")
    folder = build(
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_C_COMPILER={compiler}",
        "-DCMAKE_C_FLAGS=-Werror ",
        "-DLSTM_EDGE_EXAMPLES=ON",
    )
    rng = np.random.default_rng(11)
    programs = [
        make_network(
            rng, ["LSTM", "GRU", "RNN"], inputs, 48, int8=True, density=density
        ).program
        for inputs in (3, 9)
    ]
    writer = ProgramWriter()
    lowest = np.full((37, 20), -128)
    x = writer.input("x", 20)
    y = writer.linear(x, lowest, scales=np.full(37, 0.01, "float32"))
    writer.output("y", y, every_step=True)
    paths = saved(tmp_path, [*programs, writer.to_bytes()])
    tests = Path(__file__).parent
    ticks = tmp_path / "ticks"
    include = tests.parents[1] / "native" / "include"
    library = next(folder.glob("liblstm_edge.*"))
    source = tests / "ticks.c"
    subprocess.run(
        [compiler, f"-I{include}", source, library, "-lm", "-o", ticks], check=True
    )
    outputs = set()
    for isa in ("neon", "neon-dotprod", "neon-i8mm"):
        ran = subprocess.run(
            [
                *(emulator, "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"),
                *("-E", f"LD_LIBRARY_PATH={folder},LSTM_EDGE_ISA={isa}"),
                *(ticks, *paths),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        values, _, used = ran.stdout.strip().rpartition("\n")
        assert used == isa
        outputs.add(values)
    assert len(outputs) == 1
