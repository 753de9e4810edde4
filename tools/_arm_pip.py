"""Install wheels for aarch64 into a folder, from a machine of any kind."""

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["install_for_arm"]

_PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (28, 27, 17))


def install_for_arm(
    site: Path, requirements: Iterable[str | Path], *, python: str, alone: Iterable[str | Path] = ()
) -> None:
    """Install wheels and what they need.

    Args:
        site: The folder.
        requirements: What pip takes.
        python: The Python they are for, as "3.13".
        alone: Requirements that need different packages on different machines. pip judges that for the
            machine it runs on, so these come alone first, and what they need on aarch64 is read from them.
    """
    pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", "--no-compile"]
    pip += [f"--target={site}", "--implementation=cp", f"--python-version={python}"]
    pip += [f"--platform={name}" for name in _PLATFORMS]
    needed: list[str | Path] = list(requirements)
    if alone:
        subprocess.run([*pip, "--no-deps", *alone], check=True)
        machine = {"platform_machine": "aarch64", "python_version": python, "extra": ""}
        for text in [text for each in distributions(path=[str(site)]) for text in each.requires or ()]:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(machine):
                requirement.marker = None
                needed.append(str(requirement))
    subprocess.run([*pip, *needed], check=True)
