"""The programs next to the files of ``tests/runtime/data``, which run where there is no
compiler."""

from pathlib import Path

import pytest

from lstm_edge_exporters.targets.native import to_native

DATA = Path(__file__).parents[3] / "runtime" / "data"


@pytest.mark.parametrize(
    "program", sorted(DATA.glob("*.lep")), ids=lambda path: path.stem
)
def test_a_committed_program_is_that_of_its_file(program):
    """If it is not:
    ``program.write_bytes(to_native(program.with_suffix(".onnx")))``."""
    assert program.read_bytes() == to_native(program.with_suffix(".onnx"))
