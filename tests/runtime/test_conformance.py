"""A stream equals the full sequence, however it is cut, restored and mixed with other
sources.

The oracle runs all samples since the last reset in one call, and knows nothing of
streams.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import (
    ContractError,
    InputError,
    LstmEdgeError,
    StateError,
)
from lstm_edge_runtime.native import installed

DATA = Path(__file__).parent / "data"
NETWORKS = ("lstm", "gru", "late", "strided", "unbatched", "step", "motions-int8")
"""Two layers and a task; two inputs with time first, lengths, two outputs; a delay; a
unit of four steps and two outputs; no batch axis; one step per call; int8."""
ENGINES = ("onnx", "lep") if installed() else ("onnx",)
TABLE = [(name, engine) for name in NETWORKS for engine in ENGINES]
INT8 = {"rtol": 0.0, "atol": 0.15}
"""Tolerance of int8 results, which in onnxruntime depend on the other steps and rows of
a call."""
MODELS = {}


def opened(name, engine="onnx"):
    if (name, engine) not in MODELS:
        suffix = "onnx" if engine == "onnx" else "lep"
        MODELS[name, engine] = load((DATA / f"{name}.{suffix}").read_bytes())
    return MODELS[name, engine]


def draw_samples(model, seed, steps):
    """Return samples by input, time first, without batch axis: ``(steps, ...)``."""
    manifest = model.manifest
    rng = np.random.default_rng(seed)
    names = (manifest.batch, manifest.sequence)
    shapes = {
        s.name: [axis for axis in s.axes if axis not in names]
        for s in manifest.data_inputs
    }
    return {
        name: rng.normal(size=(steps, *shape)).astype("float32")
        for name, shape in shapes.items()
    }


def as_given(arrays):
    """Return the argument of a stream: the only array, or all by name."""
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def in_file(manifest, spec, array):
    """Return ``(steps, ...)`` of one row in the layout of the file."""
    if manifest.sequence is None:
        return array[-1][None] if manifest.batch in spec.axes else array[-1]
    rest = [
        axis for axis in spec.axes if axis not in (manifest.batch, manifest.sequence)
    ]
    assert [axis for axis in spec.axes if axis != manifest.batch] in (
        [manifest.sequence, *rest],
        [*rest, manifest.sequence],
    )
    return (
        np.expand_dims(array, spec.axes.index(manifest.batch))
        if manifest.batch in spec.axes
        else array
    )


class Oracle:
    """The results of one source, computed from its full past."""

    def __init__(self, model, reset_every=None):
        self.model = model
        self.reset_every = reset_every
        self.past = []
        self.state = None

    def step(self, sample):
        """Return the frames by output, ``(frames, ...)``, that the sample completes;
        None for no result."""
        manifest = self.model.manifest
        if self.reset_every and len(self.past) == self.reset_every:
            self.past = []
            self.state = None
        self.past.append(sample)
        if len(self.past) % manifest.unit:
            return {spec.name: None for spec in manifest.outputs}
        whole = {name: np.stack([past[name] for past in self.past]) for name in sample}
        feeds = {
            s.name: in_file(manifest, s, whole[s.name]) for s in manifest.data_inputs
        }
        outputs, state = self.model.run(
            feeds, self.state if manifest.sequence is None else None
        )
        self.state = state
        units = len(self.past) // manifest.unit
        return {
            s.name: self._newest(s, outputs[s.name], units) for s in manifest.outputs
        }

    def _newest(self, spec, array, units):
        manifest = self.model.manifest
        delay = manifest.delays.get(spec.name, 0)
        time = manifest.time_axis(spec.axes)
        if time is None:
            rows = array.reshape(
                array.shape[0] if manifest.batch is None else -1, *array.shape[1:]
            )
            rows = rows[0] if manifest.batch in spec.axes else rows
            return rows[None] if units > delay else None
        frames = np.moveaxis(array, time, 0)
        if manifest.batch in spec.axes:
            frames = frames.take(
                0,
                [axis for axis in spec.axes if axis != spec.axes[time]].index("N") + 1,
            )
        fresh = manifest.frames_per_unit[spec.name]
        return frames[max(delay, (units - 1) * fresh) : units * fresh]


def check(model, steps, got, *, step):
    """Compare a result with the oracle's of some steps."""
    for spec in model.outputs:
        several = len(model.outputs) > 1
        actual = (got or {}).get(spec.name) if several else got
        frames = [step[spec.name] for step in steps if step[spec.name] is not None]
        if model.manifest.time_axis(spec.axes) is None:
            want = frames[-1][0] if frames else None
        else:
            want = np.concatenate(frames) if frames else np.zeros((0,))
            if step:
                want = want[0] if len(want) == 1 else want if len(want) else None
        if want is None or not np.size(want):
            assert actual is None or not np.size(actual)
            continue
        np.testing.assert_allclose(actual, want, **limits(model))


