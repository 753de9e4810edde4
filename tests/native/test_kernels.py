"""The C library's arithmetic, with every instruction set of this machine, against
float64."""

import ctypes as C
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import LibraryError, Program, Stream
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import USUAL, Network, copy, make_network, networks, pruned
from operations import operations, samples, wide_samples
from reference import quantize

from conftest import open_for
from lstm_edge_exporters.targets.native import program as program_module
from lstm_edge_exporters.targets.native.program import (
    Binary,
    Code,
    Function,
    ProgramWriter,
)

Array = Any
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
INT8_STEP = 2.0**-7
"""The share of an activation's range by which a network may differ: a sum may fall on
another int8 level."""


def same_bits(a: Array, b: Array) -> bool:
    """Return True if the numbers are equal; NaNs are equal."""
    return np.array_equal(a, b, equal_nan=True)


@pytest.mark.parametrize("width", [1, 7, 33])
def test_every_operation_follows_float64(library: C.CDLL, width: int) -> None:
    writer = ProgramWriter()
    cases = operations(writer, writer.input("x", width))
    for name, (buffer, _) in cases.items():
        writer.output(name, buffer, every_step=True)
    program = Program(library, writer.to_bytes())
    x = wide_samples(40, width)
    got = program.run(x[None], [])
    for (name, (_, function)), y in zip(cases.items(), got, strict=True):
        with np.errstate(over="ignore", under="ignore"):
            expected = np.asarray(function(x.astype("float64")), "float64")
        near = 1e-5 if name.startswith(("log", "bare", "norm")) else 1e-6
        np.testing.assert_allclose(
            y[0],
            np.broadcast_to(expected, y[0].shape),
            rtol=1e-6,
            atol=near,
            err_msg=name,
        )
    got = program.run(np.full((1, 1, width), np.nan, "float32"), [])
    for name, y in zip(cases, got, strict=True):
        assert (
            np.isnan(y).all()
            or name not in Function.__members__
            or name == "THRESHOLDED_RELU"
        ), name


@quick
@given(
    network=networks(),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
)
def test_a_network_gives_what_float64_gives_in_steps_chunks_and_the_whole(
    library: C.CDLL, network: Network, seed: int, cuts: list[int]
) -> None:
    x = samples(seed, sum(cuts), network.inputs)
    program = Program(library, network.program)
    int8 = network.layers[0].scales is not None
    whole = Stream(program)
    chunks = Stream(program)
    steps = Stream(program)
    start = [0.5 * samples(seed + i, network.hidden) for i in range(network.states)]
    for stream in (whole, chunks, steps):
        for state, given_state in zip(stream.states, start, strict=True):
            state[:] = given_state
    expected = whole.chunk(x)
    ends = np.cumsum(cuts)
    got = [chunks.chunk(part) for part in np.split(x, ends[:-1])]
    singles = [steps.step(sample) for sample in x]
    assert same_bits(np.concatenate(got) if network.every_step else got[-1], expected)
    assert same_bits(singles if network.every_step else singles[-1], expected)
    for a, b, c in zip(whole.states, chunks.states, steps.states, strict=True):
        assert same_bits(a, b)
        assert same_bits(a, c)
    few = 9 if not int8 else 4
    with np.errstate(over="ignore", invalid="ignore"):
        exact, states = network.run(x[:few], start)
    size = np.max([1.0, *(np.abs(end).max() for end in states)])
    assume(size < 100)  # some of the functions let a network grow without end
    if network.every_step and not (int8 and size > 1):
        assert (
            np.abs(expected[:few] - exact).max()
            <= (INT8_STEP * 2 if int8 else 2e-5) * size
        )


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kinds", [["LSTM", "GRU"], ["GRU", "RNN", "LSTM"]])
def test_weights_beyond_the_cache_give_the_same_bits_in_either_order(
    library: C.CDLL, kinds: list[str], int8: bool
) -> None:
    network = make_network(np.random.default_rng(5), kinds, 20, 330, int8=int8)
    assert len(network.program) > 2**20
    x = samples(6, 6, network.inputs)
    program = Program(library, network.program)
    steps = Stream(program)
    chunks = Stream(program)
    singles = [steps.step(sample) for sample in x]
    got = [chunks.chunk(x[:1]), chunks.chunk(x[1:4]), chunks.chunk(x[4:])]
    states = program.zeros(3)
    (y,) = program.run(np.stack([x, -x, x]), states)
    expected, _ = network.run(x, [np.zeros(network.hidden)] * network.states)
    for output in (np.concatenate(got), y[0], y[2]):
        assert same_bits(singles, output)
    for a, b, pool in zip(steps.states, chunks.states, states, strict=True):
        assert same_bits(a, b)
        assert same_bits(a, pool[2])
    assert np.abs(singles - expected).max() <= (INT8_STEP if int8 else 2e-5)


