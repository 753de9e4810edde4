"""Wheels built from the tree, and environments with them, for the tests of wheels and
of the first page of the manual.
"""

import os
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["build_wheel", "make_environment", "needed_names", "run_program"]


def run_program(*command: object, cwd: Path, **environment: str) -> str:
    ran = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(cwd),
            "ORT_DISABLE_TELEMETRY": "1",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def build_wheel(source: Path, out: Path) -> Path:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            out,
            source,
        ],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def needed_names(distributions: list[tuple[str, str]]) -> set[str]:
    """The names of the distributions that some need, each with an extra or "", and what
    those need."""
    names: set[str] = set()
    while distributions:
        name, extra = distributions.pop()
        for requirement in map(Requirement, distribution(name).requires or []):
            wanted = requirement.marker is None or requirement.marker.evaluate(
                {"extra": extra}
            )
            if wanted and requirement.name not in names:
                names.add(requirement.name)
                distributions.append((requirement.name, ""))
    return names


def make_environment(folder: Path, borrowed: set[str], *wheels: Path) -> Path:
    """Return the Python of a fresh environment with wheels; what they need is borrowed,
    not downloaded."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(
        run_program(
            python,
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
            cwd=folder,
        ).strip()
    )
    for name in borrowed - {"lstm-edge-runtime"}:
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution(name).locate_file(top))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, *wheels], check=True)
    return python
