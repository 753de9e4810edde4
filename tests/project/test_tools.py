"""The scripts behind the make targets."""

import subprocess

import pytest


@pytest.mark.parametrize(
    ("fails_at", "advice"),
    [
        ("version_info", "make test PYTHON="),
        ("ensurepip", "apt-get install python3-venv"),
        ("", "ready"),
    ],
)
def test_make_says_in_one_line_what_the_python_it_was_given_lacks(
    root, tmp_path, fails_at, advice
):
    """A stand-in for an interpreter that can do everything, or everything but one
    thing."""
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
        [
            "make",
            "-s",
            "-C",
            root,
            str(stamp),
            f"PYTHON={python}",
            f"VENV={tmp_path}/venv",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if not fails_at:
        assert (ran.returncode, stamp.is_file(), ran.stderr) == (0, True, "")
        return
    errors = [line for line in ran.stderr.splitlines() if not line.startswith("make")]
    assert len(errors) == 1
    assert advice in errors[0]
    assert not stamp.exists()
