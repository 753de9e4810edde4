"""Files made to do harm: each is refused in one line, soon, and with little memory."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from edited_programs import edit_lep

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    ManifestError,
    first_line,
)
from lstm_edge_runtime.files import read_arrays
from lstm_edge_runtime.native import installed
from lstm_edge_runtime.ort import sealed
from lstm_edge_runtime.selftest import selftest

DATA = Path(__file__).parent / "data"
CPU_SECONDS = 30
"""A limit that no load of the machine reaches; what is quadratic takes hours."""
native = pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")


def program(name, edit):
    """Return a program after an edit of its manifest."""

    def edited(text):
        manifest = json.loads(text)
        edit(manifest)
        return json.dumps(manifest)

    return edit_lep((DATA / f"{name}.lep").read_bytes(), edited)


def onnx_file(edit):
    """Return an ``.onnx`` file after an edit of its message, sealed again."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(DATA / "lstm.onnx")
    kept = [prop for prop in model.metadata_props if prop.key == "lstm_edge"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    edit(model)
    return sealed(model.SerializeToString())


def edit_state(**fields):
    return lambda manifest: manifest["states"][0].update(fields)


def edit_input(**fields):
    return lambda manifest: manifest["inputs"][0].update(fields)


PROGRAMS = {
    "a state without batch": ("lstm", edit_state(axes=[2, 1, 8])),
    "an input without batch": ("lstm", edit_input(axes=["L", 3])),
    "an output without batch": ("lstm", lambda m: m["outputs"][0].update(axes=[4])),
    "an input of other steps": ("strided", edit_input(axes=["N", "L/4", 3])),
    "an input without time": ("strided", edit_input(axes=["N", 3])),
    "an input of two rates": ("lstm", edit_input(axes=["N", "2*L", 3])),
    "another unit": ("strided", lambda m: m.update(unit=8)),
    "a state of another type": ("lstm", edit_state(dtype="float64")),
    "a layer that is no number": ("lstm", edit_state(input="h_0[x]")),
}


@native
@pytest.mark.parametrize(("name", "edit"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_whose_manifest_describes_other_memory_is_refused(name, edit):
    assert load(program(name, lambda manifest: None)).selftest
    with pytest.raises(FileFormatError):
        load(program(name, edit))


def long_texts():
    """Yield files whose errors contain a long text."""
    for size in (100_000, 1_000_000):
        text = "A" * size

        def edit(manifest, text=text):
            manifest["golden"]["inputs"]["x"].update(dtype=text)

        def edit_proto(model, edit=edit):
            (prop,) = model.metadata_props
            manifest = json.loads(prop.value)
            edit(manifest)
            prop.value = json.dumps(manifest)

        if installed():
            yield program("lstm", edit)
        yield onnx_file(edit_proto)


def test_a_long_text_in_an_error_takes_no_time():
    for content in long_texts():
        before = time.process_time()
        with pytest.raises(ManifestError, match="malformed") as error:
            load(content)
        assert time.process_time() - before < CPU_SECONDS
        assert len(str(error.value)) <= 500
    for letters in (
        "A" * 10**6,
        "onnxruntime/core/" * 10**5,
        "(" * 10**6,
        "\n" * 10**6,
    ):
        before = time.process_time()
        assert len(first_line(ValueError(letters))) <= 303
        assert time.process_time() - before < CPU_SECONDS


@pytest.mark.parametrize("where", ["metadata", "a name"])
def test_text_that_is_not_utf8_is_refused(where):
    def edit(model):
        if where == "metadata":
            model.metadata_props.add(key="QQQQ", value="text")
        else:
            model.graph.input.add(name="QQQQ").CopyFrom(model.graph.input[0])
            model.graph.input[-1].name = "QQQQ"

    content = onnx_file(edit)
    seal = len(sealed(b""))
    with pytest.raises(FileFormatError, match="not UTF-8"):
        load(sealed(content[:-seal].replace(b"QQQQ", b"\xff\xfe\xff\xfe")))


def test_arrays_of_the_other_byte_order_are_read_in_the_machines(tmp_path):
    np.savez(
        tmp_path / "x.npz", x=np.arange(3, dtype=">f4"), text=np.array(["a"], ">U1")
    )
    arrays = read_arrays(tmp_path / "x.npz", "can't be read", "")
    assert all(array.dtype.isnative for array in arrays.values())
    assert arrays["x"].tolist() == [0, 1, 2]
    np.save(tmp_path / "x.npy", np.arange(3, dtype=">i8"))
    assert read_arrays(tmp_path / "x.npy", "can't be read", "")["x"].dtype == np.int64


def test_chunks_of_other_shapes_fail_the_selftest(opened):
    model = opened("late")
    widths = iter((3, 2))

    def run(feeds):
        rows, steps = feeds["x"].shape[:2]
        outputs = {spec.output: feeds[spec.input] for spec in model.states}
        name = model.outputs[0].name
        return outputs | {name: np.zeros((rows, steps, next(widths)), np.float32)}

    with pytest.raises((CheckFailedError, InputError), match="in two chunks"):
        selftest(model.manifest, run)
