"""The C library's arithmetic, with every instruction set of this machine, against float64."""

import ctypes as C
from typing import Any

import numpy as np
import pytest
from engine import LibraryError, Program, Stream
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import IN_CELLS, Network, make_network, networks
from reference import FUNCTIONS, quantize

from lstm_edge_exporters.targets.native.program import Binary, Code, Function, ProgramWriter

Array = Any
quick = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
INT8_STEP = 2.0**-7
"""The share of an activation's range by which a network may differ: a sum may fall on another int8 level."""


def _samples(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def _fractions(x: Array, share: Array) -> Array:
    return np.abs(np.asarray(x, "float64") - share).max() if np.size(x) else 0.0


def same_bits(a: Array, b: Array) -> bool:
    """Return whether the numbers are equal, one NaN like another."""
    return np.array_equal(a, b, equal_nan=True)


@quick
@given(network=networks(int8=False), seed=st.integers(0, 99), steps=st.integers(1, 9))
def test_a_network_gives_what_float64_gives(library: C.CDLL, network: Network, seed: int, steps: int) -> None:
    x = _samples(seed, steps, network.inputs)
    program = Program(library, network.program)
    start = [0.5 * _samples(seed + i, network.hidden) for i in range(network.states)]
    states = [state[None].copy() for state in start]
    (y,) = program.run(x[None], states)
    with np.errstate(over="ignore", invalid="ignore"):
        expected, ends = network.run(x, start)
    size = np.max([1.0, *(np.abs(end).max() for end in ends)])
    assume(size < 100)  # some of the functions let a network grow without end
    assert _fractions(y[0], expected if network.every_step else expected[-1]) <= 2e-5 * size
    for state, end in zip(states, ends, strict=True):
        assert _fractions(state[0], end) <= 2e-5 * size


@quick
@given(network=networks(int8=True, plain=True), seed=st.integers(0, 99))
def test_an_int8_network_gives_what_quantized_activations_give(
    library: C.CDLL, network: Network, seed: int
) -> None:
    x = _samples(seed, 4, network.inputs)
    (y,) = Program(library, network.program).run(x[None], Program(library, network.program).zeros(1))
    expected, _ = network.run(x, [np.zeros(network.hidden)] * network.states)
    assert _fractions(y[0], expected if network.every_step else expected[-1]) <= INT8_STEP


@quick
@given(network=networks(), seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4))
def test_steps_chunks_and_the_whole_are_equal_in_every_bit(
    library: C.CDLL, network: Network, seed: int, cuts: list[int]
) -> None:
    x = _samples(seed, sum(cuts), network.inputs)
    program = Program(library, network.program)
    whole, chunks, steps = Stream(program), Stream(program), Stream(program)
    expected = whole.chunk(x)
    at, got = 0, []
    for cut in cuts:
        got.append(chunks.chunk(x[at : at + cut]))
        at += cut
    singles = [steps.step(sample) for sample in x]
    if network.every_step:
        assert same_bits(np.concatenate(got), expected)
        assert same_bits(singles, expected)
    else:
        assert same_bits(got[-1], expected)
        assert same_bits(singles[-1], expected)
    for a, b, c in zip(whole.states, chunks.states, steps.states, strict=True):
        assert same_bits(a, b)
        assert same_bits(a, c)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kinds", [["LSTM", "GRU"], ["GRU", "RNN", "LSTM"]])
