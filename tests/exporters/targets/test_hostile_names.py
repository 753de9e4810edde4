"""Names of a model that are no names: whatever they say, a target writes what it should and nothing else."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from lstm_edge.cli import cli, run
from lstm_edge_exporters.targets.c.names import c_identifiers, c_string
from lstm_edge_runtime.manifest import KEY, Golden, Manifest, Signal, StateSpec, Task, TensorSpec
from lstm_edge_runtime.ort import sealed

HOSTILE = (
    "../../../x",
    '" } parameters { key: "EXECUTION_ENV_PATH" value: { string_value: "/x" } } input { name: "',
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
    """Return a network whose every name, label and description is hostile, another in each turn."""
    count = 0

    def name():
        nonlocal count
        count += 1
        return f"{HOSTILE[(turn + count) % len(HOSTILE)]}{'' if count < 3 else count}"

    rng = np.random.default_rng(0)
    initial = {key: name() for key in ("h_0", "c_0")}
    final = {key: name() for key in ("h_n", "c_n")}
    x, logits, batch, sequence = name(), name(), name(), name()
    shapes = {name(): (1, 16, 3), name(): (1, 16, 4), name(): (4, 3)}
    w, r, k = shapes
    stored = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in shapes.items()]
    stored.append(numpy_helper.from_array(np.array([0]), "axis"))
    xt, h = name(), name()
    states = [initial["h_0"], initial["c_0"]]
    nodes = [
        helper.make_node("Transpose", [x], [xt], perm=[1, 0, 2], name=name(), doc_string=name()),
        helper.make_node(
            "LSTM", [xt, w, r, "", "", *states], ["", *final.values()], hidden_size=4, name=name()
        ),
        helper.make_node("Squeeze", [final["h_n"], "axis"], [h]),
        helper.make_node("MatMul", [h, k], [logits]),
    ]

    def info(name, axes):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes, doc_string=name)

    graph = helper.make_graph(
        nodes,
        name(),
        [info(x, [batch, sequence, 3]), *(info(each, [1, batch, 4]) for each in states)],
        [info(logits, [batch, 3]), *(info(each, [1, batch, 4]) for each in final.values())],
        stored,
        doc_string=name(),
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name=name())
    model.producer_version, model.domain, model.doc_string = name(), name(), name()
    manifest = Manifest(
        inputs=(TensorSpec(x, "float32", (batch, sequence, 3)),),
        outputs=(TensorSpec(logits, "float32", (batch, 3)),),
        states=tuple(
            StateSpec(initial[a], final[b], "float32", (1, batch, 4))
            for a, b in (("h_0", "h_n"), ("c_0", "c_n"))
        ),
        batch=batch,
        sequence=sequence,
        task=Task("classification", logits, tuple(name() for _ in range(3)), tuple(name() for _ in range(3))),
        signal=Signal(tuple(name() for _ in range(3)), 50.0),
        provenance={"versions": {name(): name()}, name(): name()},
    )
    session = InferenceSession(model.SerializeToString())
    feeds = {
        x: rng.normal(size=(1, 8, 3)).astype("float32"),
        **{s: np.zeros((1, 1, 4), "float32") for s in states},
    }
    outputs = dict(zip([y.name for y in session.get_outputs()], session.run(None, feeds), strict=True))
    manifest = manifest._replace(golden=Golden(feeds, outputs, floor={}, limit=dict.fromkeys(outputs, 1e-4)))
    model.metadata_props.add(key=KEY, value=manifest.to_json())
    model.metadata_props.add(key=name(), value=name())
    return model, manifest


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder in which a verb runs in a deep one."""
    inner = tmp_path.joinpath(*"abcdef")
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    return tmp_path


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def call(place, turn, capsys, *arguments, refusal=None, code=0):
    """Run a verb on a hostile model; return what it wrote, by path, nothing where it was refused so."""
    model, manifest = hostile_model(turn)
    Path("net.onnx").write_bytes(sealed(model.SerializeToString()))
    before = tree(place)
    try:
        ended = run(cli, [str(each) for each in arguments])
    except SystemExit as stop:  # a failed check
        ended = stop.code
    written = capsys.readouterr()
    refused = refusal is not None and refusal in written.err and written.err.count("\n") == 1
    assert ended == (2 if refused else code), written.err
    assert "\x1b" not in written.out + written.err
    after = tree(place)
    assert {path: after[path] for path in before} == before
    made = {path.relative_to(Path.cwd()): after[path] for path in after.keys() - before.keys()}
    return made, manifest


