from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import ContractError, InputError, StateError
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec

DATA = Path(__file__).parent / "data"
pytestmark = pytest.mark.filterwarnings("ignore:Creating an ndarray from ragged")  # numpy below 1.24
CAPACITY = 5


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    """The same values for the same arguments, whichever tests ran before."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def full(model, count: int):
    batch = model.streams(count)
    return batch, [batch.add() for _ in range(count)]


class Sources(RuleBasedStateMachine):
    """Sources that come, go, tick in any company and order, each beside a stream of its own."""

    file = "lstm"
    every = "never"
    """After so many steps each source starts again by itself, and so does its own stream."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load(DATA / f"{self.file}.onnx")
        self.batch = self.model.streams(CAPACITY, reset_every=self.every)
        self.own = {}
        self.kept = []
        self.rng = np.random.default_rng(11)

    def sample(self, *shape: int):
        x = self.rng.normal(size=(*shape, 3)).astype(np.float32)
        return {"x": x, "gain": x[..., :1]} if self.file == "gru" else x

    def check(self, source: int, got) -> None:
        expected = self.expected[source]
        for name, value in (expected if isinstance(expected, dict) else {"": expected}).items():
            np.testing.assert_allclose(got[name] if name else got, value, atol=2e-6)
            assert (got[name] if name else got).shape == value.shape

    @precondition(lambda self: len(self.own) < CAPACITY)
    @rule()
    def join(self) -> None:
        source = self.batch.add()
        assert source not in self.own
        self.own[source] = self.model.stream(reset_every=self.every)

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def leave(self, data) -> None:
        source = data.draw(st.sampled_from(sorted(self.own)))
        self.batch.remove(source)
        del self.own[source]
        with pytest.raises(StateError):
            self.batch.state(source)

    @precondition(lambda self: self.own)
    @rule(data=st.data(), by_rows=st.booleans())
    def tick(self, data, by_rows) -> None:
        ids = data.draw(
            st.permutations(sorted(self.own)).flatmap(lambda p: st.integers(1, len(p)).map(lambda k: p[:k]))
        )
        given = {source: self.sample() for source in ids}
        self.expected = {source: self.own[source].step(value) for source, value in given.items()}
        if by_rows and self.file == "lstm":
            rows = self.batch.step(np.stack(list(given.values())), ids)
            results = dict(zip(ids, rows, strict=True))
        else:
            results = self.batch.step(given)
        assert list(results) == ids
        for source in ids:
            self.check(source, results[source])

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def chunks(self, data) -> None:
        ids = data.draw(st.permutations(sorted(self.own)))
        sizes = [data.draw(st.integers(1, 6)) for _ in ids] if self.file == "gru" else [3] * len(ids)
        given = {source: self.sample(size) for source, size in zip(ids, sizes, strict=True)}
        self.expected = {source: self.own[source].process(value) for source, value in given.items()}
        results = self.batch.process(given)
        for source in ids:
            self.check(source, results[source])

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def reset(self, data) -> None:
        source = data.draw(st.sampled_from(sorted(self.own)))
        self.batch.reset(source)
        self.own[source].reset()

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def hand_over(self, data) -> None:
        source = data.draw(st.sampled_from(sorted(self.own)))
        stream = self.model.stream(reset_every=self.every)
        stream.restore(self.batch.state(source))
        self.own[source] = stream
        self.batch.reset(source)
        self.batch.restore(source, stream.state)

    @invariant()
    def every_source_holds_its_own_state_and_no_other(self) -> None:
        assert sorted(self.batch.ids) == sorted(self.own)
        assert len(self.batch) == len(self.own)
        for source, stream in self.own.items():
            assert self.batch.state(source).age == stream.state.age
            for name, value in stream.state.items():
                np.testing.assert_allclose(self.batch.state(source)[name], value, atol=2e-6)


class SourcesWithLengths(Sources):
    file = "gru"


class SourcesThatStartAgain(Sources):
    every = 4


