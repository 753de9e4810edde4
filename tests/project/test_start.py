"""The first page of the manual as a reader follows it: the built wheels in new
environments, an empty folder, and the device's part on emulated aarch64."""

import os
import re
import shutil
import subprocess
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from arm_root import UnsupportedMachineError, arm_python
from wheels import build_wheel, make_environment, needed_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
EXTRAS = ("cpu", "export", "report")


@dataclass(frozen=True)
class Block:
    """A code block of the page."""

    mark: str
    language: str
    code: str

    @property
    def commands(self) -> list[str]:
        """The commands, without the output that is shown."""
        joined = self.code.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def blocks() -> list[Block]:
    text = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    return [
        Block(match["mark"] or "", match["language"], match["code"])
        for match in BLOCK.finditer(text)
    ]


@pytest.fixture(scope="module")
def runtime_wheel(tmp_path_factory) -> Path:
    return build_wheel(ROOT / "runtime", tmp_path_factory.mktemp("runtime"))


@pytest.fixture(scope="module")
def workstation(runtime_wheel, tmp_path_factory) -> Path:
    """The folder with the programs of an environment with both wheels."""
    wheel = build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))
    needed = needed_names(
        [*(("lstm-edge", extra) for extra in EXTRAS), ("lstm-edge-runtime", "cpu")]
    )
    folder = tmp_path_factory.mktemp("workstation")
    return make_environment(folder, needed, runtime_wheel, wheel).parent


@pytest.fixture(scope="module")
def device(runtime_wheel, tmp_path_factory) -> Path:
    """A folder with a ``python`` for aarch64 that has the runtime's wheel alone."""
    folder = tmp_path_factory.mktemp("device")
    site = folder / "site"
    zipfile.ZipFile(runtime_wheel).extractall(site)
    with ExitStack() as stack:
        try:
            python = stack.enter_context(arm_python([site]))
        except UnsupportedMachineError as reason:
            pytest.skip(str(reason))
        program = folder / "bin" / "python"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        program.chmod(0o755)
        yield program.parent


def run(command: str, programs: Path, folder: Path) -> str:
    environment = {
        "PATH": os.pathsep.join([str(programs), "/usr/bin", "/bin"]),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "QEMU_CPU": "cortex-a72",
        "ORT_DISABLE_TELEMETRY": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def test_the_first_page_leads_from_a_module_to_a_board(workstation, device, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples")
    answers = []
    for block in blocks():
        if block.mark.startswith("file: "):
            (folder / block.mark.removeprefix("file: ")).write_text(block.code)
        elif block.language == "console" and not block.mark.startswith("not run"):
            is_device = block.mark == "on: device"
            programs = device if is_device else workstation
            for command in block.commands:
                out = run(command, programs, folder)
                if is_device:
                    answers.append(out)
    assert {"har.npz", "har.onnx", "net.onnx"} <= {p.name for p in folder.iterdir()}
    check, reader = answers
    assert "self-test: passed" in check
    assert "100 samples" in reader


def test_the_device_is_aarch64_and_has_no_torch(device, tmp_path):
    program = (
        "import platform, importlib.util as u; print(platform.machine(),"
        " *[name for name in ('torch', 'pandas') if u.find_spec(name)])"
    )
    out = run(f'python -c "{program}"', device, tmp_path)
    assert out.split() == ["aarch64"]
