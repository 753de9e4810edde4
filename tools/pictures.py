"""Draw the pictures of the manual that show this program: `python tools/pictures.py`.

It needs chromium. The pictures of `examples/` are drawn by these examples.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
from onnx import numpy_helper

from lstm_edge_runtime.ort import sealed

DOCS = Path(__file__).parents[1] / "docs"
VERB = Path(sys.executable).with_name("lstm-edge")
WIDTH = 1000
"""Width of a page, in pixels."""


def run(*words: str | Path, codes: tuple[int, ...] = (0,)) -> None:
    """Run a command; raise ``CalledProcessError`` for another exit code."""
    ran = subprocess.run([*map(str, words)], capture_output=True, text=True)
    if ran.returncode not in codes:
        sys.exit(f"{words[0]} ended with {ran.returncode}: {ran.stderr or ran.stdout}")


def spoil(source: Path, target: Path) -> None:
    """Write a file in which the last vector of floats, a bias, is off by 0.01."""
    model = onnx.load(source)
    vectors = [
        tensor
        for tensor in model.graph.initializer
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT
    ]
    bias = vectors[-1]
    array = numpy_helper.to_array(bias) + 0.01
    bias.CopyFrom(numpy_helper.from_array(array.astype("float32"), bias.name))
    entries = [e for e in model.metadata_props if e.key != "lstm_edge_sha256"]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    target.write_bytes(sealed(model.SerializeToString()))


def photograph(page: Path, picture: Path, height: int) -> None:
    """Write a picture of a page."""
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    run(
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{height}",
        f"--screenshot={picture}",
        page.as_uri(),
    )


def main() -> None:
    """Draw the demo's picture and the report of a wrong file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(VERB, "demo", "-o", folder)
        shutil.copy(folder / "activities.png", DOCS / "demo.png")
        spoil(folder / "basic_motions.onnx", folder / "wrong.onnx")
        run(
            *(VERB, "validate", folder / "wrong.onnx", "--against", folder / "run"),
            *("--quick", "--html", folder / "report.html"),
            codes=(1,),
        )
        photograph(folder / "report.html", DOCS / "validate-report.png", 960)


if __name__ == "__main__":
    main()
