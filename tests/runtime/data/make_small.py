"""Make the small int8 file that every device proves itself on, trained on the demo's data.

Run it from the repository's root, with the ``export`` extra installed. The bytes depend on the versions of
torch and onnxruntime, which the manifests name.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "lstm_edge" / "data" / "basic_motions.npz"


def _verb(*arguments: object) -> None:
    command = [Path(sys.executable).with_name("lstm-edge"), *map(str, arguments)]
    subprocess.run(command, check=True)


def main() -> None:
    """Train, export and quantize for ARM; replace the file next to this one."""
    with tempfile.TemporaryDirectory() as folder:
        run, float_file = Path(folder) / "run", Path(folder) / "float.onnx"
        _verb("train", DATA, "-o", run)
        _verb("export", run, "-o", float_file)
        small = HERE / "motions-int8.onnx"
        _verb("quantize", float_file, "-o", small, "--for", "arm", "--data", DATA)


if __name__ == "__main__":
    main()