@quick
@given(
    network=networks(),
    seed=st.integers(0, 99),
    rows=st.integers(1, 130),
    steps=st.integers(1, 5),
    threads=st.sampled_from([1, 2, 3]),
)
def test_a_row_has_the_same_bits_alone_and_anywhere_among_others(
    library: C.CDLL, network: Network, seed: int, rows: int, steps: int, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, steps, network.inputs)).astype("float32")
    program = Program(library, network.program, threads)
    pool = [
        rng.standard_normal((rows + 3, network.hidden)).astype("float32")
        for _ in range(network.states)
    ]
    slots = rng.permutation(rows + 3)[:rows]
    start = [array.copy() for array in pool]
    (y,) = program.run(x, pool, slots)
    for row in {0, rows // 2, rows - 1}:
        states = [array[slots[row]][None].copy() for array in start]
        (alone,) = program.run(x[row][None], states)
        assert same_bits(alone[0], y[row])
        for state, after in zip(states, pool, strict=True):
            assert same_bits(state[0], after[slots[row]])
    untouched = np.setdiff1d(np.arange(rows + 3), slots)
    for before, after in zip(start, pool, strict=True):
        assert same_bits(before[untouched], after[untouched])


FORMS = {"float32": {}, "stored int8": {"stored": True}, "int8": {"int8": True}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_zero_blocks_are_not_stored_and_the_results_are_those_of_the_whole_matrix(
    library: C.CDLL, monkeypatch: pytest.MonkeyPatch, kind: str, form: str
) -> None:
    def make() -> Network:
        rng = np.random.default_rng(7)
        return make_network(rng, [kind, kind], 20, 80, density=0.2, **FORMS[form])

    sparse = make()
    with monkeypatch.context() as patch:
        patch.setattr(program_module, "find_blocks", lambda *_, **__: None)
        dense = make()
    assert len(sparse.program) < len(dense.program) - sum(
        layer.R.size // 2 for layer in sparse.layers
    )
    x = samples(2, 9, 12, sparse.inputs)
    programs = [Program(library, network.program) for network in (sparse, dense)]
    pools = [program.zeros(9) for program in programs]
    (y,), (expected,) = (
        program.run(x, pool) for program, pool in zip(programs, pools, strict=True)
    )
    limit = 0 if form == "int8" else 1e-5
    assert np.abs(y - expected).max() <= limit
    for state, other in zip(*pools, strict=True):
        assert np.abs(state - other).max() <= limit


@pytest.mark.parametrize("width", [8, 30, 64, 65, 96, 126, 128, 129, 132, 200])
def test_zero_blocks_of_int8_give_the_bits_of_the_whole_matrix_at_any_width(
    library: C.CDLL, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    rng = np.random.default_rng(width)
    weights = np.rint(rng.uniform(-127, 127, (88, width)))
    weights = pruned(rng, weights, 0.3, int8=True)
    weights[-8:, -(width % 4 or 4) :] = 127  # a block at the last input
    bias = rng.standard_normal(88).astype("float32")

    def make() -> bytes:
        writer = ProgramWriter()
        y = writer.linear(writer.input("x", width), weights, bias, np.full(88, 0.01))
        writer.output("y", y, every_step=True)
        return writer.to_bytes()

    data = make()
    with monkeypatch.context() as patch:
        patch.setattr(program_module, "find_blocks", lambda *_, **__: None)
        whole = make()
    assert len(data) < len(whole)
    sparse, dense = (Program(library, content) for content in (data, whole))
    x = 3 * samples(1, 7, 1, width)
    (expected,) = dense.run(x, [])
    (y,) = sparse.run(x, [])
    assert same_bits(y, expected)
    for row, result in zip(x, expected, strict=True):
        (alone,) = sparse.run(row[None], [])
        assert same_bits(alone[0], result)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 7])
def test_avx_vnni_gives_the_bits_of_avx2(
    built: Path, tmp_path: Path, rows: int, density: float
) -> None:
    libraries = [open_for(isa, built, tmp_path) for isa in ("avxvnni", "avx2")]
    if libraries[0].lstm_edge_isa() is None:
        pytest.skip("this machine has no avxvnni")
    rng = np.random.default_rng(11)
    kinds = ["LSTM", "GRU", "RNN"]
    network = make_network(rng, kinds, 20, 72, int8=True, density=density)
    writer = ProgramWriter()
    weights = np.rint(rng.uniform(-127, 127, (72, 50)))
    linear = writer.linear(writer.input("x", 50), weights, None, np.full(72, 0.01))
    writer.output("y", linear, every_step=True)
    for data in (network.program, writer.to_bytes()):
        programs = [Program(library, data) for library in libraries]
        x = 3 * samples(4, rows, 9, programs[0].inputs[0].width)
        pools = [program.zeros(rows) for program in programs]
        (y,), (expected,) = (
            program.run(x, pool) for program, pool in zip(programs, pools, strict=True)
        )
        assert same_bits(y, expected)
        assert all(same_bits(*pair) for pair in zip(*pools, strict=True))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_that_is_not_finite_leaves_the_others_alone(
    library: C.CDLL, bad: float, int8: bool
) -> None:
    network = make_network(np.random.default_rng(1), ["LSTM", "GRU"], 9, 21, int8=int8)
    x = samples(3, 13, 2, 9)
    program = Program(library, network.program)
    (expected,) = program.run(x, program.zeros(13))
    loud = x.copy()
    loud[5, 1, 4] = bad
    (y,) = program.run(loud, program.zeros(13))
    assert np.array_equal(np.delete(y, 5, 0), np.delete(expected, 5, 0))
    assert np.array_equal(y[5, 0], expected[5, 0])
    assert np.isnan(y[5, 1]).all() == np.isnan(bad) or int8


@pytest.mark.parametrize("kind", list(USUAL))
def test_saturated_gates_and_tiny_numbers_follow_float64(
    library: C.CDLL, kind: str
) -> None:
    network = make_network(np.random.default_rng(2), [kind], 5, 19)
    program = Program(library, network.program)
    for size in (1e-42, 1e-38, 1e-20, 1e-3, 50.0, 1e6, 1e30):
        x = (samples(4, 3, 5) * np.float32(size)).astype("float32")
        states = program.zeros(1)
        (y,) = program.run(x[None], states)
        with np.errstate(over="ignore"):
            expected, ends = network.run(x, [np.zeros(19)] * network.states)
        assert np.abs(y[0] - expected).max() <= 2e-6
        assert np.abs(states[0][0] - ends[0]).max() <= 2e-6


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("int8", [False, True])
def test_a_linear_layer_of_any_size_follows_float64(
    library: C.CDLL, repeat: int, int8: bool
) -> None:
    rng = np.random.default_rng(7)
    for k, m in (
        (1, 1),
        (7, 5),
        (33, 16),
        (64, 17),
        (65, 80),
        (130, 100),
        (3, 200),
        (20, 1),
        (150, 1),
    ):
        W = rng.standard_normal((m, k)).astype("float32")
        b = rng.standard_normal(m).astype("float32")
        scales = np.abs(W).max(1) / np.float32(127) if int8 else None
        weights = W if scales is None else np.rint(W / scales[:, None])
        writer = ProgramWriter()
        writer.output(
            "y",
            writer.linear(writer.input("x", repeat * k), weights, b, scales),
            every_step=True,
        )
        x = rng.standard_normal((9, 1, repeat * k)).astype("float32")
        (y,) = Program(library, writer.to_bytes()).run(x, [])
        parts = x.reshape(9, repeat, k)
        if scales is None:
            expected = parts.astype("float64") @ W.T.astype("float64") + b
        else:
            quantized = np.array([[quantize(part) for part in row] for row in parts])
            expected = quantized @ (weights * scales[:, None]).T + b
        assert np.abs(y.reshape(9, repeat, m) - expected).max() <= 1e-5 * np.sqrt(k)


@pytest.mark.parametrize("weight", [-128, -64, 64, 127])
def test_int8_sums_are_exact_at_their_largest(library: C.CDLL, weight: int) -> None:
    k = 65536
    writer = ProgramWriter()
    row = writer.linear(
        writer.input("x", k), np.full((2, k), weight), None, np.ones(2, "float32")
    )
    writer.output("y", row, every_step=True)
    (y,) = Program(library, writer.to_bytes()).run(
        np.full((1, 1, k), 255, "float32"), []
    )
    assert (y == np.float32(weight * 255.0 * k)).all()


NAN = np.nan
INF = np.inf
SPECIAL: dict[str, tuple[Callable[[ProgramWriter, int], int], list[list[float]], list[list[float]]]] = {
    "softmax of minus infinity is zero, and of NaN NaN": (
        lambda writer, x: writer.add(Code.SOFTMAX, x, 3, 0),
        [[1, -INF, 1], [1, 2, NAN]], [[0.5, 0, 0.5], [NAN] * 3],
    ),
    "a float becomes the whole number before its point": (
        lambda writer, x: writer.cast(writer.cast(x, "int64")),
        [[1.9, -1.9, 0.5, NAN, INF, -1e30, 3e9]], [[1, -1, 0, *[-(2.0**63)] * 3, 3e9]],
    ),
    "a float beyond int32 becomes its least number": (
        lambda writer, x: writer.cast(writer.cast(x, "int64", is_narrow=True)),
        [[1.9, -1.9, -(2.0**31), NAN, INF, 2.0**31, -1e30]], [[1, -1, *[-(2.0**31)] * 5]],
    ),
    "a whole number beyond int32 wraps": (
        lambda writer, x: writer.cast(writer.cast(writer.cast(x, "int64"), "int64", is_narrow=True)),
        [[1.9, 2.0**31, 3e9, -3e9, 2.0**40 + 2.0**20]], [[1, -(2.0**31), 3e9 - 2**32, 2**32 - 3e9, 2**20]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPECIAL)
def test_special_numbers(library: C.CDLL, case: str) -> None:
    add, x, expected = SPECIAL[case]
    writer = ProgramWriter()
    writer.output("y", add(writer, writer.input("x", len(x[0]))), every_step=True)
    (y,) = Program(library, writer.to_bytes()).run(np.array(x, "float32")[:, None], [])
    np.testing.assert_allclose(y[:, 0], expected, rtol=1e-6)


def test_counters_go_on_from_call_to_call_each_row_its_own(library: C.CDLL) -> None:
    writer = ProgramWriter()
    x = writer.input("x", 3)
    counter = writer.state("count", 1, np.array([2]), "int64")
    writer.next_state(counter, writer.binary(Binary.ADD, counter, np.array([1])))
    writer.output(
        "y", writer.binary(Binary.ADD, x, writer.cast(counter)), every_step=True
    )
    program = Program(library, writer.to_bytes())
    stream = Stream(program)
    x = np.zeros((8, 3), "float32")
    got = np.concatenate([stream.chunk(x[:5]), [stream.step(x[0])], stream.chunk(x)])
    assert np.array_equal(got, np.repeat(np.arange(2.0, 16)[:, None], 3, 1))
    library.lstm_edge_reset(stream.handle)
    assert np.array_equal(stream.step(x[0]), [2, 2, 2])
    pool = [np.arange(60, dtype=np.int64)[:, None] % 5]
    slots = np.arange(60)[::-1].copy()
    (y,) = program.run(np.zeros((60, 70, 3), "float32"), pool, slots)
    assert np.array_equal(y[:, :, 0], (slots % 5)[:, None] + np.arange(70))
    assert np.array_equal(pool[0][:, 0], np.arange(60) % 5 + 70)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8"])
def test_indices_of_every_type_are_looked_up_and_a_wrong_one_changes_no_state(
    library: C.CDLL, dtype: str
) -> None:
    table = samples(8, 50, 6)
    writer = ProgramWriter()
    source = writer.input("ids", 2, dtype)
    total = writer.state("total", 12)
    rows = writer.gather(source, table)
    writer.next_state(total, writer.binary(Binary.ADD, total, rows))
    writer.output("rows", rows, every_step=True)
    writer.output("numbers", writer.cast(source), every_step=True)
    program = Program(library, writer.to_bytes())
    states = program.zeros(1)
    ids = np.array([[[3, 49], [0, 1]]], dtype)
    got, numbers = program.run(ids, states)
    assert np.array_equal(got.reshape(1, 2, 2, 6), table[ids.astype("int64")])
    assert np.array_equal(numbers, ids.astype("float32"))
    before = states[0].copy()
    for bad in (50, -51) if dtype != "uint8" else (50,):
        with pytest.raises(LibraryError, match=f"ids: index {bad}, expected -50 to 49"):
            program.run(np.array([[[0, 0], [0, bad]]], dtype), states)
    assert np.array_equal(states[0], before)
    if dtype != "uint8":
        got, _ = program.run(np.array([[[-1, -50]]], dtype), states)
        assert np.array_equal(got.reshape(2, 6), table[[-1, -50]])


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_a_state_that_no_recurrent_operation_owns_is_carried_step_by_step(
    library: C.CDLL, steps: int
) -> None:
    writer = ProgramWriter()
    x = writer.input("x", 2)
    old = writer.state("window", 6, reset=np.arange(6.0))
    new = writer.buffer(6)
    copy(writer, old, new, 4, (2, 0))
    copy(writer, x, new, 2, (0, 4))
    writer.next_state(old, new)
    writer.output("y", new, every_step=True)
    x = samples(10, steps, 2)
    padded = np.concatenate([np.arange(6.0, dtype="float32").reshape(3, 2), x])
    stream = Stream(Program(library, writer.to_bytes()))
    expected = np.stack([padded[t + 1 : t + 4].ravel() for t in range(steps)])
    assert np.array_equal(stream.chunk(x), expected)
    library.lstm_edge_reset(stream.handle)
    assert np.array_equal(stream.states[0], np.arange(6.0))


@pytest.mark.parametrize("int8", [False, True])
def test_the_golden_case_is_replayed_and_a_wrong_one_is_seen(
    library: C.CDLL, int8: bool
) -> None:
    network = make_network(
        np.random.default_rng(13), ["LSTM", "GRU"], 4, 20, int8=int8, golden_steps=7
    )
    assert Program(library, network.program).selftest() <= 1
    network.writer.golden({"x": samples(1, 7, 4)}, {"y": (np.zeros((7, 5)), 0.05)})
    assert Program(library, network.writer.to_bytes()).selftest() > 1
