"""What can't be C is refused in one line, and nothing is written."""

import json
import re
import sys
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from lstm_edge_exporters import QuantizeConfig, export, quantize
from lstm_edge_exporters.targets.c import _convert, check_c_folder, to_c
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

from .conftest import DATA


@pytest.fixture
def altered(network, tmp_path):
    """A function that gives a copy of a file with its manifest or graph changed."""

    def alter(name, change_manifest=None, change_model=None):
        model = onnx.load(network(name))
        entry = next(each for each in model.metadata_props if each.key == "lstm_edge")
        manifest = json.loads(entry.value)
        if change_manifest is not None:
            change_manifest(manifest)
        if change_model is not None:
            change_model(model)
        entry.value = json.dumps(manifest)
        onnx.save(model, tmp_path / "altered.onnx")
        return tmp_path / "altered.onnx"

    return alter


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


@pytest.mark.parametrize(
    ("file", "kind", "words"),
    [
        ("wide", UnsupportedError, "axis 'F' of x is free"),
        ("backward", ContractError, "can't be streamed"),
        ("step", ManifestError, "lstm-edge lift"),
        ("broken", ContractError, "h_last"),
        ("absent", NotFoundError, "absent"),
    ],
)
def test_a_file_that_can_not_be_pinned_or_streamed(file, kind, words):
    with pytest.raises(kind) as error:
        to_c(DATA / f"{file}.onnx", name="net")
    assert words in one_line(error)


def test_a_file_without_states(tmp_path):
    specs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", specs[:1], specs[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
        tmp_path / "m.onnx",
    )
    with pytest.raises(ContractError) as error:
        to_c(tmp_path / "m.onnx")
    assert "carries no states" in one_line(error)


@pytest.mark.parametrize(
    "name",
    ["int", "class", "restrict", "math", "Main", "2nd", "größe", "a/b", "", "_x", "a;b", "٣", "test", "All"],
)
def test_names_that_c_a_header_or_cmake_has_already(name):
    with pytest.raises(InputError) as error:
        to_c(DATA / "lstm.onnx", name=name)
    assert repr(name) in one_line(error)


def test_a_file_name_with_dashes_dots_and_spaces_is_a_name_with_underscores(tmp_path, find_program):
    find_program("cc", "gcc", "clang")
    (tmp_path / "my net-v1.2.onnx").write_bytes((DATA / "unbatched.onnx").read_bytes())
    assert to_c(tmp_path / "my net-v1.2.onnx").name == "my_net_v1_2"


def test_a_state_with_a_keyword_for_a_name(altered):
    def rename(model):
        graph = model.graph
        for value in graph.input:
            value.name = value.name.replace("h_0", "register")
        for node in graph.node:
            node.input[:] = ["register" if name == "h_0" else name for name in node.input]

    path = altered("unbatched", lambda manifest: manifest["states"][0].update(input="register"), rename)
    with pytest.raises(InputError) as error:
        to_c(path)
    assert "'register'" in one_line(error)


def test_a_chunk_of_int8_of_nothing_and_of_a_file_without_time():
    for file, chunk, words in (
        ("motions-int8", 10, "range of a whole chunk"),
        ("lstm", 0, "the chunk is 0"),
    ):
        with pytest.raises(LstmEdgeError) as error:
            to_c(DATA / f"{file}.onnx", name="net", chunk=chunk)
        assert words in one_line(error)


def test_a_node_that_the_generator_lacks_is_named(altered):
    def add(model):
        last = model.graph.node[-1].output[0]
        model.graph.node[-1].output[0] = "whole"
        model.graph.node.append(helper.make_node("QuickGelu", ["whole"], [last], domain="com.microsoft"))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    with pytest.raises(UnsupportedError) as error:
        to_c(altered("unbatched", None, add))
    assert "com.microsoft.QuickGelu" in one_line(error)


def test_half_precision_which_c99_has_not(altered):
    def halve(model):
        graph = model.graph
        nodes = list(graph.node)
        last = nodes[-1].output[0]
        nodes[-1].output[0] = "whole"
        del graph.node[:]
        graph.node.extend(
            [
                *nodes,
                helper.make_node("Cast", ["whole"], ["half"], to=TensorProto.FLOAT16),
                helper.make_node("Cast", ["half"], [last], to=TensorProto.FLOAT),
            ]
        )

    with pytest.raises(UnsupportedError) as error:
        to_c(altered("unbatched", None, halve))
    assert "C99 has not" in one_line(error)


