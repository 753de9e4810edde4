"""Run tests on the built wheel in fresh environments, away from the source tree;
`nox --list` shows them.

uv resolves and installs. An interpreter that is not there is skipped with the reason;
in CI that is an error.
"""

import os
import platform
import shutil
import sys
from pathlib import Path

import nox

sys.path.insert(0, str(Path(__file__).parent / "tools"))
from arm_root import UnsupportedMachineError, arm_python, install_for_arm

ROOT = Path(__file__).parent
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
TEST_TOOLS = ("pytest", "pytest-xdist", "hypothesis")
LOWEST = "--resolution=lowest-direct"
EMULATED = (
    "TutorialLSTM1 or SentimentClassifier or ActorCritic or differs_is_not_given or"
    " chunks_equal_the_whole"
)
"""The exporter's tests that an emulator has time for."""

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["thin", "oldest", "export_oldest"]

# uv looks for interpreters on PATH; those of pyenv stand elsewhere.
_PYENV = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
_PYTHONS = os.pathsep.join(
    [*map(str, sorted(_PYENV.glob("3.*/bin"))), os.environ["PATH"]]
)
os.environ["PATH"] = _PYTHONS


def _wheels(session: nox.Session) -> list[str]:
    """Build the wheels of the runtime and of the rest, and return their paths."""
    folder = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    for source in (ROOT / "runtime", ROOT):
        session.run_install(
            "uv",
            "build",
            "-q",
            "--wheel",
            "-o",
            str(folder),
            str(source),
            external=True,
        )
    return [str(wheel) for wheel in folder.glob("*.whl")]


def _requirements(wheels: list[str]) -> list[str]:
    """Return the arguments of pip for the requirements of both distributions, the
    runtime from its wheel.
    """
    sources = [
        f"-r={ROOT / 'runtime' / 'pyproject.toml'}",
        f"-r={ROOT / 'pyproject.toml'}",
    ]
    return [f"--find-links={Path(wheels[0]).parent}", *sources]


def _tree(session: nox.Session) -> Path:
    """Copy everything but the packages, so that only the wheel's can be imported."""
    tree = Path(session.create_tmp()) / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for part in ("tests", "examples", "docs", "benchmarks", "tools"):
        shutil.copytree(
            ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def _test_runtime(session: nox.Session, *options: str) -> None:
    """Run the runtime's tests on its wheel and the native engine's, with what ``[cpu]``
    declares.
    """
    wheels = _wheels(session)
    session.install(*options, *_requirements(wheels), "--extra=cpu")
    session.install(*TEST_TOOLS)
    session.install("--no-deps", *wheels, str(ROOT / "native"))
    session.run("uv", "pip", "list", external=True)
    session.chdir(_tree(session))
    session.run(
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "-m",
        "not slow",
        "tests/runtime",
    )


@nox.session(python=RUNNING)
def thin(session: nox.Session) -> None:
    """Test the runtime without torch, on the running Python."""
    _test_runtime(session)


@nox.session(python="3.10")
def oldest(session: nox.Session) -> None:
    """Test the runtime on every lower bound of the base and of [cpu], on the oldest
    Python.
    """
    _test_runtime(session, LOWEST)


@nox.session(python=RUNNING)
def export_oldest(session: nox.Session) -> None:
    """Test the exporter on every lower bound of [export], torch and onnx among them, on
    aarch64.

    Old releases of torch for x86-64 need gigabytes of CUDA, those for aarch64 need
    none.
    """
    tests = [
        "tests/exporters/export/test_export.py",
        "tests/exporters/export/test_people.py",
    ]
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", EMULATED, *tests]
    wheels = _wheels(session)
    tree = _tree(session)
    requirements = [LOWEST, *_requirements(wheels), "--extra=cpu", "--extra=export"]
    if platform.machine() == "aarch64":
        session.install(*requirements)
        session.install(*TEST_TOOLS)
        session.install("--no-deps", *wheels)
        session.chdir(tree)
        session.run("python", *pytest)
        return
    site = Path(session.create_tmp()).resolve() / "site"
    shutil.rmtree(site, ignore_errors=True)
    environment = {
        "QEMU_CPU": "neoverse-n1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    try:
        with arm_python([site]) as python:
            install_for_arm(python, site, requirements)
            install_for_arm(python, site, ["--no-deps", *wheels])
            session.chdir(tree)
            session.run(str(python), *pytest, env=environment, external=True)
    except UnsupportedMachineError as reason:
        session.skip(str(reason))