def limits(model):
    int8 = model.couples_rows
    return INT8 if int8 else {"rtol": 1e-5, "atol": 3e-6}


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 5)),
        st.tuples(st.just("process"), st.integers(1, 9)),
        st.tuples(st.sampled_from(["keep", "restore", "reset", "refuse"]), st.just(0)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize(("name", "engine"), TABLE)
@settings(deadline=None, max_examples=25)
@given(
    actions=ACTIONS,
    reset_every=st.sampled_from([None, None, 3, 8]),
    seed=st.integers(0, 99),
)
def test_one_source(name, engine, actions, reset_every, seed):
    model = opened(name, engine)
    manifest = model.manifest
    stream = model.stream(reset_every=reset_every)
    oracle = Oracle(model, reset_every)
    kept = (stream.state, [], None)
    at = 0
    x = draw_samples(model, seed, 80)
    for action, count in actions:
        if action in ("step", "process"):
            parts = [{k: v[at + i] for k, v in x.items()} for i in range(count)]
            at += count
            if action == "step" or manifest.sequence is None:
                for part in parts:
                    check(
                        model,
                        [oracle.step(part)],
                        stream.step(as_given(part)),
                        step=True,
                    )
            else:
                chunk = {k: np.stack([part[k] for part in parts]) for k in x}
                check(
                    model,
                    [oracle.step(p) for p in parts],
                    stream.process(as_given(chunk)),
                    step=False,
                )
        elif action == "keep":
            kept = stream.state, list(oracle.past), oracle.state
            assert kept[0].age == len(oracle.past)
        elif action == "restore":
            before = kept[0]
            stream.restore(
                State(dict(before), model.identity, before.age, before.samples)
            )
            oracle.past = list(kept[1])
            oracle.state = kept[2]
        elif action == "reset":
            stream.reset()
            oracle.past = []
            oracle.state = None
        else:
            with pytest.raises(InputError):
                stream.step(
                    as_given({k: np.zeros((9, 9), v.dtype) for k, v in x.items()})
                )


@pytest.mark.parametrize(
    ("name", "engine"), [row for row in TABLE if row[0] not in ("unbatched", "step")]
)
@settings(deadline=None, max_examples=15)
@given(
    data=st.data(),
    reset_every=st.sampled_from([None, None, 5]),
    seed=st.integers(0, 99),
)
def test_many_sources(name, engine, data, reset_every, seed):
    model = opened(name, engine)
    batch = model.streams(5, reset_every=reset_every)
    alone = {}
    x = draw_samples(model, seed, 400)
    at = 0
    for _ in range(data.draw(st.integers(1, 8))):
        while len(alone) < 2 or (len(batch) < 5 and data.draw(st.booleans())):
            alone[batch.add()] = model.stream(reset_every=reset_every)
        if len(alone) > 2 and data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(alone)))
            batch.remove(gone)
            del alone[gone]
        if data.draw(st.booleans()):
            target, source = (
                data.draw(st.sampled_from(sorted(alone))) for _ in range(2)
            )
            batch.restore(target, alone[source].state)
            alone[target].restore(batch.state(source))
        if data.draw(st.booleans()):
            again = data.draw(st.sampled_from(sorted(alone)))
            batch.reset(again)
            alone[again].reset()
        assert sorted(batch.ids) == sorted(alone)
        ids = data.draw(
            st.lists(st.sampled_from(sorted(alone)), min_size=1, unique=True)
        )
        steps = (
            1
            if model.manifest.sequence is None
            else data.draw(st.sampled_from([1, 1, 2, 6]))
        )
        parts = [
            {k: v[at + i * steps : at + (i + 1) * steps] for k, v in x.items()}
            for i in range(len(ids))
        ]
        at += steps * len(ids)
        if steps == 1:
            got = batch.step(
                as_given({k: np.stack([part[k][0] for part in parts]) for k in x}), ids
            )
            want = [
                alone[i].step(as_given({k: v[0] for k, v in part.items()}))
                for i, part in zip(ids, parts, strict=True)
            ]
        else:
            got = batch.process(
                as_given({k: np.stack([part[k] for part in parts]) for k in x}), ids
            )
            want = [
                alone[i].process(as_given(part))
                for i, part in zip(ids, parts, strict=True)
            ]
        for index, result in enumerate(want):
            for output in model.outputs:
                several = len(model.outputs) > 1
                row = (got[output.name] if several else got)[index]
                frames = (result or {}).get(output.name) if several else result
                if frames is None or not np.size(frames):
                    assert np.isnan(row).all()
                elif np.shape(frames) == row.shape:
                    np.testing.assert_allclose(row, frames, **limits(model))
                else:
                    assert np.isnan(row[: len(row) - len(frames)]).all()
                    np.testing.assert_allclose(
                        row[len(row) - len(frames) :], frames, rtol=1e-5, atol=3e-6
                    )


