"""Make ``lstm_edge/data/basic_motions.npz`` from the aeon wheel.

pip download --no-deps aeon==1.6.0
python tools/make_basic_motions.py aeon-1.6.0-py3-none-any.whl

The same wheel gives the same bytes.
"""

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_FOLDER = "aeon/datasets/data/BasicMotions"
_LABELS = {"Standing", "Running", "Walking", "Badminton"}
_FEATURES = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
_TARGET = Path(__file__).parents[1] / "lstm_edge" / "data" / "basic_motions.npz"


def make(wheel: Path, target: Path) -> None:
    """Write BasicMotions to ``target`` as a file that ``lstm-edge train`` reads.

    ``x: float32 (80, 100, 6)`` in the archive's units; ``y: <U9 (80,)`` the activity;
    ``split: <U5 (80,)`` the sets of the archive, ``train`` and ``test``;
    ``features: <U5 (6,)``; ``sampling_rate`` in Hertz.
    """
    rows = []
    labels = []
    split = []
    with zipfile.ZipFile(wheel) as archive:
        for part in ("train", "test"):
            text = archive.read(f"{_FOLDER}/BasicMotions_{part.upper()}.ts").decode()
            for line in text.partition("@data\n")[2].splitlines():
                *channels, label = line.strip().split(":")
                rows.append(
                    np.array(
                        [channel.split(",") for channel in channels], dtype=np.float32
                    ).T
                )
                labels.append(label)
                split.append(part)
    x = np.stack(rows)
    if x.shape != (80, 100, len(_FEATURES)) or set(labels) != _LABELS:
        raise SystemExit(
            f"expected 80 recordings of 100 samples and 6 channels, got {x.shape}"
            f" {set(labels)}"
        )
    arrays: dict[str, Any] = {
        "x": x,
        "y": np.array(labels),
        "split": np.array(split),
        "features": np.array(_FEATURES),
        "sampling_rate": np.array(10.0),
    }
    np.savez_compressed(target, **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("target", type=Path, nargs="?", default=_TARGET)
    arguments = parser.parse_args()
    make(arguments.wheel, arguments.target)
