"""Hostile names in a model: a target writes only the files that it should, with the
right contents."""

import json
import re
import subprocess
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.cli import cli, run
from lstm_edge_exporters.targets.c.names import c_identifiers, c_string
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

DATA = Path(__file__).parents[2] / "runtime" / "data"

HOSTILE = (
    "../../../x",
    (
        '" } parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "/x" } }'
        ' input { name: "'
    ),
    "*/ int evil(void) { return 1; } /*",
    '\\"; int evil[1]; //',
    "</script></svg><script>alert(1)</script>",
    "&lt;b&gt;]]><evil/>",
    "a\nb\r\n#define float int\n",
    "\x1b[31m\x07",
    "{{ 7*7 }}${HOME}$(touch x)`touch x`%s%n",
    "__proto__",
    "\u202e\u2028 é😀",
    "\\",
    "$\\frac{$",
    "/etc/x",
    "..",
    "file",
    "a" * 300,
)


def hostile_model(turn):
    """Return a network whose names and labels are all hostile and change with ``turn``,
    and its manifest."""
    model = onnx.load(DATA / "lstm.onnx")
    names = dict[str, str]()

    def name(old):
        count = len(names)
        return names.setdefault(
            old,
            f"{HOSTILE[(turn + count + 1) % len(HOSTILE)]}{'' if count < 3 else count}",
        )

    def renamed(value):
        if isinstance(value, dict):
            return {names.get(key, key): renamed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [*map(renamed, value)]
        return names.get(value, value) if isinstance(value, str) else value

    (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
    manifest = json.loads(entry.value)
    graph = model.graph
    for state in manifest["states"]:
        name(state["input"])
    for text in (*manifest["task"]["labels"], *manifest["signal"]["features"]):
        name(text)
    for value in (*graph.input, *graph.output):
        value.name = value.doc_string = name(value.name)
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = name(dim.dim_param)
    for value in graph.initializer:
        value.name = name(value.name)
    for node in graph.node:
        node.name = node.doc_string = name(f"node {node.output[0]}")
        for side in (node.input, node.output):
            side[:] = [text and name(text) for text in side]
    graph.name = graph.doc_string = model.producer_name = model.doc_string = name(
        "graph"
    )
    del graph.value_info[:], model.metadata_props[:]
    manifest = renamed(manifest) | {"provenance": {name("p"): {name("q"): name("r")}}}
    model.metadata_props.add(key=KEY, value=json.dumps(manifest))
    return model, manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder; the working directory is six levels below it."""
    inner = tmp_path.joinpath(*"abcdef")
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(folder, turn, capsys, *arguments, refusal=None, code=0):
    """Run a verb on a hostile model; return the written files by path (none if refused)
    and the manifest."""
    model, manifest = hostile_model(turn)
    Path("net.onnx").write_bytes(sealed(model.SerializeToString()))
    before = tree(folder)
    try:
        ended = run(cli, [str(argument) for argument in arguments])
    except SystemExit as stop:  # a failed check
        ended = stop.code
    written = capsys.readouterr()
    refused = (
        refusal is not None and refusal in written.err and written.err.count("\n") == 1
    )
    assert ended == (2 if refused else code), written.err
    assert "\x1b" not in written.out + written.err
    after = tree(folder)
    assert {path: after[path] for path in before} == before
    made = {
        path.relative_to(Path.cwd()): after[path]
        for path in after.keys() - before.keys()
    }
    return made, manifest


TURNS = [*(pytest.param(turn, marks=pytest.mark.slow) for turn in range(16)), 16]
"""In the last one the first state is called ``../../../x``."""


@pytest.mark.parametrize("turn", TURNS)
def test_native(turn, folder, capsys):
    made, _ = call(folder, turn, capsys, "convert", "net.onnx", "-o", "net.lep")
    assert set(made) == {Path("net.lep")}


@pytest.mark.parametrize("turn", TURNS)
def test_web(wasm, turn, folder, capsys):
    made, _ = call(
        folder, turn, capsys, "convert", "net.onnx", "--to", "web", "-o", "site"
    )
    assert {path.parts[0] for path in made} == {"site"}
    text = made[Path("site/site.js")].decode("ascii")
    assert (
        json.loads(text.removeprefix("self.SITE = ").removesuffix(";\n"))["name"]
        == "net.onnx"
    )


@pytest.mark.parametrize("turn", TURNS)
def test_c(turn, folder, capsys, find_program):
    find_program("cc", "gcc", "clang")
    made, manifest = call(
        folder,
        turn,
        capsys,
        "convert",
        "net.onnx",
        "--to",
        "c",
        "-o",
        "c",
        refusal="no C identifier",
    )
    if not made:
        return
    assert {path.parts[0] for path in made} == {"c"}
    text = "".join(content.decode() for content in made.values())
    assert not re.search(
        r"int evil|#define float|\x1b|touch x", re.sub(r'"[^"\n]*"', "", text)
    )
    Path("labels.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void)\n{\n    for (int i = 0; i'
        " < NET_LABELS; ++i) { fputs(net_labels[i], stdout); putchar(0); }\n    return"
        " 0;\n}\n"
    )
    files = ["labels.c", "c/src/net.c", "c/src/lstm_edge_core.c"]
    subprocess.run(
        [
            "cc",
            "-std=c99",
            "-Wall",
            "-Werror",
            "-Ic/src",
            *files,
            "-lm",
            "-o",
            "labels",
        ],
        check=True,
    )
    printed = subprocess.run(
        ["./labels"], check=True, capture_output=True
    ).stdout.decode()
    assert printed.split("\0")[:-1] == manifest["task"]["labels"]


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_strings_come_back_as_they_were(text):
    digits = re.sub(
        r"\\(\d{3})", lambda match: chr(int(match[1], 8)), c_string(text)[1:-1]
    )
    assert digits.encode("latin-1").decode() == text


def test_labels_keep_their_names_where_c_takes_them():
    labels = ("Walking", "sitting down", "a-b", "a_b", "été", "走", "", "2nd")
    assert list(c_identifiers(labels)) == [
        "Walking",
        "sitting_down",
        "a_b",
        "a_b_3",
        "ete",
        "5",
        "6",
        "2nd",
    ]
