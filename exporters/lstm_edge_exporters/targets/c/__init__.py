"""C99 that needs neither Python nor onnxruntime: for microcontrollers, armv7 and any compiler."""

from ._convert import CLibrary, check_c_folder, to_c

__all__ = ["CLibrary", "check_c_folder", "to_c"]