@pytest.mark.skipif("lep" not in ENGINES, reason="lstm-edge-native is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_moves_between_both_files(name):
    x = draw_samples(opened(name), 3, 12)
    streams = [opened(name, engine).stream() for engine in ("onnx", "lep")]
    for at in range(12):
        sample = as_given({k: v[at] for k, v in x.items()})
        plain, native = (stream.step(sample) for stream in streams)
        assert (plain is None) == (native is None)
        for key in plain if isinstance(plain, dict) else ():
            np.testing.assert_allclose(native[key], plain[key], rtol=1e-4, atol=3e-5)
        states = [stream.state for stream in streams]
        streams[0].restore(states[1])
        streams[1].restore(states[0])


X = np.zeros(3, np.float32)
MASKED = np.ma.array([1, 99, 3], np.float32, mask=[0, 1, 0])


def restore_strided(age, **samples):
    """Restore a state of the network with a unit of four steps."""
    model = opened("strided")
    state = State(dict(model.stream().state), model.identity, age, samples)
    model.stream().restore(state)


def run_strided():
    model = opened("strided")
    stream = model.stream()
    stream.step(X)
    model.run(np.zeros((1, 4, 3)), stream.state)


REFUSED = [
    (lambda m: m.stream().step(np.zeros(4, np.float32)), InputError, r"x has shape \(4,\), expected \(3,\)"),
    (lambda m: m.stream().step([[1, 2], [3]]), InputError, "x is not a regular array"),
    (lambda m: m.stream().step("text"), InputError, "x has dtype <U4, expected float32"),
    (lambda m: m.stream().step({"y": X}), InputError, r"got inputs \['y'\], expected \['x'\]"),
    (lambda m: m.stream().process(np.zeros((0, 3))), InputError, "no empty axis"),
    (lambda m: m.stream().process(X), InputError, r"expected \(L, 3\)"),
    (lambda m: m.stream(reset_every=0), InputError, "reset_every is 0, expected a positive integer"),
    (lambda m: m.stream(reset_every="window"), InputError, "expected a positive integer or 'never'"),
    (lambda m: m.stream().restore("state"), StateError, "got a str, expected the State"),
    (lambda m: m.stream().restore(State({}, "x" * 64)), StateError, "got a state of model xxxx"),
    (lambda m: m.stream().restore(State({}, m.identity)), StateError, "without float32 h_0"),
    (lambda m: restore_strided(2), StateError, r"samples of \[\], expected \['x'\]"),
    (lambda m: restore_strided(2, x=X[None]), StateError, r"samples \(1, 3\) of x, expected .* \(2, 3\)"),
    (lambda m: restore_strided(4, x=X[None]), StateError, r"samples of \['x'\], expected \[\]"),
    (lambda m: run_strided(), StateError, "the state has samples of an incomplete unit"),
    (lambda m: m.stream().restore(m.run(np.zeros((2, 1, 3)))[1]), StateError, "nothing is reset"),
    (lambda m: opened("gru").selftest(), InputError, "has no golden case; export it again"),
    (lambda m: m.stream().step(MASKED), InputError, r"x is a masked array.*\.filled"),
    (lambda m: m.stream().step(MASKED.astype(np.float64)), InputError, "masked array"),
    (lambda m: m.stream().process(MASKED[None]), InputError, "masked array"),
    (lambda m: m.stream(window=1).step(MASKED), InputError, "masked array"),
    (lambda m: m.run(MASKED[None, None]), InputError, "masked array"),
    (lambda m: [b := m.streams(1), b.step(MASKED[None], [b.add()])], InputError, "masked array"),
    (lambda m: [b := m.streams(1), b.step([MASKED], [b.add()])], InputError, "masked array"),
    (lambda m: opened("strided").stream().step(MASKED), InputError, "masked array"),
    (lambda m: m.streams(0), InputError, "capacity is 0, expected a positive integer"),
    (lambda m: m.streams(10**12), InputError, "capacity is 10+, expected .* up to 2,147"),
    (lambda m: m.streams(10**30), InputError, "capacity is 10+, expected"),
    (lambda m: m.streams(2).step(X[None], [0]), StateError, "source 0 is not in this batch"),
    (lambda m: m.streams(2).step(X[None], []), InputError, "ids have shape"),
    (lambda m: m.streams(2).step(X[None], [0.5]), InputError, "ids has dtype float64"),
    (lambda m: [b := m.streams(1), b.add(), b.step([X, X], [0, 0])], StateError, "source 0 twice"),
    (lambda m: [b := m.streams(1), b.add(), b.add()], StateError, "all 1 slots are in use"),
    (lambda m: opened("unbatched").streams(2), ContractError, "open one stream"),
    (lambda m: opened("step").stream().process(np.zeros((2, 3))), InputError, "use step"),
]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_bad_input_is_one_line(engine, call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(opened("lstm", engine))
    assert isinstance(caught.value, LstmEdgeError)
    assert "\n" not in str(caught.value)


LIMITED = """
import resource
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
model = load({path!r})
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    model.streams(2**31 - 1)
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_batch_beyond_memory_is_refused(engine):
    path = str(DATA / f"lstm.{engine}")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(path=path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "do not fit into memory; open a batch of fewer" in done.stdout


def test_nan_is_refused_where_the_model_checks_or_where_it_would_reach_others():
    checked = load(DATA / "lstm.onnx", check=True)
    for call in (checked.stream().step, lambda x: checked.run(x[None, None])):
        with pytest.raises(
            InputError, match=r"x is nan at .*; clean the samples first"
        ):
            call(np.array([1, np.nan, 3], np.float32))
    batch = opened("motions-int8").streams(2)
    ids = [batch.add(), batch.add()]
    x = np.zeros((2, 6), np.float32)
    x[1, 2] = np.inf
    with pytest.raises(InputError, match="it would affect the other sources"):
        batch.step(x, ids)
