"""What can't become C is refused in one line, before anything is written."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.c import check_c_folder, to_c
from lstm_edge_exporters.targets.c.table import Table
from lstm_edge_exporters.targets.native.program import Binary, ProgramWriter
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    InputError,
    LstmEdgeError,
    ManifestError,
    MissingDependencyError,
    NotFoundError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

from .conftest import DATA


@pytest.fixture
def altered(network, tmp_path):
    """A function that changes the manifest of a network's file, or takes it away."""

    def change(edit):
        model = onnx.load(network("layers"))
        (entry,) = (each for each in model.metadata_props if each.key == KEY)
        manifest = json.loads(entry.value)
        seal = sealed
        if edit(manifest) is None:
            entry.value = json.dumps(manifest)
        else:
            seal = bytes
            del model.metadata_props[:]
        (tmp_path / "altered.onnx").write_bytes(seal(model.SerializeToString()))
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
        ("for", "keyword"), ("class", "keyword"), ("stdio", "stdio.h is taken"), ("test", "CMake"),
    ],
)  # fmt: skip
def test_a_name_that_c_can_not_take(name, words):
    refused(InputError, words, DATA / "lstm.onnx", name=name)


def test_files_that_can_not_be_streamed_or_checked(altered, tmp_path):
    refused(NotFoundError, "does not exist", tmp_path / "none.onnx")
    refused(ManifestError, "no manifest", altered(lambda manifest: "remove it"))
    refused(InputError, "no golden case", altered(lambda manifest: manifest.update(golden=None)))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 4, bidirectional=True, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    export(Both().eval(), torch.randn(2, 5, 3), ExportConfig(inputs={"x": ("N", "L", 3)})).save(
        tmp_path / "both.onnx"
    )
    refused(ContractError, "backward|direction|end of", tmp_path / "both.onnx")


def test_sizes_beyond_the_arguments_of_the_core():
    wide, long = ProgramWriter(), ProgramWriter()
    x = wide.input("x", 2)
    wide.output("y", wide.linear(x, np.zeros((70_000, 2), "float32")), every_step=True)
    x = long.input("x", 70_000)
    long.output("y", long.binary(Binary.ADD, x, x), every_step=True)
    for writer in (wide, long):
        with pytest.raises(UnsupportedError, match=r"70.?000"):
            Table(writer)
    many = ProgramWriter()
    x = many.input("x", 1)
    for number in range(300):
        many.output(f"y{number}", x, every_step=True)
    with pytest.raises(UnsupportedError, match="301 inputs and outputs"):
        Table(many)


def test_no_compiler_and_one_that_fails(network, monkeypatch, find_program, tmp_path):
    find_program("cc", "gcc", "clang")
    monkeypatch.setenv("CC", "no-such-compiler")
    refused(MissingDependencyError, "no-such-compiler", network("layers"), name="net")
    monkeypatch.setenv("CC", "false")
    refused(CheckFailedError, "does not compile", network("layers"), name="net")


def test_a_golden_case_that_the_code_does_not_meet(altered, find_program):
    find_program("cc", "gcc", "clang")
    refused(
        CheckFailedError,
        "golden|self-test",
        altered(lambda manifest: manifest["golden"].update(limit={"logits": 1e-12})),
    )


def test_a_folder_that_holds_something_else_is_left_alone(network, folder_of, find_program, tmp_path):
    find_program("cc", "gcc", "clang")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for target, kind, words in (
        (tmp_path / "mine", InputError, "contains notes.txt"),
        (tmp_path / "mine" / "notes.txt", InputError, "is not a folder"),
        (tmp_path / "not" / "there", NotFoundError, "does not exist"),
    ):
        with pytest.raises(kind, match=words):
            check_c_folder(target, network("layers"), name="net")
    assert check_c_folder(folder_of("layers"), network("layers"), name="net") is None
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]
