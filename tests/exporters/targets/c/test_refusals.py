"""What can't become C is refused in one line, before anything is written."""

import json

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.targets.c import check_c_folder, to_c
from lstm_edge_exporters.targets.c.table import Table
from lstm_edge_exporters.targets.native.program import Binary, ProgramWriter
from lstm_edge_runtime.errors import (
    CheckFailedError,
    InputError,
    LstmEdgeError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

from .conftest import DATA


@pytest.fixture
def altered(network, tmp_path):
    """A function that changes the manifest of a network's file."""

    def change(edit):
        model = onnx.load(network("layers"))
        (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
        manifest = json.loads(entry.value)
        edit(manifest)
        entry.value = json.dumps(manifest)
        (tmp_path / "altered.onnx").write_bytes(sealed(model.SerializeToString()))
        return tmp_path / "altered.onnx"

    return change


def refused(kind, words, source, **options):
    with pytest.raises(kind, match=words) as error:
        to_c(source, **options)
    assert isinstance(error.value, LstmEdgeError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("2fast", "no C identifier"), ("a b/c", "no C identifier"), ("mødel", "no C identifier"),
        ("for", "keyword"), ("class", "keyword"),
    ],
)  # fmt: skip
def test_a_name_that_c_can_not_take(name, words):
    refused(InputError, words, DATA / "lstm.onnx", name=name)


def test_files_that_can_not_be_checked(altered, tmp_path):
    refused(NotFoundError, "does not exist", tmp_path / "none.onnx")
    refused(
        InputError,
        "no golden case",
        altered(lambda manifest: manifest.update(golden=None)),
    )


@pytest.mark.parametrize(
    ("width", "add", "message"),
    [
        (
            2,
            lambda w, x: [w.linear(x, np.zeros((70_000, 2), "float32"))],
            r"\(70000, 2\)",
        ),
        (70_000, lambda w, x: [w.binary(Binary.ADD, x, x)], "70,000"),
        (1, lambda w, x: [x] * 300, "301 inputs and outputs"),
    ],
)
def test_sizes_beyond_the_arguments_of_the_core(width, add, message):
    writer = ProgramWriter()
    for index, row in enumerate(add(writer, writer.input("x", width))):
        writer.output(f"y{index}", row, every_step=True)
    with pytest.raises(UnsupportedError, match=message):
        Table(writer)


def test_no_compiler_and_one_that_fails(network, monkeypatch, find_program, tmp_path):
    find_program("cc", "gcc", "clang")
    monkeypatch.setenv("CC", "no-such-compiler")
    refused(MissingDependencyError, "no-such-compiler", network("layers"), name="net")
    monkeypatch.setenv("CC", "false")
    refused(CheckFailedError, "does not compile", network("layers"), name="net")


def test_a_folder_that_holds_something_else_is_refused_early(
    network, folder_of, find_program, tmp_path
):
    find_program("cc", "gcc", "clang")
    (tmp_path / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="contains notes"):
        check_c_folder(tmp_path, network("layers"), name="net")
    assert check_c_folder(folder_of("layers"), network("layers"), name="net") is None
