"""A release: its files agree on the version, and its workflow's steps run here."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import dist
import pytest
from ruamel.yaml import YAML

from lstm_edge_runtime import __version__

RELEASE = ".github/workflows/release.yml"


def _steps(root: Path, job: str) -> list[dict]:
    return YAML(typ="safe").load(root / RELEASE)["jobs"][job]["steps"]


def test_the_version_is_the_same_everywhere(root):
    citation = YAML(typ="safe").load(root / "CITATION.cff")
    native = re.search(
        r'LSTM_EDGE_VERSION "(.+)"', (root / "native/include/lstm_edge.h").read_text()
    )[1]
    web = json.loads((root / "web/package.json").read_text())["version"]
    heading = re.search(
        r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE
    )[1]
    assert {citation["version"], dist.version(), native, web} == {__version__}
    assert heading.startswith(
        (f"[{__version__}] - ", f"[Unreleased]: first release ({__version__})")
    )


@pytest.mark.parametrize(
    ("tag", "changelog", "wrong"),
    [
        (f"v{__version__}", f"# Changelog\n\n## [{__version__}] - 2026-11-25\n", ""),
        ("v9.9.9", f"## [{__version__}] - 2026-11-25\n", "the tag is v9.9.9"),
        (
            f"v{__version__}",
            "## [0.0.9] - 2026-11-25\n",
            "expected '## [" + __version__,
        ),
        (
            f"v{__version__}",
            "## [Unreleased]: first release\n",
            "begins with '## [Unreleased]",
        ),
    ],
)
def test_a_tag_is_released_only_where_version_and_changelog_agree(
    tag, changelog, wrong
):
    assert (
        (wrong in dist.check(tag, changelog))
        if wrong
        else (dist.check(tag, changelog) == "")
    )


def test_each_project_is_published_with_its_own_files(root, tmp_path):
    """The step that sorts files runs on names as ``make dist`` gives them."""
    (sort,) = [step["run"] for step in _steps(root, "publish") if "run" in step]
    names = [
        "lstm_edge-0.1.0-py3-none-any.whl",
        "lstm_edge-0.1.0.tar.gz",
        "lstm_edge_runtime-0.1.0-py3-none-any.whl",
        "lstm_edge_native-0.1.0-py3-none-manylinux2014_aarch64.manylinux_2_17_aarch64.whl",
    ]
    workflow = YAML(typ="safe").load(root / RELEASE)["jobs"]["publish"]
    for package in workflow["strategy"]["matrix"]["package"]:
        folder = tmp_path / package
        (folder / "all").mkdir(parents=True)
        for name in names:
            (folder / "all" / name).touch()
        subprocess.run(
            ["bash", "-c", sort],
            cwd=folder,
            env={**os.environ, "PACKAGE": package},
            check=True,
        )
        assert {path.name for path in (folder / "dist").iterdir()} == {
            name for name in names if name.startswith(package)
        }


def test_only_the_steps_that_need_it_may_write_and_publishing_has_no_token(root):
    workflow = YAML(typ="safe").load(root / RELEASE)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (root / RELEASE).read_text()
    assert any(
        "attest-build-provenance" in step.get("uses", "")
        for step in _steps(root, "build")
    )


@pytest.mark.system
def test_the_native_engine_has_an_sdist_that_builds(root, tmp_path, find_program):
    """For systems without a wheel: macOS, Windows, armv7, riscv64."""
    find_program("cc")
    find_program("cmake")
    pytest.importorskip("scikit_build_core")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path]
    subprocess.run(
        [*build, "--sdist", root / "native"], check=True, capture_output=True
    )
    (sdist,) = tmp_path.glob("lstm_edge_native-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    subprocess.run([*build, "--wheel", source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith((".so", ".dylib")) for name in names)


@pytest.mark.slow
def test_make_dist_builds_all_and_tries_it(root, tmp_path):
    tree = tmp_path / "tree"
    hidden = shutil.ignore_patterns(
        ".*", "__pycache__", "node_modules", "build", "demo-out", "dist", "runs"
    )
    shutil.copytree(root, tree, ignore=hidden)
    ran = subprocess.run(
        [sys.executable, "tools/dist.py"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    names = [path.name for path in (tree / "dist").iterdir()]
    assert f"lstm_edge-{__version__}.tar.gz" in names
    assert f"lstm_edge-{__version__}-py3-none-any.whl" in names
    assert f"lstm_edge_native-{__version__}.tar.gz" in names
    for machine in ("x86_64", "aarch64"):
        if not shutil.which(f"{machine}-linux-gnu-gcc"):
            continue
        (name,) = [name for name in names if name.endswith(f"{machine}.whl")]
        assert name.startswith("lstm_edge_native-")
        assert "manylinux2014" in name
        assert any(
            part.endswith(".so")
            for part in zipfile.ZipFile(tree / "dist" / name).namelist()
        )
