"""Every committed file that carries a golden case proves itself here, whatever the machine."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from lstm_edge.cli import cli
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError

DATA = Path(__file__).parent / "data"


def _has_golden(file: Path) -> bool:
    try:
        with load(file) as model:
            return model.manifest.golden is not None
    except ContractError:  # the file that is broken on purpose
        return False


FILES = [file for file in sorted(DATA.glob("*.onnx")) if _has_golden(file)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_committed_file_passes_its_selftest(file):
    ran = CliRunner().invoke(cli, ["selftest", str(file)])
    assert ran.exit_code == 0, ran.output


def test_float_and_int8_files_are_among_them():
    assert {"lstm.onnx", "motions-int8.onnx"} <= {file.name for file in FILES}
