"""``--json``: documents with stable keys, described by ``docs/json-schema.json``."""

import json
import re
from pathlib import Path

import jsonschema
import onnx
import pytest

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "docs" / "json-schema.json").read_text())
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 40, batch_first=True)
        self.head = nn.Linear(40, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])

def build():
    torch.manual_seed(0)
    return Net().eval()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a network."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "json_nets.py").write_text(NETWORK)
    return folder


VERBS = [
    ("export", "json_nets:build", "--input", "x=N,L,3", "-o", "m.onnx"),
    ("export", "json_nets:build", "--input", "x=N,L,3", "--stateless", "-o", "o.onnx"),
    ("validate", "m.onnx", "--quick"),
    ("quantize", "m.onnx", "-o", "q.onnx"),
    ("convert", "m.onnx", "-o", "m.lep"),
    ("convert", "m.onnx", "--to", "c", "-o", "c"),
    ("inspect", "m.onnx"),
    ("inspect", "m.lep", "--operations"),
    ("selftest", "m.onnx"),
    ("selftest", "m.lep", "--trace", "m.onnx"),
    ("bench", "m.onnx", "--seconds", "0.1"),
    ("lift", "foreign.onnx", "-o", "lifted.onnx"),
    ("doctor",),
]


@pytest.mark.system
def test_each_document_is_what_the_schema_says(folder, invoke, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for verb, *arguments in VERBS:
        code, out, err = invoke(verb, *arguments, "--json")
        assert code == 0 or verb == "doctor", err
        if (folder / "o.onnx").exists():  # as another exporter would write it
            foreign = onnx.load(folder / "o.onnx")
            del foreign.metadata_props[:]
            onnx.save(foreign, folder / "foreign.onnx")
        definition = {**SCHEMA, "$ref": f"#/$defs/{verb}"}
        jsonschema.validate(json.loads(out), definition)


def keys_of(definition):
    """Yield every key that a schema declares."""
    for key, value in definition.items():
        if key == "properties":
            yield from value
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from keys_of(part)


def test_keys_are_in_snake_case():
    keys = set(keys_of(SCHEMA))
    assert "limit" in keys
    assert {key for key in keys if not re.fullmatch("[a-z][a-z0-9_]*", key)} == set()
