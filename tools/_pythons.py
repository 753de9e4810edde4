"""Find the Python interpreters of this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["find_pythons"]

_PROBE = "import sys, venv; print(*sys.version_info[:2], sys.version_info.releaselevel)"


def find_pythons() -> dict[tuple[int, int], Path]:
    """Return a released CPython for each version that stands on PATH or under pyenv and really starts."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    folders += sorted(pyenv.glob("3.*/bin"))
    found = {sys.version_info[:2]: Path(sys.executable)}
    for candidate in (path for folder in folders for path in sorted(folder.glob("python3.*"))):
        if not re.fullmatch(r"python3\.\d+", candidate.name):
            continue
        ran = subprocess.run([candidate, "-c", _PROBE], capture_output=True, text=True, check=False)
        if ran.returncode == 0 and ran.stdout.endswith(" final\n"):
            major, minor, _ = ran.stdout.split()
            found.setdefault((int(major), int(minor)), candidate)
    return found