class SourcesWithLengthsThatStartAgain(Sources):
    file, every = "gru", 3


Sources.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)
SourcesWithLengths.TestCase.settings = settings(deadline=None, max_examples=30, stateful_step_count=20)
TestSources = Sources.TestCase
TestSourcesWithLengths = SourcesWithLengths.TestCase
for again in (SourcesThatStartAgain, SourcesWithLengthsThatStartAgain):
    again.TestCase.settings = settings(deadline=None, max_examples=20, stateful_step_count=20)
TestSourcesThatStartAgain = SourcesThatStartAgain.TestCase
TestSourcesWithLengthsThatStartAgain = SourcesWithLengthsThatStartAgain.TestCase


def test_a_source_gets_the_same_bits_whoever_shares_its_tick(model):
    rng = np.random.default_rng(8)
    x = samples(40, 3)
    alone = model.stream()
    expected = [alone.step(sample) for sample in x]
    for company in (1, 2, 3, 8, 33):
        batch, ids = full(model, company)
        watched = ids[company // 2]
        for tick, sample in enumerate(x):
            mates = rng.permutation(ids)[: rng.integers(1, company + 1)].tolist()
            given = {source: samples(3, seed=source) for source in mates}
            given[watched] = sample
            np.testing.assert_array_equal(batch.step(given)[watched], expected[tick])
        for name, value in alone.state.items():
            np.testing.assert_array_equal(batch.state(watched)[name], value)


def test_a_tick_of_all_in_order_equals_one_in_any_order(model):
    (first, ids), (second, _) = full(model, 6), full(model, 6)
    rng = np.random.default_rng(9)
    for tick in range(5):
        x = samples(6, 3, seed=tick)
        order = rng.permutation(6)
        ordered = first.step(x, ids)
        shuffled = second.step(x[order], np.array(ids)[order])
        np.testing.assert_array_equal(shuffled, ordered[order])


def test_another_axis_of_the_samples_may_change_from_tick_to_tick(path):
    model = load(path("wide"))
    (batch, ids), stream = full(model, 2), model.stream()
    for width in (2, 3, 1, 3):
        x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
        rows = batch.step(x, ids)
        np.testing.assert_array_equal(rows[1], stream.step(x[1]))
    np.testing.assert_array_equal(batch.state(ids[1])["h_0"], stream.state["h_0"])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.uint16, np.int64, np.uint64])
def test_ids_of_any_whole_number_type_are_taken(model, kind):
    batch, ids = full(model, 300)
    some, x = ids[60:63], samples(3, 3)
    expected = [model.stream().step(sample) for sample in x]
    np.testing.assert_array_equal(batch.step(x, np.array(some, kind)), expected)
    batch.remove(ids[61])
    with pytest.raises(StateError, match="source 61 is not in this batch"):
        batch.step(x, np.array(some, kind))


def test_an_id_is_never_given_twice(model):
    batch = model.streams(2)
    seen = set()
    for _ in range(50):
        source = batch.add()
        assert source not in seen
        seen.add(source)
        batch.remove(source)


def test_a_place_that_is_taken_again_starts_from_the_reset_state(model):
    batch = model.streams(1)
    old = batch.add()
    batch.step({old: samples(3)})
    batch.remove(old)
    new = batch.add()
    for name, value in model.stream().state.items():
        np.testing.assert_array_equal(batch.state(new)[name], value)
    with pytest.raises(StateError, match=f"source {old} is not in this batch"):
        batch.step({old: samples(3)})