def test_weights_beyond_the_cache_give_the_same_bits_in_either_order(
    library: C.CDLL, kinds: list[str], int8: bool
) -> None:
    network = make_network(np.random.default_rng(5), kinds, 20, 330, int8=int8)
    assert len(network.program) > 2**20
    x = _samples(6, 6, network.inputs)
    program = Program(library, network.program)
    steps, chunks = Stream(program), Stream(program)
    singles = [steps.step(sample) for sample in x]
    got = [chunks.chunk(x[:1]), chunks.chunk(x[1:4]), chunks.chunk(x[4:])]
    states = program.zeros(3)
    (y,) = program.run(np.stack([x, -x, x]), states)
    expected, _ = network.run(x, [np.zeros(network.hidden)] * network.states)
    assert same_bits(singles, np.concatenate(got))
    assert same_bits(singles, y[0])
    assert same_bits(singles, y[2])
    for a, b, pool in zip(steps.states, chunks.states, states, strict=True):
        assert same_bits(a, b)
        assert same_bits(a, pool[2])
    assert _fractions(singles, expected) <= (INT8_STEP if int8 else 2e-5)


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
    pool = [rng.standard_normal((rows + 3, network.hidden)).astype("float32") for _ in range(network.states)]
    slots = rng.permutation(rows + 3)[:rows]
    start = [array.copy() for array in pool]
    (y,) = program.run(x, pool, slots)
    for row in {0, rows // 2, rows - 1}:
        own = [array[slots[row]][None].copy() for array in start]
        (alone,) = program.run(x[row][None], own)
        assert same_bits(alone[0], y[row])
        for state, after in zip(own, pool, strict=True):
            assert same_bits(state[0], after[slots[row]])
    untouched = np.setdiff1d(np.arange(rows + 3), slots)
    for before, after in zip(start, pool, strict=True):
        assert same_bits(before[untouched], after[untouched])


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_row_that_is_not_finite_leaves_the_others_alone(library: C.CDLL, bad: float, int8: bool) -> None:
    network = make_network(np.random.default_rng(1), ["LSTM", "GRU"], 9, 21, int8=int8)
    x = _samples(3, 13, 2, 9)
    program = Program(library, network.program)
    (expected,) = program.run(x, program.zeros(13))
    loud = x.copy()
    loud[5, 1, 4] = bad
    (y,) = program.run(loud, program.zeros(13))
    assert np.array_equal(np.delete(y, 5, 0), np.delete(expected, 5, 0))
    assert np.array_equal(y[5, 0], expected[5, 0])
    assert np.isnan(y[5, 1]).all() == np.isnan(bad) or int8


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_saturated_gates_and_tiny_numbers_follow_float64(library: C.CDLL, kind: str) -> None:
    network = make_network(np.random.default_rng(2), [kind], 5, 19)
    program = Program(library, network.program)
    for size in (1e-42, 1e-38, 1e-20, 1e-3, 50.0, 1e6, 1e30):
        x = (_samples(4, 3, 5) * np.float32(size)).astype("float32")
        states = program.zeros(1)
        (y,) = program.run(x[None], states)
        with np.errstate(over="ignore"):
            expected, ends = network.run(x, [np.zeros(19)] * network.states)
        assert _fractions(y[0], expected) <= 2e-6
        assert _fractions(states[0][0], ends[0]) <= 2e-6


@pytest.mark.parametrize("kind", list(Function), ids=lambda kind: kind.name.lower())
def test_each_function_follows_float64(library: C.CDLL, kind: Function) -> None:
    parameters = {f: (a, b) for f, a, b in IN_CELLS} | {
        Function.SELU: (1.6733, 1.0507),
        Function.CLIP: (-1.5, 2.5),
    }
    alpha, beta = (float(np.float32(value)) for value in parameters.get(kind, (0.0, 0.0)))
    x = np.concatenate([np.linspace(-30, 30, 401), np.geomspace(1e-30, 80, 99), [0.0]]).astype("float32")
    if kind in (Function.LOG, Function.SQRT, Function.RECIPROCAL):
        x = np.abs(x) + np.float32(1e-30)
    writer = ProgramWriter()
    writer.output("y", writer.unary(writer.input("x", x.size), kind, alpha, beta), every_step=True)
    program = Program(library, writer.to_bytes())
    (y,) = program.run(x[None, None], [])
    with np.errstate(over="ignore"):
        expected = FUNCTIONS[kind](x.astype("float64"), alpha, beta)
    limit = 3e-7 * np.maximum(np.abs(expected), 1 if kind not in (Function.EXP, Function.RECIPROCAL) else 0)
    assert (np.abs(y[0, 0] - expected) <= limit).all()
    (y,) = program.run(np.full((1, 1, x.size), np.nan, "float32"), [])
    assert np.isnan(y).all() or kind in (Function.THRESHOLDED_RELU,)


@pytest.mark.parametrize(
    "kind", [each for each in Binary if each is not Binary.REMAINDER], ids=lambda kind: kind.name.lower()
)
@pytest.mark.parametrize("swap", [False, True])
def test_each_function_of_two_follows_float64(library: C.CDLL, kind: Binary, swap: bool) -> None:
    rng = np.random.default_rng(5)
    x, b = (rng.uniform(0.2, 3, 21).astype("float32") for _ in range(2))
    if kind is Binary.PRELU:
        x -= np.float32(1.5)
    writer = ProgramWriter()
    source = writer.input("x", 21)
    one = writer.buffer(1)
    writer.copy(source, one, length=1)
    for other in (b, b[:1], one, source):
        writer.output("y", writer.binary(kind, source, other, swap=swap), every_step=True)
    got = Program(library, writer.to_bytes()).run(x[None, None], [])
    functions = {
        Binary.ADD: np.add,
        Binary.SUBTRACT: np.subtract,
        Binary.MULTIPLY: np.multiply,
        Binary.DIVIDE: np.divide,
        Binary.MAXIMUM: np.maximum,
        Binary.MINIMUM: np.minimum,
        Binary.PRELU: lambda a, b: np.where(a < 0, a * b, a),
        Binary.POWER: np.power,
        Binary.LESS: np.less,
        Binary.LESS_EQUAL: np.less_equal,
        Binary.EQUAL: np.equal,
    }
    for y, other in zip(got, (b, b[:1], x[:1], x), strict=True):
        pair = (np.broadcast_to(other, 21).astype("float64"), x.astype("float64"))
        with np.errstate(invalid="ignore"):
            expected = functions[kind](*(pair if swap else pair[::-1]))
        assert np.allclose(y[0, 0], expected, rtol=1e-6, equal_nan=True)


def test_whole_numbers_follow_numpy(library: C.CDLL) -> None:
    rng = np.random.default_rng(22)
    x, b = (rng.integers(-9, 10, 40) for _ in range(2))
    functions = {
        Binary.ADD: np.add,
        Binary.SUBTRACT: np.subtract,
        Binary.MULTIPLY: np.multiply,
        Binary.DIVIDE: lambda a, b: np.where(b == 0, 0, np.trunc(a / np.where(b == 0, 1, b))),
        Binary.MAXIMUM: np.maximum,
        Binary.MINIMUM: np.minimum,
        Binary.LESS: np.less,
        Binary.LESS_EQUAL: np.less_equal,
        Binary.EQUAL: np.equal,
        Binary.REMAINDER: lambda a, b: np.where(b == 0, 0, a % np.where(b == 0, 1, b)),
    }
    writer, expected = ProgramWriter(), []
    source = writer.input("x", 40, "int64")
    for kind, function in functions.items():
        for other, value in ((b, b), (b[:1], b[:1]), (source, x)):
            for swap in (False, True):
                found = writer.binary(kind, source, other, swap=swap)
                writer.output("y", writer.cast(found), every_step=True)
                expected.append(function(value, x) if swap else function(x, value))
    got = Program(library, writer.to_bytes()).run(x[None, None], [])
    for y, want in zip(got, expected, strict=True):
        assert np.array_equal(y[0, 0], want)


def test_a_float_becomes_the_whole_number_before_its_point(library: C.CDLL) -> None:
    writer = ProgramWriter()
    writer.output("y", writer.cast(writer.cast(writer.input("x", 7), "int64")), every_step=True)
    x = np.array([1.9, -1.9, 0.5, np.nan, np.inf, -1e30, 3e9], "float32")
    (y,) = Program(library, writer.to_bytes()).run(x[None, None], [])
    assert y.ravel().tolist() == [1, -1, 0, 0, 2.0**63, -(2.0**63), 3e9]


@pytest.fixture(scope="module")
def counting() -> bytes:
    """A counter that is added to the input, in chunks of any number of steps at once."""
    writer = ProgramWriter()
    x, counter = writer.input("x", 3), writer.state("count", 1, np.array([2]), "int64")
    writer.next_state(counter, writer.binary(Binary.ADD, counter, np.array([1])))
    writer.output("y", writer.binary(Binary.ADD, x, writer.cast(counter)), every_step=True)
    return writer.to_bytes()


def test_a_counter_goes_on_from_call_to_call(library: C.CDLL, counting: bytes) -> None:
    stream, x = Stream(Program(library, counting)), np.zeros((8, 3), "float32")
    got = np.concatenate([stream.chunk(x[:5]), [stream.step(x[0])], stream.chunk(x)])
    assert np.array_equal(got, np.repeat(np.arange(2.0, 16)[:, None], 3, 1))
    library.lstm_edge_reset(stream.handle)
    assert np.array_equal(stream.step(x[0]), [2, 2, 2])


def test_counters_of_rows_are_their_own(library: C.CDLL, counting: bytes) -> None:
    pool = [np.arange(60, dtype=np.int64)[:, None] % 5]
    slots = np.arange(60)[::-1].copy()
    (y,) = Program(library, counting).run(np.zeros((60, 70, 3), "float32"), pool, slots)
    assert np.array_equal(y[:, :, 0], (slots % 5)[:, None] + np.arange(70))
    assert np.array_equal(pool[0][:, 0], np.arange(60) % 5 + 70)


@pytest.mark.parametrize("width", [1, 7, 33])
def test_where_takes_each_number_from_one_of_two_and_a_constant_stands_at_every_step(
    library: C.CDLL, width: int
) -> None:
    rng = np.random.default_rng(20)
    stored = rng.standard_normal(width).astype("float32")
    writer = ProgramWriter()
    x = writer.input("x", width)
    positive = writer.binary(Binary.LESS, x, np.zeros(1), swap=True)
    writer.output("y", writer.where(positive, x, writer.filled(stored)), every_step=True)
    samples = _samples(21, 5, 3, width)
    samples[0, 1, 0] = np.nan
    (y,) = Program(library, writer.to_bytes()).run(samples, [])
    assert np.array_equal(y, np.where(samples > 0, samples, stored))


@pytest.mark.parametrize("length", [1, 3, 16, 33])
def test_softmax_and_normalization_work_on_each_stretch_of_a_row(library: C.CDLL, length: int) -> None:
    rng = np.random.default_rng(6)
    x = (rng.standard_normal((2, 1, 3 * length)) * 20).astype("float32")
    scale, bias = (rng.standard_normal(length).astype("float32") for _ in range(2))
    writer = ProgramWriter()
    source = writer.input("x", 3 * length)
    writer.output("soft", writer.softmax(source, length), every_step=True)
    writer.output("log", writer.softmax(source, length, logarithm=True), every_step=True)
    writer.output("bare", writer.normalize(source, length, 1e-3, None, None), every_step=True)
    writer.output("norm", writer.normalize(source, length, 1e-3, scale, bias), every_step=True)
    soft, log, bare, norm = (y.reshape(2, 3, length) for y in Program(library, writer.to_bytes()).run(x, []))
    wide = x.astype("float64").reshape(2, 3, length)
    expected = wide - wide.max(-1, keepdims=True)
    expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
    assert np.abs(soft - np.exp(expected)).max() <= 1e-6
    assert np.abs(log - expected).max() <= 1e-5
    flat = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-3)
    assert np.abs(bare - flat).max() <= 2e-6
    assert np.abs(norm - (flat * scale + bias)).max() <= 1e-5


