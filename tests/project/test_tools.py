"""The scripts behind the make targets."""

import subprocess

import pytest
from arm_root import ports_sources


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "deb http://de.archive.example.org/ubuntu noble main universe\n",
            "deb http://ports.example.org/ubuntu-ports/ noble main universe\n",
        ),
        (
            "deb [arch=amd64 trusted=yes] https://security.example.org/ubuntu/ noble-security main\n",
            "deb https://ports.example.org/ubuntu-ports/ noble-security main\n",
        ),
        (
            "Types: deb\nURIs: http://az.archive.example.org/ubuntu/\nArchitectures: amd64\nSuites: noble\n",
            "Types: deb\nURIs: http://ports.example.org/ubuntu-ports/\nSuites: noble\n",
        ),
        (
            "Types: deb\nURIs: http://deb.example.org/debian\nSuites: trixie\n",
            "Types: deb\nURIs: http://deb.example.org/debian\nSuites: trixie\n",
        ),
    ],
    ids=["list", "options", "deb822", "debian"],
)
def test_source_lists_for_amd64_are_pointed_at_the_archive_that_holds_arm64(before, after):
    assert ports_sources(before) == after


def test_a_source_list_that_names_a_file_of_mirrors_uses_its_first(tmp_path):
    mirrors = tmp_path / "mirrors.txt"
    mirrors.write_text("http://archive.example.org/ubuntu/\tpriority:1\nhttp://other.example.org/ubuntu/\n")
    assert ports_sources(f"URIs: mirror+file:{mirrors}\n") == "URIs: http://ports.example.org/ubuntu-ports/\n"


@pytest.mark.parametrize(
    ("fails_at", "advice"),
    [("version_info", "make test PYTHON="), ("ensurepip", "apt-get install python3-venv"), ("", "ready")],
)
def test_make_says_in_one_line_what_the_python_it_was_given_lacks(root, tmp_path, fails_at, advice):
    """A stand-in for an interpreter that can do everything, or everything but one thing."""
    python = tmp_path / "python"
    made = tmp_path / "venv" / "bin" / "python"
    makes = f'mkdir -p {made.parent}; printf "#!/bin/sh\\n" > {made}; chmod +x {made}'
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *{fails_at or "nothing"}*) exit 1;; esac\n'
        f'case "$*" in "-m venv"*) {makes};; esac\n'
    )
    python.chmod(0o755)
    stamp = tmp_path / "venv" / ".installed"
    ran = subprocess.run(
        ["make", "-s", "-C", root, str(stamp), f"PYTHON={python}", f"VENV={tmp_path}/venv"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not fails_at:
        assert (ran.returncode, stamp.is_file(), ran.stderr) == (0, True, "")
        return
    said = [line for line in ran.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1
    assert advice in said[0]
    assert not stamp.exists()
