"""Where the C library of ``lstm-edge-native`` lies."""

import sys
from pathlib import Path

__all__ = ["LIBRARY"]

LIBRARY = Path(__file__).with_name("liblstm_edge.dylib" if sys.platform == "darwin" else "liblstm_edge.so")
"""The shared library, whose functions ``include/lstm_edge.h`` beside it documents."""