TURNS = [*(pytest.param(turn, marks=pytest.mark.slow) for turn in range(16)), 16]
"""In the last one the first state is called ``../../../x``."""


@pytest.mark.parametrize("turn", TURNS)
def test_native(turn, place, capsys):
    made, _ = call(place, turn, capsys, "convert", "net.onnx", "-o", "net.lep")
    assert set(made) == {Path("net.lep")}


@pytest.mark.parametrize("turn", TURNS)
def test_web(wasm, turn, place, capsys):
    made, _ = call(place, turn, capsys, "convert", "net.onnx", "--to", "web", "-o", "site")
    assert {path.parts[0] for path in made} == {"site"}
    text = made[Path("site/site.js")].decode("ascii")
    assert json.loads(text.removeprefix("self.SITE = ").removesuffix(";\n"))["name"] == "net.onnx"


@pytest.mark.parametrize("turn", TURNS)
def test_c(turn, place, capsys, find_program):
    find_program("cc", "gcc", "clang")
    made, manifest = call(
        place, turn, capsys, "convert", "net.onnx", "--to", "c", "-o", "c", refusal="no C identifier"
    )
    if not made:
        return
    assert {path.parts[0] for path in made} == {"c"}
    text = "".join(content.decode() for content in made.values())
    assert not re.search(r"int evil|#define float|\x1b|touch x", re.sub(r'"[^"\n]*"', "", text))
    Path("labels.c").write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void)\n{\n'
        "    for (int i = 0; i < NET_LABELS; ++i) { fputs(net_labels[i], stdout); putchar(0); }\n"
        "    return 0;\n}\n"
    )
    compile_ = [
        "cc",
        "-std=c99",
        "-Wall",
        "-Werror",
        "-Ic/src",
        "labels.c",
        "c/src/net.c",
        "c/src/lstm_edge_core.c",
        "-lm",
        "-o",
        "labels",
    ]
    subprocess.run(compile_, check=True)
    printed = subprocess.run(["./labels"], check=True, capture_output=True).stdout.decode()
    assert printed.split("\0")[:-1] == list(manifest.task.labels)


class _Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attributes):
        self.found.add(tag)
        self.found |= {f"{tag} {name}" for name, _ in attributes if name.startswith("on")}


@pytest.mark.parametrize("turn", TURNS)
def test_reports(turn, place, capsys):
    options = ("--quick", "--html", "report.html", "--junit", "report.xml")
    made, _ = call(place, turn, capsys, "validate", "net.onnx", "--against", "net.onnx", *options, code=1)
    # it has no golden case, which validate asks for; what it says of that is in both reports
    assert set(made) == {Path("report.html"), Path("report.xml")}
    assert "evil" not in {each.tag for each in ET.fromstring(made[Path("report.xml")]).iter()}
    page = _Elements()
    page.feed(made[Path("report.html")].decode())
    assert not page.found & {"script", "evil"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(), max_size=6))
def test_endings_of_identifiers_differ_and_are_what_c_takes(texts):
    endings = list(c_identifiers(texts))
    assert len(set(endings)) == len(texts)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", ending, re.ASCII) for ending in endings)


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_strings_come_back_as_they_were(text):
    digits = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), c_string(text)[1:-1])
    assert digits.encode("latin-1").decode() == text


def test_labels_keep_their_names_where_c_takes_them():
    labels = ("Walking", "sitting down", "a-b", "a_b", "été", "走", "", "2nd")
    assert list(c_identifiers(labels)) == ["Walking", "sitting_down", "a_b", "a_b_3", "ete", "5", "6", "2nd"]