def test_softmax_of_minus_infinity_is_zero_and_of_nan_is_nan(library: C.CDLL) -> None:
    writer = ProgramWriter()
    writer.output("y", writer.softmax(writer.input("x", 5), 5), every_step=True)
    x = np.array([[[1, -np.inf, 2, 3, -np.inf]], [[1, 2, np.nan, 3, 4]]], "float32")
    (y,) = Program(library, writer.to_bytes()).run(x, [])
    assert (y[0, 0, [1, 4]] == 0).all()
    assert np.isnan(y[1]).all()


@pytest.mark.parametrize("repeat", [1, 3])
@pytest.mark.parametrize("int8", [False, True])
def test_a_linear_layer_of_any_size_follows_float64(library: C.CDLL, repeat: int, int8: bool) -> None:
    rng = np.random.default_rng(7)
    for k, m in ((1, 1), (7, 5), (33, 16), (64, 17), (65, 80), (130, 100), (3, 200), (20, 1), (150, 1)):
        W, b = rng.standard_normal((m, k)).astype("float32"), rng.standard_normal(m).astype("float32")
        scales = np.abs(W).max(1) / np.float32(127) if int8 else None
        weights = W if scales is None else np.rint(W / scales[:, None])
        writer = ProgramWriter()
        writer.output("y", writer.linear(writer.input("x", repeat * k), weights, b, scales), every_step=True)
        x = rng.standard_normal((9, 1, repeat * k)).astype("float32")
        (y,) = Program(library, writer.to_bytes()).run(x, [])
        parts = x.astype("float64").reshape(9, repeat, k)
        if scales is None:
            expected = parts @ W.T.astype("float64") + b
        else:
            quantized = np.array([[quantize(part) for part in row] for row in x.reshape(9, repeat, k)])
            expected = quantized @ (weights * scales[:, None]).T + b
        assert np.abs(y.reshape(9, repeat, m) - expected).max() <= 1e-5 * np.sqrt(k)


