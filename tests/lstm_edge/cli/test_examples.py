import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lstm_edge_runtime import load

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")


def run(name, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def imported(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imu(make):
    """A file for six channels of an IMU."""
    return make("imu", features=6, feature_names=NAMES, golden=False)


def test_the_imu_reader_says_each_change_of_activity(imu, tmp_path):
    samples = np.random.default_rng(7).normal(size=(60, 6)).astype(np.float32) * 3
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([NAMES, *samples.tolist()])
    out = run(
        "imu_reader", imu.path, "--replay", tmp_path / "r.csv", "--rate", 1000
    ).splitlines()
    stream = load(imu.path).stream()
    labels = ("rest", "walk", "run, fast")
    last = None
    expected = []
    for step, sample in enumerate(samples, start=1):
        label = labels[int(stream.step(sample).argmax())]
        if label != last:
            expected.append(f"{step / 1000:8.2f} s  {label}")
        last = label
    assert len(expected) > 2
    assert out[:-1] == expected
    assert out[-1].startswith("60 samples, ")


def test_the_imu_reader_reads_the_kernels_folder_in_its_units(tmp_path):
    reader = imported("imu_reader")
    for index, axis in enumerate("xyz"):
        (tmp_path / f"in_accel_{axis}_raw").write_text(f"{index + 1}\n")
        (tmp_path / f"in_anglvel_{axis}_raw").write_text(f"{-index}\n")
        (tmp_path / f"in_anglvel_{axis}_scale").write_text("0.5\n")
    (tmp_path / "in_accel_scale").write_text("0.01\n")
    read = reader.read_iio(tmp_path, NAMES)
    np.testing.assert_allclose(read(), [0.01, 0.02, 0.03, 0, -0.5, -1], rtol=1e-6)
    (tmp_path / "in_accel_x_raw").write_text("100")
    assert read()[0] == np.float32(1)
