"""The GitHub action, workflows and forms: GitHub can read them, and the scripts do what
the action says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ruamel.yaml import YAML

RELEASE = ".github/workflows/release.yml"
WORKFLOWS = [".github/workflows/ci.yml", "examples/ci/workflow.yml"]


def _read(path: Path) -> dict:
    return YAML(typ="safe").load(path)


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-actions", "action.yml"),
        *[("vendor.github-workflows", file) for file in (*WORKFLOWS, RELEASE)],
        *[
            ("vendor.github-issue-forms", f".github/ISSUE_TEMPLATE/{form}.yml")
            for form in ("bug", "idea")
        ],
        ("vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_a_file_keeps_to_its_schema(root, schema, file):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        schema,
        root / file,
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("file", WORKFLOWS)
def test_the_workflows_give_the_action_inputs_that_it_has(root, file):
    action = _read(root / "action.yml")
    steps = [
        step for job in _read(root / file)["jobs"].values() for step in job["steps"]
    ]
    ours = [
        step
        for step in steps
        if step.get("uses") == "./" or "/lstm-edge@" in step.get("uses", "")
    ]
    assert ours
    for step in ours:
        required = {
            name for name, spec in action["inputs"].items() if spec.get("required")
        }
        assert required <= set(step["with"]) <= set(action["inputs"])


def test_the_ci_workflow_calls_targets_that_the_makefile_has(root):
    makefile = (root / "Makefile").read_text()
    runs = [
        step["run"]
        for job in _read(root / ".github/workflows/ci.yml")["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    targets = {
        word
        for line in runs
        if line.startswith("make ")
        for word in line.split()
        if word != "make" and "=" not in word
    }
    assert {"test", "test-arm", "test-thin", "test-oldest"} <= targets
    assert [target for target in targets if f"\n{target}: " not in makefile] == []


def test_no_script_of_the_action_holds_an_expression(root):
    """An input that is pasted into a script is run as a script; here all go through the
    environment."""
    scripts = [
        step["run"]
        for step in _read(root / "action.yml")["runs"]["steps"]
        if "run" in step
    ]
    assert scripts
    assert [script for script in scripts if "${{" in script] == []


def test_the_action_installs_from_its_own_checkout(root, tmp_path):
    """The runtime of the same checkout, and not one from an index."""
    (step,) = [
        step
        for step in _read(root / "action.yml")["runs"]["steps"]
        if "pip install" in step.get("run", "")
    ]
    report = tmp_path / "report.json"
    options = "--dry-run --no-index --no-build-isolation --ignore-installed --no-deps"
    ran = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": os.pathsep.join(
                [str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "ACTION_PATH": str(root),
            "REQUIREMENT": "",
            "PIP_ARGS": f"{options} --report {report}",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    installed = json.loads(report.read_text())["install"]
    names = {item["metadata"]["name"] for item in installed}
    assert names == {"lstm-edge", "lstm-edge-runtime"}


def _run_action(root: Path, folder: Path, **inputs: str) -> int:
    """Run the action's own scripts in a folder, in their order, but for the one that
    installs."""
    action = _read(root / "action.yml")
    values = {
        name: spec.get("default", "") for name, spec in action["inputs"].items()
    } | inputs
    for step in action["runs"]["steps"]:
        wanted = {"": True, "inputs.export == 'true'": values["export"] == "true"}
        if (
            "run" not in step
            or "pip install" in step["run"]
            or not wanted[step.get("if", "")]
        ):
            continue
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        ran = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder,
            env={
                **os.environ,
                "PATH": path,
                **{key: _fill(text, values) for key, text in step["env"].items()},
            },
            check=False,
        )
        if ran.returncode:
            return ran.returncode
    return 0


def _fill(text: str, values: dict[str, str]) -> str:
    filled = re.sub(r"\${{ inputs\.([\w-]+) }}", lambda match: values[match[1]], text)
    assert "${{" not in filled
    return filled


@pytest.mark.slow
def test_the_action_exports_proves_and_reports_and_fails_on_another_network(
    root, tmp_path
):
    workflow = _read(root / ".github/workflows/ci.yml")
    (given,) = [
        step["with"]
        for job in workflow["jobs"].values()
        for step in job["steps"]
        if step.get("uses") == "./"
    ]
    (tmp_path / "examples").symlink_to(root / "examples")
    assert _run_action(root, tmp_path, **given) == 0
    suite = ET.parse(tmp_path / "lstm-edge-report" / "junit.xml").getroot()
    assert len(list(suite.iter("testcase"))) > 0
    assert list(suite.iter("failure")) == []
    assert (tmp_path / "lstm-edge-report" / "report.html").stat().st_size > 0

    (tmp_path / "other.py").write_text(
        "from examples.ci.network import build\n"
        "def changed():\n"
        "    module = build()\n"
        "    module.gru.bias_hh_l1.data[3] += 1e-3\n"
        "    return module\n"
    )
    again = given | {"network": "other:changed", "export": "false"}
    assert _run_action(root, tmp_path, **again) == 1
    suite = ET.parse(tmp_path / "lstm-edge-report" / "junit.xml").getroot()
    assert len(list(suite.iter("failure"))) > 0