@pytest.mark.parametrize("weight", [-128, -64, 64, 127])
def test_int8_sums_are_exact_at_their_largest(library: C.CDLL, weight: int) -> None:
    k = 65536
    writer = ProgramWriter()
    weights = np.full((2, k), weight)
    writer.output(
        "y", writer.linear(writer.input("x", k), weights, None, np.ones(2, "float32")), every_step=True
    )
    program = Program(library, writer.to_bytes())
    (y,) = program.run(np.full((1, 1, k), 255, "float32"), [])
    assert (y == np.float32(weight * 255.0 * k)).all()


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8"])
def test_indices_of_every_type_are_looked_up_and_checked(library: C.CDLL, dtype: str) -> None:
    table = _samples(8, 50, 6)
    writer = ProgramWriter()
    source = writer.input("ids", 2, dtype)
    writer.output("rows", writer.gather(source, table), every_step=True)
    writer.output("numbers", writer.cast(source), every_step=True)
    program = Program(library, writer.to_bytes())
    ids = np.array([[[3, 49], [0, 1]]], dtype)
    rows, numbers = program.run(ids, [])
    assert np.array_equal(rows.reshape(1, 2, 2, 6), table[ids.astype("int64")])
    assert np.array_equal(numbers, ids.astype("float32"))
    if dtype != "uint8":
        rows, _ = program.run(np.array([[[-1, -50]]], dtype), [])
        assert np.array_equal(rows.reshape(2, 6), table[[-1, -50]])
    for bad in (50, -51) if dtype != "uint8" else (50,):
        with pytest.raises(LibraryError, match=f"ids: index {bad}, expected -50 to 49"):
            program.run(np.array([[[0, 0], [0, bad]]], dtype), [])