def assert_unharmed(batch, ids, before) -> None:
    for source, state in zip(ids, before, strict=True):
        for name, value in state.items():
            np.testing.assert_array_equal(batch.state(source)[name], value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b, i: b.step({}), InputError, "without ids"),
        (lambda b, i: b.step(samples(2, 3)), InputError, "without ids"),
        (
            lambda b, i: b.step({i[0]: samples(4)}),
            InputError,
            r"x has shape \(1, 4\), expected \(N, 3\) with N=1",
        ),
        (lambda b, i: b.step({i[0]: samples(3), i[1]: samples(2)}), InputError, "not a regular array"),
        (lambda b, i: b.step({i[0]: "abc"}), InputError, "x has dtype"),
        (
            lambda b, i: b.step(samples(2, 3), i),
            InputError,
            r"x has shape \(2, 3\), expected \(N, 3\) with N=3",
        ),
        (lambda b, i: b.step(samples(3, 3), [i[0], i[1], i[0]]), StateError, "twice in one tick"),
        (lambda b, i: b.step(samples(6, 3), i + i), StateError, "twice in one tick"),
        (lambda b, i: b.step({99: samples(3)}), StateError, "source 99 is not in this batch"),
        (lambda b, i: b.step({-1: samples(3)}), StateError, "source -1 is not in this batch"),
        (lambda b, i: b.step(samples(1, 3), [1.5]), InputError, "expected whole numbers"),
        (lambda b, i: b.step(samples(0, 3), []), InputError, "K from 1"),
        (
            lambda b, i: b.step(samples(2, 3), [[0], [1, 2]]),
            InputError,
            "(not one row|expected) .*whole numb",
        ),
        (lambda b, i: b.process({i[0]: [[1, 2, 3], [1]]}), InputError, "x is not a regular array"),
        (lambda b, i: b.process({i[0]: samples(2, 3), i[1]: samples(3, 3)}), InputError, "takes no lengths"),
        (lambda b, i: b.process({i[0]: samples(0, 3)}), InputError, "empty chunk"),
        (lambda b, i: b.process(samples(3, 2, 3), i, lengths=[1, 2, 2]), InputError, "has no such input"),
        (lambda b, i: b.remove(99), StateError, "source 99"),
        (lambda b, i: b.reset(99), StateError, "source 99"),
        (lambda b, i: b.restore(i[0], State({}, "other")), StateError, "got a state of model"),
    ],
)
def test_a_wrong_call_is_refused_and_every_state_is_unharmed(model, call, error, message):
    batch = model.streams(4)
    ids = [batch.add() for _ in range(3)]
    batch.step(samples(3, 3), ids)
    before = [batch.state(source) for source in ids]
    with pytest.raises(error, match=message):
        call(batch, ids)
    assert_unharmed(batch, ids, before)


def test_checking_refuses_what_is_not_finite_and_every_state_is_unharmed(path):
    batch, ids = full(load(path("lstm"), check=True), 3)
    batch.step(samples(3, 3), ids)
    before = [batch.state(source) for source in ids]
    x = samples(3, 3)
    x[2, 1] = np.nan
    with pytest.raises(InputError, match=r"x is nan at \[2, 1\]"):
        batch.step(x, ids)
    assert_unharmed(batch, ids, before)


def test_lengths_by_row_equal_each_rows_own_stream(opened):
    gru = opened("gru")
    batch, ids = full(gru, 3)
    x, gain = samples(3, 5, 3), samples(3, 5, 1)
    rows = batch.process({"x": x, "gain": gain}, ids, lengths=[5, 2, 3])
    assert {name: array.shape for name, array in rows.items()} == {"logits": (3, 2, 8), "output": (3, 5, 8)}
    for row, length in enumerate((5, 2, 3)):
        own = gru.stream().process({"x": x[row, :length], "gain": gain[row, :length]})
        np.testing.assert_allclose(rows["logits"][row], own["logits"], atol=1e-6)
        np.testing.assert_allclose(rows["output"][row, :length], own["output"], atol=1e-6)


def test_a_full_batch_and_a_silly_capacity_are_refused(model):
    batch, _ = full(model, 2)
    with pytest.raises(StateError, match="all 2 slots are in use"):
        batch.add()
    for capacity in (0, -1, 2.0, True):
        with pytest.raises(InputError, match="expected a positive integer"):
            model.streams(capacity)


@pytest.mark.parametrize("name", ["unbatched", "step"])
def test_a_file_without_a_batch_axis_is_refused(opened, name):
    with pytest.raises(ContractError, match=r"no batch axis; open one stream\(\) per source"):
        opened(name).streams(2)


