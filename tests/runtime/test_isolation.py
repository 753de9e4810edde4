import re
import shutil
import subprocess
import sys

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


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_loading_and_running_open_no_socket_and_no_file_for_writing_elsewhere(
    path, tmp_path
):
    home = tmp_path / "home"
    out = tmp_path / "out"
    trace = tmp_path / "trace"
    home.mkdir()
    out.mkdir()
    calls = "trace=network,open,openat,openat2,creat,mkdir,mkdirat"
    program = [
        sys.executable,
        "-I",
        "-B",
        "-c",
        PROGRAM,
        str(path("lstm")),
        str(out / "s.npz"),
    ]
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ran = subprocess.run(
        ["strace", "-f", "-o", str(trace), "-e", calls, *program],
        check=False, cwd=home, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if ran.returncode and "ptrace" in ran.stderr.lower():
        pytest.skip(f"strace can't trace here: {ran.stderr.strip().splitlines()[-1]}")
    assert ran.returncode == 0, ran.stderr
    calls = trace.read_text().splitlines()
    assert any("openat(" in call for call in calls)
    assert [
        call for call in calls if re.search(r"\b(socket|connect|sendto|bind)\(", call)
    ] == []
    written = [
        match[1]
        for call in calls
        if re.search(r"O_WRONLY|O_RDWR|O_CREAT|\bmkdir", call)
        and " = -1 " not in call
        and (match := re.search(r'"([^"]*)"', call))
    ]
    allowed = (str(out), "/dev/null", "/dev/shm", "/proc/self/")
    assert [name for name in written if not name.startswith(allowed)] == []
    assert any(name.startswith(str(out)) for name in written)