def test_an_index_outside_the_table_changes_no_state(library: C.CDLL) -> None:
    writer = ProgramWriter()
    ids = writer.input("ids", 1, "int64")
    state = writer.state("total", 4)
    new = writer.binary(Binary.ADD, state, writer.gather(ids, _samples(9, 5, 4)))
    writer.next_state(state, new)
    writer.output("y", new, every_step=True)
    program = Program(library, writer.to_bytes())
    states = program.zeros(1)
    program.run(np.array([[[1], [2]]], "int64"), states)
    before = states[0].copy()
    with pytest.raises(LibraryError, match="index 5"):
        program.run(np.array([[[1], [5]]], "int64"), states)
    assert np.array_equal(states[0], before)


@pytest.mark.parametrize("steps", [1, 2, 60])
def test_a_state_that_no_recurrent_operation_owns_is_carried_step_by_step(
    library: C.CDLL, steps: int
) -> None:
    """A window of the last three samples, as a causal convolution keeps it."""
    writer = ProgramWriter()
    x, old = writer.input("x", 2), writer.state("window", 6, reset=np.arange(6.0))
    new = writer.buffer(6)
    writer.copy(old, new, source_offset=2, length=4)
    writer.copy(x, new, out_offset=4, length=2)
    writer.next_state(old, new)
    writer.output("y", new, every_step=True)
    samples = _samples(10, steps, 2)
    padded = np.concatenate([np.arange(6.0, dtype="float32").reshape(3, 2), samples])
    stream = Stream(Program(library, writer.to_bytes()))
    stream.library.lstm_edge_reset(stream.handle)
    expected = np.stack([padded[t + 1 : t + 4].ravel() for t in range(steps)])
    assert np.array_equal(stream.chunk(samples), expected)
    stream.library.lstm_edge_reset(stream.handle)
    assert np.array_equal(stream.states[0], np.arange(6.0))