def stacked(*, interleaved: bool) -> bytes:
    """A file whose state has two rows a source: ``h = h/2 + (x, -x)``, and ``y`` is what x left."""
    onnx = pytest.importorskip("onnx")
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    constants = {"half": np.float32(0.5), "one": np.array([1]), "rows": np.array([-1, 3])}
    pairs = [
        node("Unsqueeze", ["x", "one"], ["x1"]),
        node("Unsqueeze", ["minus", "one"], ["minus1"]),
        node("Concat", ["x1", "minus1"], ["pairs"], axis=1),
        node("Reshape", ["pairs", "rows"], ["both"]),
    ]
    nodes = [
        node("Neg", ["x"], ["minus"]),
        *(pairs if interleaved else [node("Concat", ["x", "minus"], ["both"], axis=0)]),
        node("Mul", ["h", "half"], ["old"]),
        node("Add", ["old", "both"], ["hn"]),
        node("Split", ["hn"], ["y", "rest"], axis=0, num_outputs=2),
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("x", float32, ["N", 3]), info("h", float32, ["2*N", 3])],
        [info("y", float32, ["N", 3]), info("hn", float32, ["2*N", 3])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", 3)),),
        outputs=(TensorSpec("y", "float32", ("N", 3)),),
        states=(StateSpec("h", "hn", "float32", ("2*N", 3), 0.25),),
        sequence=None,
    )
    made.metadata_props.add(key=KEY, value=manifest.to_json())
    return made.SerializeToString()


def test_a_state_of_two_rows_a_source_is_carried_for_each_source():
    model = load(stacked(interleaved=False))
    batch = model.streams(4)
    ids = [batch.add() for _ in range(4)]
    alone = [model.stream() for _ in ids]
    for tick, some in enumerate((ids, ids[:1], [ids[3], ids[1]], ids, [ids[2]])):
        x = samples(len(some), 3, seed=tick)
        expected = [alone[ids.index(source)].step(row) for source, row in zip(some, x, strict=True)]
        np.testing.assert_array_equal(batch.step(x, some), expected)
    batch.reset(ids[0])
    batch.restore(ids[1], alone[2].state)
    alone[0].reset()
    for source, like in ((0, 0), (1, 2), (2, 2), (3, 3)):
        np.testing.assert_array_equal(batch.state(ids[source])["h"], alone[like].state["h"])


def test_a_state_whose_rows_can_not_be_told_apart_by_source_is_refused():
    with pytest.raises(ContractError, match=r"the rows of state h \(2\*N, 3\) are not in blocks of N"):
        load(stacked(interleaved=True)).streams(4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_int8_batch_refuses_what_would_reach_other_sources(bad):
    model = load(DATA / "motions-int8.onnx")
    batch = model.streams(3, reset_every="window")
    ids = [batch.add() for _ in range(3)]
    x = samples(3, 6)
    batch.step(x, ids)
    before = [batch.state(source) for source in ids]
    x[1, 2] = bad
    for call in (
        lambda: batch.step(x, ids),
        lambda: batch.step({ids[1]: x[1]}),
        lambda: batch.process(x[:, None], ids),
    ):
        with pytest.raises(InputError, match=r"x is (nan|-?inf) at .*int8 file .*other sources"):
            call()
    for source, state in zip(ids, before, strict=True):
        np.testing.assert_array_equal(batch.state(source)["h_0"], state["h_0"])
    assert model.stream(reset_every="window").step(x[1]).shape == (4,)


def test_chunks_by_id_have_their_own_lengths(opened):
    batch = opened("gru").streams(2)
    source = batch.add()
    before = batch.state(source)
    with pytest.raises(InputError, match="each chunk has its own"):
        batch.process({source: {"x": samples(4, 3), "gain": samples(4, 1)}}, lengths=[2])
    np.testing.assert_array_equal(batch.state(source)["h_0"], before["h_0"])
