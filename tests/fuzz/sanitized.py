"""Run damaged programs through the runtime's Python entry, with the C library built with
AddressSanitizer and UndefinedBehaviorSanitizer; needs GCC and CMake.

    python tests/fuzz/sanitized.py --count 2000
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -O0 -g"
_READ = """
import shutil, sys, tempfile
from pathlib import Path
from random import Random
from readers import DATA, LEP_READERS
from lstm_edge_runtime import LstmEdgeError
from lstm_edge_runtime.native import library

count, first = map(int, sys.argv[1:])
refused = 0
with tempfile.TemporaryDirectory() as corpus:
    files = shutil.ignore_patterns("*.onnx", "*.py")
    shutil.copytree(DATA, Path(corpus) / "lep", ignore=files)
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory() as folder:
            for read in LEP_READERS:
                try:
                    read(Random(seed), Path(corpus), Path(folder))
                except LstmEdgeError:
                    refused += 1
print(f"{count} seeds, {refused} refusals, library {library()._name}")
"""


def main() -> int:
    """Build the library and read damaged files with it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=2000)
    options.add_argument("--first", type=int, default=0, help="the first seed")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "lstm_edge_native"
        package.mkdir()
        library = _build(Path(folder) / "build")
        (package / "__init__.py").write_text(f"LIBRARY = {str(library)!r}\n")
        environment = os.environ | {
            "LD_PRELOAD": " ".join(map(_path_of, ("libasan.so", "libstdc++.so.6"))),
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "PYTHONPATH": os.pathsep.join((folder, str(Path(__file__).parent))),
        }
        counts = str(chosen.count), str(chosen.first)
        command = [sys.executable, "-c", _READ, *counts]
        return subprocess.run(command, check=False, env=environment).returncode


def _path_of(library: str) -> str:
    """Return the path of a library of GCC."""
    command = ["gcc", f"-print-file-name={library}"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return ran.stdout.strip()


def _build(folder: Path) -> Path:
    """Return the shared library, built in ``folder``."""
    options = ("-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_C_FLAGS={FLAGS}")
    configure = ["cmake", "-S", ROOT / "native", "-B", folder, *options]
    subprocess.run(
        [*configure, "-DCMAKE_C_COMPILER=gcc"], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["cmake", "--build", folder], check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("liblstm_edge.so"))


if __name__ == "__main__":
    sys.exit(main())