def test_a_projected_lstm_is_equal_in_steps_and_chunks(library: C.CDLL) -> None:
    """States that enter and leave through a product, as the exporter writes projections."""
    rng = np.random.default_rng(11)
    writer = ProgramWriter()
    x, h, c = writer.input("x", 3), writer.state("h", 4), writer.state("c", 9)
    inner = writer.linear(h, rng.standard_normal((9, 4)))
    weights = rng.standard_normal((36, 3)), rng.standard_normal((36, 9)) / 9
    functions = [(Function.SIGMOID, 0, 0), (Function.TANH, 0, 0), (Function.TANH, 0, 0)]
    new, cell = writer.recurrent(Code.LSTM, x, (inner, c), weights, functions=functions)
    out = writer.linear(new, rng.standard_normal((4, 9)))
    writer.next_state(h, out)
    writer.next_state(c, cell)
    writer.output("y", out, every_step=True)
    program = Program(library, writer.to_bytes())
    samples = _samples(12, 50, 3)
    whole, steps = Stream(program), Stream(program)
    assert np.array_equal(whole.chunk(samples), [steps.step(sample) for sample in samples])


def test_the_golden_case_is_replayed_and_a_wrong_one_is_seen(library: C.CDLL) -> None:
    for int8 in (False, True):
        network = make_network(np.random.default_rng(13), ["LSTM", "GRU"], 4, 20, int8=int8, golden_steps=7)
        assert Program(library, network.program).selftest() <= 1
    wrong = make_network(np.random.default_rng(14), ["LSTM"], 4, 20, golden_steps=7)
    data = bytearray(wrong.program)
    weight = data.find(wrong.layers[0].W.astype("float32").tobytes()[:64])
    data[weight : weight + 4] = np.float32(0.9).tobytes()
    import zlib

    data[12:16] = zlib.crc32(bytes(data[16:])).to_bytes(4, "little")
    assert Program(library, bytes(data)).selftest() > 1


@pytest.mark.parametrize("largest", [64, 128])
def test_int8_totals_have_the_same_bits_with_every_instruction_set(
    library: C.CDLL, best: C.CDLL, largest: int
) -> None:
    rng = np.random.default_rng(15)
    W = rng.integers(-largest, largest, (37, 301))
    writer = ProgramWriter()
    writer.output("y", writer.linear(writer.input("x", 301), W, None, np.full(37, 0.01)), every_step=True)
    x = _samples(16, 11, 1, 301)
    results = [Program(each, writer.to_bytes()).run(x, [])[0] for each in (library, best)]
    assert np.array_equal(*results)
