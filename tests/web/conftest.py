"""What the tests of the page and of the package share."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_edge.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data():
    """The folder of the runtime's test files."""
    return ROOT / "tests" / "runtime" / "data"


@pytest.fixture(scope="session")
def programs(wasm, tmp_path_factory):
    """The folder of native programs that ``programs.py`` makes."""
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run(
        [sys.executable, Path(__file__).with_name("programs.py"), folder], check=True
    )
    return folder


@pytest.fixture
def invoke(monkeypatch, capsys):
    """Run the command line in this process; gives exit code, standard output and
    standard error."""

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
