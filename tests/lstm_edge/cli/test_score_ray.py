"""``lstm-edge score --address`` on a real Ray cluster of two workers."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

REQUIRED = os.environ.get("LSTM_EDGE_REQUIRE", "").split()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        find_spec("ray") is None and "ray" not in REQUIRED,
        reason="ray is not installed; pip install ray",
    ),
]
ENVIRONMENT = os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
CLUSTER = """
import sys, ray
started = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
    object_store_memory=80 * 2**20)
print(started.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster():
    """A running cluster's address."""
    command = [sys.executable, "-c", CLUSTER]
    pipes = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen(command, text=True, env=ENVIRONMENT, **pipes) as head:
        yield head.stdout.readline().strip()
        head.stdin.close()
        head.wait(timeout=60)


def _score(data, model, output, *options):
    program = "from lstm_edge.cli import main; main()"
    line = ["score", data, "-m", model, "-o", output, "--events", *options]
    command = [sys.executable, "-c", program, *map(str, line)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=200,
        env=ENVIRONMENT,
        check=False,
    )


def _write(path, order):
    path.parent.mkdir(exist_ok=True)
    count = len(order)
    rng = np.random.default_rng(1)
    columns = {"series": [f"dev {row % 8}" for row in range(count)], "order": order}
    x = {name: rng.normal(size=count).astype(np.float32) for name in ("ax", "ay", "az")}
    parquet.write_table(pa.table(columns | x), path)


def test_a_cluster_gives_the_results_of_one_process(har, tmp_path, cluster):
    _write(tmp_path / "in" / "0.parquet", list(range(4000)))
    for name, options in (("one", ("--workers", 1)), ("two", ("--address", cluster))):
        done = _score(tmp_path / "in", har.path, tmp_path / name, *options)
        assert done.returncode == 0, done.stderr
    expected, got = (
        parquet.read_table(tmp_path / name / "part-00000.parquet")
        for name in ("one", "two")
    )
    assert expected.num_rows == 4000
    assert expected.equals(got)


def test_an_error_of_a_worker_is_one_line(har, tmp_path, cluster):
    _write(tmp_path / "in" / "0.parquet", [1] * 16)
    done = _score(tmp_path / "in", har.path, tmp_path / "out", "--address", cluster)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has order 1 twice" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_cluster_that_does_not_answer_is_one_line(har, tmp_path):
    _write(tmp_path / "in" / "0.parquet", [1])
    done = _score(
        tmp_path / "in", har.path, tmp_path / "out", "--address", "127.0.0.1:9"
    )
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr.splitlines()[-1]
