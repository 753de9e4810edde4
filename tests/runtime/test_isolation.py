import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import numpy as np
import lstm_edge_runtime as runtime

with runtime.load(sys.argv[1]) as model:
    model.selftest().require()
    model.predict(np.zeros((1, 4, 3)))
    stream, batch = model.stream(), model.streams(3)
    ids = [batch.add() for _ in range(3)]
    for _ in range(20):
        stream.step([1, 2, 3])
        batch.step(np.ones((3, 3)), ids)
    stream.process(np.ones((5, 3)))
    stream.state.save(sys.argv[2])
    stream.restore(runtime.State.load(sys.argv[2]))
"""


@pytest.fixture
def home(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "home"


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "TMPDIR": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def test_loading_and_running_write_nothing_but_what_was_asked_for(path, home, tmp_path):
    model = tmp_path / "model.onnx"
    shutil.copy(path("lstm"), model)
    before = sorted(tmp_path.rglob("*"))
    subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(model), str(tmp_path / "out" / "s.npz")],
        check=True,
        cwd=home,
        env=environment(home),
    )
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "out" / "s.npz"])


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_loading_and_running_open_no_socket_and_no_file_for_writing_elsewhere(path, home, tmp_path):
    trace = tmp_path / "trace"
    ran = subprocess.run(
        [
            *(
                "strace",
                "-f",
                "-o",
                str(trace),
                "-e",
                "trace=network,open,openat,openat2,creat,mkdir,mkdirat",
            ),
            *(sys.executable, "-I", "-c", PROGRAM, str(path("lstm")), str(tmp_path / "out" / "s.npz")),
        ],
        check=False,
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
    )
    if ran.returncode and "ptrace" in ran.stderr.lower():
        pytest.skip(f"strace can't trace here: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    calls = trace.read_text().splitlines()
    assert any("openat(" in call for call in calls)
    assert [call for call in calls if re.search(r"\b(socket|connect|sendto|bind)\(", call)] == []
    written = [
        found[1]
        for call in calls
        if re.search(r"O_WRONLY|O_RDWR|O_CREAT|\bmkdir", call)
        and " = -1 " not in call
        and (found := re.search(r'"([^"]*)"', call))
    ]
    allowed = (str(tmp_path / "out"), "/dev/null", "/dev/shm", "/proc/self/")
    assert [name for name in written if not name.startswith(allowed)] == []
    assert any(name.startswith(str(tmp_path / "out")) for name in written)
