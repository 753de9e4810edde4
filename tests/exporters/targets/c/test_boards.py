"""C without onnxruntime: armv7 and RISC-V under qemu-user, Cortex-M bare metal under
qemu-system-arm."""

import re
import shutil
from pathlib import Path

import pytest

from lstm_edge_exporters.targets.c import to_c

from .conftest import slow, sources

pytestmark = pytest.mark.system

BOARDS = ("m0", "m3", "m4f", "m7", "m33", "m55")
EXAMPLE = Path(__file__).parents[4] / "examples" / "cortex_m"
PRINTED = re.compile(
    r"self-test passed, largest difference (?P<difference>\d+)e-9\n.*"
    r"ticks of 100 steps: (?P<steps>\d+)\nticks of 1000000 instructions:"
    r" (?P<million>\d+)\n"
    r"flash (?P<flash>\d+) bytes\nRAM (?P<ram>\d+) bytes, of that stack"
    r" (?P<stack>\d+)\n",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def on_board(find_program, folder_of, run, tmp_path_factory):
    """Return a function that builds and runs the example on a board and returns the
    numbers it prints."""
    for program in ("make", "arm-none-eabi-gcc", "qemu-system-arm"):
        find_program(program)

    def measure(board: str, folder: Path) -> dict[str, int]:
        out = tmp_path_factory.mktemp("board")
        words = (f"BOARD={board}", f"HAR={folder}", f"OUT={out}")
        output = run("make", "-s", "-C", EXAMPLE, "run", *words).decode()
        print(f"\n{board}: {output}")
        return {
            name: int(value)
            for name, value in PRINTED.fullmatch(output).groupdict().items()
        }

    return measure


@pytest.fixture(scope="module")
def har(network, find_program, tmp_path_factory):
    """A function that converts a network under the name har, which the example
    takes."""
    find_program("cc", "gcc", "clang")
    return lambda name: to_c(network(name), name="har").save(
        tmp_path_factory.mktemp("har") / name
    )


@pytest.fixture(scope="module")
def demo(har):
    return har("demo")


@pytest.mark.parametrize("board", BOARDS)
def test_the_demos_network_passes_its_golden_case_in_64_kB_of_flash_and_8_kB_of_ram(
    board, demo, on_board
):
    """The linker script sets this limit."""
    measured = on_board(board, demo)
    assert measured["flash"] <= 64 * 1024
    assert measured["ram"] <= 8 * 1024


def instructions(measured):
    """Instructions of one step."""
    return measured["steps"] * 10_000 / measured["million"]


def test_steps_take_no_more_instructions_flash_and_ram_than_documented(
    har, demo, on_board
):
    fp32 = on_board("m4f", demo)
    int8 = on_board("m4f", har("int8"))
    assert instructions(fp32) <= 31_500
    assert instructions(int8) <= 35_000
    assert int8["flash"] <= 14_600
    assert (fp32["ram"], int8["ram"]) <= (1_800, 2_100)
    assert instructions(on_board("m4f", har("small_gru"))) <= 9_300
    assert instructions(on_board("m55", har("int8"))) <= 20_500


@pytest.mark.parametrize("board", ["m4f", *slow("m0", "m55")])
def test_a_stream_with_a_unit_and_a_delay_passes_its_golden_case_on_a_board(
    har, on_board, in_int8, board, tmp_path
):
    """In float32 and int8; 100 calls of two samples each."""
    assert on_board(board, har("strided"))["ram"] <= 8 * 1024
    folder = to_c(in_int8("strided"), name="har").save(tmp_path / "har")
    assert "lc_int8_" in (folder / "src/har.c").read_text()
    assert on_board(board, folder)["flash"] < 32 * 1024


@pytest.mark.parametrize("board", ["m4f", *slow("m0", "m55")])
def test_zero_blocks_take_neither_instructions_nor_flash_on_a_board(
    har, on_board, in_int8, board, tmp_path
):
    dense = on_board(board, har("dense"))
    sparse = on_board(board, har("sparse"))
    assert instructions(sparse) < 0.7 * instructions(dense)
    assert sparse["flash"] < dense["flash"] - 8_000
    int8 = []
    share = {"m4f": 0.9, "m0": 0.95, "m55": 1.1}[board]  # Helium gains with more units
    for name in ("dense", "sparse_int8"):
        folder = to_c(in_int8(name), name="har").save(tmp_path / name)
        kernel = "blocks" if name == "sparse_int8" else "product"
        assert f"lc_int8_scaled_{kernel}" in (folder / "src/har.c").read_text()
        int8.append(on_board(board, folder))
    assert instructions(int8[1]) < share * instructions(int8[0])
    assert int8[1]["flash"] < int8[0]["flash"] - 2_000


BITS = """
#include "har.h"
#ifdef __linux__
#include <stdio.h>
#define SAY(number) printf("%u\\n", (unsigned)(number))
#else
#include "board.h"
#define SAY(number) board_print_number(number)
#endif
int main(void)
{
    static har_state state;
    static float x[HAR_INPUTS], y[HAR_OUTPUTS];
    uint32_t draw = 1, hash = 2166136261u;
    har_reset(&state);
    for (int step = 0; step < 50; ++step) {
        for (int i = 0; i < HAR_INPUTS; ++i) {
            draw = draw * 1664525u + 1013904223u;
            x[i] = (float)(draw >> 8) / 1e6f - 8.0f;
        }
        har_step(&state, x, y);
        for (unsigned i = 0; i < sizeof state; ++i) hash = (hash ^ ((unsigned char *)&state)[i]) * 16777619u;
        for (unsigned i = 0; i < sizeof y; ++i) hash = (hash ^ ((unsigned char *)y)[i]) * 16777619u;
    }
    SAY(hash);
    return 0;
}
"""


def test_int8_gives_the_same_bits_on_every_board_and_on_this_machine(
    har, find_program, run, tmp_path
):
    """Plain C, the DSP extension, Helium, and this machine's vectors."""
    for program in ("make", "arm-none-eabi-gcc", "qemu-system-arm"):
        find_program(program)
    folder = har("int8")
    example = tmp_path / "example"
    shutil.copytree(EXAMPLE, example)
    (example / "main.c").write_text(BITS)
    options = ["-std=c99", "-O3", "-march=native"]
    run(
        find_program("gcc"),
        *options,
        *sources(folder),
        example / "main.c",
        "-lm",
        "-o",
        tmp_path / "main",
    )
    expected = run(tmp_path / "main").strip()
    for board, option in (
        ("m0", "-O2"),
        ("m3", "-O2"),
        ("m4f", "-O2"),
        ("m4f", "-O0"),
        ("m55", "-O2"),
    ):
        out = tmp_path / f"{board}{option}"
        words = (f"BOARD={board}", f"HAR={folder}", f"OPT={option}", f"OUT={out}")
        assert run("make", "-s", "-C", example, "run", *words).strip() == expected, (
            words
        )
