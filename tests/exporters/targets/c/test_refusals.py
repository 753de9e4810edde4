"""What can't be C is refused in one line, and nothing is written."""

import json
import re
import sys
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

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


def test_a_node_that_the_native_engine_lacks_is_named(altered):
    def add(model):
        last = model.graph.node[-1].output[0]
        model.graph.node[-1].output[0] = "whole"
        model.graph.node.append(helper.make_node("QuickGelu", ["whole"], [last], domain="com.microsoft"))
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    with pytest.raises(UnsupportedError) as error:
        to_c(altered("unbatched", None, add))
    assert "(QuickGelu): an operator that is not covered" in one_line(error)


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
    assert "from float32 to float16" in one_line(error)


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


@pytest.fixture
def generated(monkeypatch, find_program):
    """A function that replaces something in the generated code of the next conversion."""
    find_program("cc", "gcc", "clang")
    write = _convert.write_step

    def err(part, old, new):
        def wrong(*given):
            step = write(*given)
            changed, count = re.subn(old, new, getattr(step, part), count=1)
            assert count
            return replace(step, **{part: changed})

        monkeypatch.setattr(_convert, "write_step", wrong)

    return err


@pytest.mark.parametrize(
    ("part", "old", "new", "words"),
    [
        ("constants", r"\{\n +[^,]+", "{ 7.0f", "golden case fails"),
        ("body", r"(le_lstm\w*)\(([^;]*)\);", r"\1(\2); state->h_0[0] = 0.0f;", "golden case fails"),
        ("body", ";", "", "error"),
    ],
)
def test_a_generator_that_errs_is_found_out_before_anything_is_written(
    part, old, new, words, network, generated
):
    generated(part, old, new)
    with pytest.raises(CheckFailedError) as error:
        to_c(network("layers"), name="net")
    assert words in one_line(error)


def test_an_error_that_the_golden_case_lets_pass_is_found_by_the_random_calls(
    network, generated, monkeypatch
):
    golden_case = _convert.golden_case

    def let_pass(*given, **options):
        case = golden_case(*given, **options)
        return replace(case, limits={name: limits + 100 for name, limits in case.limits.items()})

    monkeypatch.setattr(_convert, "golden_case", let_pass)
    generated("constants", r"\{\n +[^,]+", "{ 7.0f")
    with pytest.raises(CheckFailedError) as error:
        to_c(network("layers"), name="net")
    assert "something else than onnxruntime" in one_line(error)


@pytest.mark.parametrize("memory", ["flash", "ram"])
def test_a_network_that_is_larger_than_a_limit_is_refused_with_its_size(memory, made, network):
    size = getattr(made.sizes, memory)
    assert to_c(network("layers"), name="net", **{f"{memory}_limit": size}).sizes == made.sizes
    with pytest.raises(CheckFailedError) as error:
        to_c(network("layers"), name="net", **{f"{memory}_limit": size - 1})
    assert f"{size:,} bytes" in one_line(error)
    assert f"expected at most {size - 1:,}" in one_line(error)


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
