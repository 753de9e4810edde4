"""Where the C library of ``lstm-edge-native`` lies."""

import sys
from pathlib import Path

__all__ = ["LIBRARY"]

_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
LIBRARY = Path(__file__).with_name(f"liblstm_edge.{_SUFFIX}")
"""The shared library, whose functions ``include/lstm_edge.h`` beside it documents."""
