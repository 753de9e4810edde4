"""A site without npm: the page does not look into onnxruntime-web's files while it is made."""

import json
import sys
from pathlib import Path

import pytest

from lstm_edge.cli import main

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "runtime" / "data"


@pytest.fixture
def data():
    """The folder of the runtime's test files."""
    return DATA


@pytest.fixture(scope="session")
def onnxruntime_web(tmp_path_factory):
    """A folder with node_modules/onnxruntime-web in it, whose two files are stand-ins."""
    folder = tmp_path_factory.mktemp("npm")
    package = folder / "node_modules" / "onnxruntime-web" / "dist"
    package.mkdir(parents=True)
    (package / "ort.wasm.bundle.min.mjs").write_text("export {};")
    (package / "ort-wasm-simd-threaded.wasm").write_bytes(b"\0asm")
    return folder


@pytest.fixture
def invoke(monkeypatch, capsys):
    """Run the command line in this process; gives exit code, standard output and standard error."""

    def call(*words: object):
        monkeypatch.setattr(sys, "argv", ["lstm-edge", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            sys.exit(main())
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def site_of():
    """Read what a site's site.js says."""

    def read(folder: Path):
        text = (folder / "site.js").read_text()
        assert text.startswith("self.SITE = ")
        assert text.endswith(";\n")
        return json.loads(text[len("self.SITE = ") : -2])

    return read