class Recurrent(nn.Module):
    """Enough hidden units that weights in float32 fill a small stack."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = getattr(nn, kind)(8, 32, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(("kind", "weights_only"), [("GRU", False), ("LSTM", True)])
def test_int8_weights_that_would_be_expanded_on_the_stack(kind, weights_only, tmp_path, find_program):
    find_program("gcc", "clang")
    torch.manual_seed(0)
    export(Recurrent(kind).eval(), torch.randn(2, 5, 8)).save(tmp_path / "m.onnx")
    quantize(tmp_path / "m.onnx", QuantizeConfig(weights_only=weights_only)).save(tmp_path / "small.onnx")
    with pytest.raises(UnsupportedError) as error:
        to_c(tmp_path / "small.onnx")
    assert re.search(r"would take \d\d,\d\d\d bytes of stack, expected at most 16,384", one_line(error))


def test_a_file_in_ort_format():
    with pytest.raises(InputError) as error:
        to_c(DATA / "motions-int8.ort", name="net")
    assert "give the .onnx file" in one_line(error)


def test_a_golden_case_that_is_not_whole_or_that_the_file_itself_fails(altered):
    for change, kind in (
        (lambda manifest: manifest["golden"]["outputs"].pop("h_n"), ManifestError),
        (lambda manifest: manifest["golden"].update(limit={"logits": 1e-12}), CheckFailedError),
    ):
        with pytest.raises(kind) as error:
            to_c(altered("layers", change))
        assert "golden case" in one_line(error)


def test_no_compiler_or_one_that_is_not_there(monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MissingDependencyError) as error:
        to_c(DATA / "lstm.onnx")
    assert "apt-get install gcc" in one_line(error)
    for command, kind in (
        ("no-such-compiler -O2", InputError),
        ('"', InputError),
        (sys.executable, CheckFailedError),
    ):
        monkeypatch.setenv("CC", command)
        with pytest.raises(kind) as error:
            to_c(DATA / "lstm.onnx")
        assert command.split()[0] in one_line(error)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("expf(-a)", "expf(-a * 1.001f)", "golden case fails"),
        ("gate_i += h_val *", "gate_i -= h_val *", "golden case fails"),
        ("return tanhf(a);", "return tanhf(a)", "error"),
    ],
)
def test_a_generator_that_errs_is_found_out_before_anything_is_written(
    old, new, words, network, find_program, monkeypatch
):
    find_program("cc", "gcc", "clang")
    translate = _convert.translate

    def err(*given):
        code, checked = translate(*given)
        assert old in code
        return code.replace(old, new), checked

    monkeypatch.setattr(_convert, "translate", err)
    with pytest.raises(CheckFailedError) as error:
        to_c(network("layers"), name="net")
    assert words in one_line(error)


def test_an_error_that_the_golden_case_lets_pass_is_found_by_the_random_calls(
    network, find_program, monkeypatch
):
    find_program("cc", "gcc", "clang")
    translate, golden_case = _convert.translate, _convert.golden_case

    def let_pass(*given, **options):
        case = golden_case(*given, **options)
        return replace(case, limits={name: limits + 100 for name, limits in case.limits.items()})

    monkeypatch.setattr(_convert, "golden_case", let_pass)

    def wrong(*given):
        code, checked = translate(*given)
        return code.replace("-a)", "-a * 1.001f)"), checked

    monkeypatch.setattr(_convert, "translate", wrong)
    with pytest.raises(CheckFailedError) as error:
        to_c(network("layers"), name="net")
    assert "something else than onnxruntime" in one_line(error)


def test_what_a_file_says_does_not_become_code(altered, find_program):
    find_program("cc", "gcc", "clang")
    evil = '*/ int evil(void) { return 1; } /* \n#include "/etc/passwd" \\ ??/'

    def spoil(model):
        model.producer_name, graph = evil, model.graph
        graph.doc_string, graph.name = evil, evil
        for place, node in enumerate(graph.node):
            node.name, node.doc_string = f"{place} {evil}", evil
        kept = {value.name for value in (*graph.input, *graph.output)}
        names = {name: f"{name} {evil}" for node in graph.node for name in node.output if name not in kept}
        names |= {tensor.name: f"{tensor.name} {evil}" for tensor in graph.initializer}
        for tensor in graph.initializer:
            tensor.name = names[tensor.name]
        for value in graph.value_info:
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]

    def feature(manifest):
        manifest["signal"]["features"] = [evil, "b", "c"]
        manifest["provenance"] = {"note": evil}

    made = to_c(altered("layers", feature, spoil), name="net")
    code = made.files["src/net.c"]
    assert "evil(void)" not in code.replace(r"*/ int evil(void) { return 1; } /* \012", "")
    assert "/etc/passwd" not in "".join(text for path, text in made.files.items() if path != "src/net.c")


@pytest.fixture(scope="module")
def made(network, find_program):
    find_program("cc", "gcc", "clang")
    return to_c(network("layers"), name="net")


def test_a_folder_that_holds_something_else_is_left_alone(made, network, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for target, kind, words in (
        (tmp_path / "mine", InputError, "contains notes.txt"),
        (tmp_path / "mine" / "notes.txt", InputError, "is not a folder"),
        (tmp_path / "not" / "there", NotFoundError, "does not exist"),
    ):
        for refuse in (made.save, lambda folder: check_c_folder(folder, network("layers"), name="net")):
            with pytest.raises(kind) as error:
                refuse(target)
            assert words in one_line(error)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_an_earlier_folder_is_replaced_whole_and_an_empty_one_is_filled(made, tmp_path):
    (tmp_path / "c").mkdir()
    made.save(tmp_path / "c")
    (tmp_path / "c" / "src" / "net.h").write_text("old")
    made.save(tmp_path / "c")
    assert (tmp_path / "c" / "src" / "net.h").read_text() == made.files["src/net.h"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
