"""Every committed file that carries a golden case proves itself here, whatever the
machine."""

from pathlib import Path

import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.native import installed

FILES = [
    Path(__file__).parent / "data" / f"{name}.{suffix}"
    for name in ("lstm", "late", "strided", "motions-int8")
    for suffix in ("onnx", "lep")[: 1 + installed()]
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_committed_file_passes_its_selftest(file):
    load(file).selftest().require()
