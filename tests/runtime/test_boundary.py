"""What a file, another process or a caller gives is checked before it reaches C or stands for a network."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.targets.native.convert import compile_file
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    FileFormatError,
    InputError,
    ManifestError,
    ProviderError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import KEY, Golden, Manifest
from lstm_edge_runtime.native.library import installed

DATA = Path(__file__).parent / "data"
native = pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
X = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)


def with_manifest(path, edit) -> bytes:
    """Return a file with its manifest edited."""
    onnx = pytest.importorskip("onnx")
    made = onnx.load(path)
    (entry,) = [prop for prop in made.metadata_props if prop.key == KEY]
    entry.value = edit(Manifest.from_json(entry.value)).to_json()
    return made.SerializeToString()


def with_golden(edit) -> bytes:
    """Return ``gru.onnx``, which takes lengths, with a golden case that ``edit`` changes."""
    path = DATA / "gru.onnx"
    with load(path) as plain:
        x, gain = X.swapaxes(0, 1), np.ones((5, 2, 1), np.float32)
        outputs, after = plain.run({"x": x, "gain": gain}, lengths=[5, 3])
        outputs = plain.manifest.all_outputs(outputs, after)
    inputs = {"x": x, "gain": gain, "lengths": np.array([5, 3]), "h_0": np.full((1, 2, 8), 0.25, np.float32)}
    edit(inputs, outputs)
    golden = Golden(inputs, outputs, floor={}, limit=dict.fromkeys(outputs, 1e-3))
    return with_manifest(path, lambda manifest: manifest._replace(golden=golden))


def put(name, array):
    return lambda inputs, outputs: (outputs if name in outputs else inputs).update({name: array})


@native
@pytest.mark.parametrize(
    "edit",
    [
        *(
            put("lengths", np.array(each))
            for each in ([5, 6], [5, 10**7], [5, -1], [0, 3], [2**40, -(2**40)])
        ),
        put("lengths", np.array([5, 3], np.float32)),
        put("lengths", np.array([5, 3, 3])),
        put("x", np.zeros((5, 2, 3), np.int8)),
        put("x", np.zeros((5, 2, 3), np.float64)),
        put("gain", np.zeros((4, 2, 1), np.float32)),
        put("h_0", np.zeros((1, 2, 8), np.int8)),
        put("h_0", np.zeros((1, 1, 8), np.float32)),
        put("output", np.zeros((5, 2, 9), np.float32)),
        put("output", np.zeros((5, 2, 8), np.int64)),
    ],
)
def test_a_golden_case_that_does_not_fit_reaches_no_engine(edit):
    content = with_golden(edit)
    with pytest.raises(CheckFailedError, match="the golden case does not run: "):
        to_native(content)
    with pytest.raises(CheckFailedError, match="the golden case does not run: "):
        load(content).selftest()
    assert set(load(content).stream().step({"x": [1, 2, 3], "gain": [1]})) == {"logits", "output"}


@native
def test_a_golden_case_that_fits_is_replayed_by_the_native_engine():
    assert load(to_native(with_golden(lambda inputs, outputs: None))).selftest().ok


def lep(edit=lambda manifest: manifest) -> bytes:
    """Return ``lstm.onnx`` as a program, with an edited manifest."""
    with load(DATA / "lstm.onnx") as model:
        compiled = compile_file(onnx.load(DATA / "lstm.onnx"), model.manifest)
    compiled.writer.manifest(edit(model.manifest).to_json())
    return compiled.writer.to_bytes()


@native
def test_a_program_does_not_run_on_cuda():
    with pytest.raises(ProviderError, match=r"a native program, which runs on the CPU; load the \.onnx file"):
        load(lep(), device="cuda")
    with pytest.raises(InputError, match="device is 'gpu'"):
        load(lep(), device="gpu")


@native
@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m._replace(states=tuple(state._replace(dtype="int8") for state in m.states)),
        lambda m: m._replace(states=tuple(state._replace(dtype="float64") for state in m.states)),
        lambda m: m._replace(states=(m.states[0]._replace(axes=()), m.states[1])),
        lambda m: m._replace(states=(m.states[0]._replace(axes=("N", 2, 8)), m.states[1])),
        lambda m: m._replace(states=(m.states[0]._replace(axes=("2*N", 8)), m.states[1])),
        lambda m: m._replace(outputs=(m.outputs[0]._replace(dtype="int8"),)),
        lambda m: m._replace(outputs=(m.outputs[0]._replace(axes=("N", "N", 4)),)),
        lambda m: m._replace(outputs=(m.outputs[0]._replace(axes=("N", "4*N")),)),
        lambda m: m._replace(inputs=(m.inputs[0]._replace(axes=("N", "P", 3)),)),
        lambda m: m._replace(inputs=(m.inputs[0]._replace(axes=("N", 3)),)),
        lambda m: m._replace(batch="x"),
        lambda m: m._replace(batch="L"),
        lambda m: m._replace(sequence="2*N"),
        lambda m: m._replace(lengths="x"),
        lambda m: m._replace(lengths="h_0"),
        lambda m: m._replace(outputs=()),
        lambda m: m._replace(task=m.task._replace(output="nothing")),
        lambda m: m._replace(task=m.task._replace(labels=("one",))),
    ],
)
def test_a_program_whose_manifest_does_not_fit_it_is_refused_whole(edit):
    with pytest.raises((FileFormatError, ContractError, UnsupportedError)):
        load(lep(edit))


@native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X.astype(np.float64)}, "x is float64, expected float32"),
        ({"x": X[:, :, :2]}, r"x has shape \(2, 5, 2\)"),
        ({"x": X[:1]}, r"x has shape \(1, 5, 3\)"),
        ({"h_0": np.zeros((2, 4, 8), np.int8)}, "state h_0 is int8, expected float32"),
        ({"h_0": np.zeros((1, 4, 8), np.float32)}, r"state h_0 has shape \(1, 4, 8\)"),
        ({"slots": np.array([0, 4])}, r"got slots \[0, 4\], expected 0..3"),
        ({"slots": np.array([-1, 2])}, "expected 0..3, each once"),
        ({"slots": np.array([1, 1])}, "expected 0..3, each once"),
    ],
)
def test_a_tick_checks_what_it_reads_and_writes_and_changes_no_state(change, message):
    from lstm_edge_runtime.native.engine import NativeEngine

    engine = NativeEngine(lep(), 1)
    given = {"x": X, "h_0": np.ones((2, 4, 8), np.float32), "c_0": np.ones((2, 4, 8), np.float32)}
    given |= {"slots": np.array([0, 3])} | change
    slots, feeds = given.pop("slots"), {"x": given.pop("x")}
    pool = None
    with pytest.raises(InputError, match=message):
        engine.tick(feeds, pool := engine.pool(given), slots)
    assert pool is None or all((rows == 1).all() for rows in pool.rows)


@native
def test_a_tick_checks_its_lengths():
    engine = load(to_native(DATA / "gru.onnx"))._open().native
    feeds = {"x": X.swapaxes(0, 1), "gain": np.ones((5, 2, 1), np.float32)}
    for lengths in ([5, 6], [0, 1], [5, -3], [2**40, 5]):
        pool = engine.pool({"h_0": np.ones((1, 2, 8), np.float32)})
        with pytest.raises(InputError, match=r"lengths has values .*, expected 1..5"):
            engine.tick(feeds | {"lengths": np.array(lengths)}, pool, np.arange(2))
        assert (pool.rows[0] == 1).all()


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m._replace(batch="2*N"),
        lambda m: m._replace(batch=""),
        lambda m: m._replace(sequence="N"),
        lambda m: m._replace(lengths="x"),
        lambda m: m._replace(lengths="nothing"),
        lambda m: m._replace(inputs=(*m.inputs[:2], m.inputs[2]._replace(axes=("2*N",)))),
        lambda m: m._replace(states=(m.states[0]._replace(axes=(1, "N", "L")),)),
        lambda m: m._replace(states=(m.states[0]._replace(axes=("N+1", "N", 8)),)),
    ],
)
def test_a_manifest_whose_axes_can_not_be_meant_is_refused(edit):
    with pytest.raises(ManifestError):
        load(with_manifest(DATA / "gru.onnx", edit))


def test_an_output_of_another_shape_than_declared_is_one_line():
    content = with_manifest(
        DATA / "gru.onnx",
        lambda m: m._replace(outputs=(m.outputs[0]._replace(axes=("L", "N")), m.outputs[1])),
    )
    batch = load(content).streams(3)
    sources = [batch.add(), batch.add()]
    with pytest.raises(ContractError, match="does not keep its contract"):
        batch.step({"x": np.ones((2, 3)), "gain": np.ones((2, 1))}, sources)


# whole numbers


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([4294967299], "int32"),
        ([-4294967293], "int32"),
        (np.array([300]), "int8"),
        (np.array([2**63 + 3], np.uint64), "int64"),
        (np.array([256], np.uint16), "uint8"),
    ],
)
def test_a_whole_number_that_the_file_can_not_hold_is_refused_and_never_another(value, dtype):
    from lstm_edge_runtime._core import as_array

    with pytest.raises(InputError, match=rf"token has values .*, expected {dtype} \("):
        as_array("token", value, dtype)


def test_a_whole_number_that_fits_is_converted():
    from lstm_edge_runtime._core import as_array

    assert as_array("token", np.array([[2**31 - 1], [-5]]), "int32").tolist() == [[2**31 - 1], [-5]]
    assert as_array("token", np.array([3], np.uint64), "int64").tolist() == [3]
    assert as_array("token", np.zeros((0, 2), np.int64), "int32").shape == (0, 2)


# threads


@native
def test_more_threads_than_the_native_engine_takes_are_refused_at_once():
    with pytest.raises(UnsupportedError, match="257 threads, expected 1 to 256"):
        load(lep(), threads=257)
    assert load(DATA / "lstm.onnx", threads=257).stream().step([1, 2, 3]).shape == (4,)
