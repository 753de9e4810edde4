"""``lstm-edge score`` on a real local Ray."""

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

REQUIRED = os.environ.get("LSTM_EDGE_REQUIRE", "").split()
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(
        find_spec("ray") is None and "ray" not in REQUIRED,
        reason='ray is not installed; pip install "ray[data]"',
    ),
]


def _descendants(root):
    """Every process that a process started, and theirs, by id."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # noqa: PERF203
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    return found


def _title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def _stopped_at_work(family):
    """A process that works on an item, stopped there: an item may take less than a search of ``/proc``."""
    workers = [pid for pid in family if _title(pid).startswith("ray::")]
    given = time.monotonic() + 60
    while time.monotonic() < given:
        for pid in workers:
            if _title(pid).startswith("ray::MapBatches"):
                os.kill(pid, signal.SIGSTOP)
                if _title(pid).startswith("ray::MapBatches"):
                    return pid
                os.kill(pid, signal.SIGCONT)
    raise AssertionError([_title(pid) for pid in workers])


def _listening(pids):
    """The addresses at which processes accept connections."""
    sockets = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = [raw[place : place + 4][::-1] for place in range(0, len(raw), 4)]
                sockets[f"socket:[{fields[9]}]"] = ipaddress.ip_address(b"".join(words))
    addresses = set()
    for pid in pids:
        try:
            links = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        addresses |= {sockets[link] for link in links if link in sockets}
    return {getattr(address, "ipv4_mapped", None) or address for address in addresses}


def _lines(data, model, output, *options):
    program = "from lstm_edge.cli import main; main()"
    line = ["score", data, "-m", model, "-o", output, "--events", *options]
    return [sys.executable, "-c", program, *map(str, line)]


def _contents(output):
    rows = {path.name: parquet.ParquetFile(path).read() for path in output.glob("*.parquet")}
    events = pa.concat_tables([parquet.ParquetFile(path).read() for path in (output / "_events").iterdir()])
    return rows, events.sort_by([("series", "ascending"), ("start", "ascending")])


def _write_long(folder):
    """Write few and long series, so that an item takes a while."""
    rng = np.random.default_rng(1)
    n, devices = 240_000, 8
    series = np.arange(n) % devices
    folder.mkdir()
    for part, rows in enumerate(np.array_split(np.arange(n), 5)):
        columns = {"series": [f"dev {one}" for one in series[rows]], "order": rows // devices}
        x = {name: (rng.normal(size=len(rows)) * 3).astype(np.float32) for name in ("ax", "ay", "az")}
        parquet.write_table(pa.table(columns | x), folder / f"{part}.parquet", row_group_size=50_000)


def _assert_gone(family):
    gone = time.monotonic() + 20
    while left := [_title(pid) for pid in family if Path(f"/proc/{pid}").exists() and "ray" in _title(pid)]:
        assert time.monotonic() < gone, f"Ray is left behind: {left}"
        time.sleep(0.2)


def test_ray_gives_the_bits_of_one_process_though_a_worker_is_killed(har, tmp_path):
    _write_long(tmp_path / "in")
    subprocess.run(
        _lines(tmp_path / "in", har.path, tmp_path / "one", "--workers", 1), check=True, capture_output=True
    )

    line = _lines(tmp_path / "in", har.path, tmp_path / "two", "--workers", 2)
    said = []
    with (
        (tmp_path / "said").open("w") as out,
        subprocess.Popen(line, stdout=out, stderr=subprocess.PIPE, text=True) as process,
    ):
        while not said or not said[-1].startswith("score: "):
            said.append(next(process.stderr))
        family = _descendants(process.pid)
        addresses = _listening(family)
        os.kill(_stopped_at_work(family), signal.SIGKILL)
        said += list(process.stderr)
        assert process.wait(timeout=120) == 0, "".join(said)
    assert addresses
    assert all(address.is_loopback for address in addresses)
    assert not [each for each in said if "Traceback" in each]
    text = (tmp_path / "said").read_text()
    assert "240,000 rows of 8 series in 5 files" in text
    assert "2 workers (Ray, " in text
    rows, events = _contents(tmp_path / "two")
    expected_rows, expected_events = _contents(tmp_path / "one")
    assert sorted(rows) == [f"{part}.parquet" for part in range(5)]
    assert all(rows[name].equals(expected_rows[name]) for name in rows)
    assert events.equals(expected_events)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "one", "two", "said"}
    _assert_gone(family)


@pytest.mark.parametrize("when", ["starting", "at work"])
def test_sigterm_ends_it_with_143_and_leaves_no_process(har, tmp_path, when):
    _write_long(tmp_path / "in")
    line = _lines(tmp_path / "in", har.path, tmp_path / "out", "--workers", 2)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        family = set()
        while not any("raylet" in _title(pid).split(" ")[0] for pid in family):
            assert process.poll() is None
            family |= _descendants(process.pid)
            time.sleep(0.02)
        if when == "at work":
            while not next(process.stderr).startswith("score: "):
                pass
        family |= _descendants(process.pid)
        process.terminate()
        said = process.stderr.read()
        assert process.wait(timeout=60) == 143, said
    assert said.splitlines()[-1] == "stopped by SIGTERM"
    assert "Traceback" not in said
    _assert_gone(family)
    assert not (tmp_path / "out").exists()


def test_a_head_that_dies_is_one_line_and_leaves_no_process(har, tmp_path):
    _write_long(tmp_path / "in")
    line = _lines(tmp_path / "in", har.path, tmp_path / "out", "--workers", 2)
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not re.match(r"score: \d+ items", next(process.stderr)):
            pass
        family = _descendants(process.pid)
        (raylet,) = (pid for pid in family if _title(pid).split(" ")[0].endswith("raylet/raylet"))
        os.kill(raylet, signal.SIGKILL)
        said = process.stderr.read()
        assert process.wait(timeout=60) == 2, said
    assert said.splitlines()[-1].startswith("error: Ray ended while it was at work")
    assert "Traceback" not in said
    assert len(said) < 2000
    _assert_gone(family)
    assert {path.name for path in tmp_path.iterdir()} == {"in"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running cluster of three workers: its address, and the environment of those who join it."""
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled",
    }
    path = tmp_path_factory.mktemp("cluster") / "cluster.py"
    path.write_text(
        "import sys, ray\n"
        "told = ray.init(address='local', num_cpus=3, include_dashboard=False, log_to_driver=False,\n"
        "    object_store_memory=80 * 2**20)\n"
        "print(told.address_info['gcs_address'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as head:
        yield head.stdout.readline().strip(), environment
        assert head.poll() is None
        head.stdin.close()
        head.wait(timeout=60)


@pytest.mark.parametrize("order", [[1, 2, 5, 3], [1, 2, 2, 3]], ids=["good", "an order twice"])
def test_a_running_cluster_is_joined_and_an_error_of_its_workers_is_one_line(har, tmp_path, cluster, order):
    address, environment = cluster
    columns = {"series": ["a"] * 4, "order": order} | {name: [0.5] * 4 for name in ("ax", "ay", "az")}
    (tmp_path / "in").mkdir()
    parquet.write_table(pa.table(columns), tmp_path / "in" / "0.parquet")
    done = subprocess.run(
        _lines(tmp_path / "in", har.path, tmp_path / "out", "--address", address, "--json"),
        capture_output=True,
        text=True,
        timeout=200,
        env=environment,
    )
    assert "Traceback" not in done.stderr
    if order[2] == 5:
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["workers"], report["distribution"], report["rows"]) == (3, "Ray", 4)
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: series 'a' has order 2 twice" in done.stderr.splitlines()[-1]
        assert {path.name for path in tmp_path.iterdir()} == {"in"}


def test_a_cluster_that_does_not_answer_is_one_line(har, tmp_path):
    parquet.write_table(
        pa.table({"series": ["a"], "order": [1], "ax": [0.0], "ay": [0.0], "az": [0.0]}),
        tmp_path / "a.parquet",
    )
    done = subprocess.run(
        _lines(tmp_path / "a.parquet", har.path, tmp_path / "out", "--address", "127.0.0.1:9"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "no Ray cluster answers at 127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
