"""What the layout promises: one-way imports, no cycles, private parts, light imports,
few public names."""

import importlib
import json
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest

HEAVY = [
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "safetensors",
    "jinja2",
    "matplotlib",
]
NOT_IN_RUNTIME = [*HEAVY, "click", "rich"]


def _target(name: str, modules) -> str | None:
    """The module of ours that an imported dotted name lives in, if any."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or None


def test_a_package_imports_only_those_below_it(modules, packages):
    wrong = [
        f"{module.name} imports {imported}"
        for module in modules.values()
        for imported in sorted(module.imports)
        if (top := imported.split(".")[0]) in packages
        and packages.index(top) > packages.index(module.package)
    ]
    assert not wrong


def test_the_runtime_imports_numpy_onnxruntime_and_the_standard_library_only(modules):
    allowed = {
        *sys.stdlib_module_names,
        "numpy",
        "onnxruntime",
        "lstm_edge_native",
        "lstm_edge_runtime",
    }
    wrong = [
        f"{module.name} imports {imported}"
        for module in modules.values()
        if module.package == "lstm_edge_runtime"
        for imported in sorted(module.imports)
        if imported.split(".")[0] not in allowed
    ]
    assert not wrong


def test_no_module_imports_itself_by_any_path(modules):
    graph = {
        module.name: {
            target for name in module.imports if (target := _target(name, modules))
        }
        for module in modules.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


FOLDERS = ["verify", "streaming", "export", "lift", "targets", "quantize", "validate"]
"""Folders of the exporters from the bottom up; modules next to them are below all."""
ABOVE = "source"
"""The module that is above all folders: it loads what they are given."""


def _exporters_folder(name: str) -> str:
    """The folder of the exporters that a dotted name is in, or ``ABOVE``; empty for
    none."""
    parts = [*name.split("."), ""]
    has_level = parts[0] == "lstm_edge_exporters" and parts[1] in (*FOLDERS, ABOVE)
    return parts[1] if has_level else ""


def test_a_folder_of_the_exporters_imports_only_those_below_it(modules):
    level = {"": -1} | {name: index for index, name in enumerate([*FOLDERS, ABOVE])}
    siblings = {("lift", "export")}
    wrong = []
    for module in modules.values():
        if module.package != "lstm_edge_exporters" or module.name.count(".") == 0:
            continue
        folder = _exporters_folder(module.name)
        for imported in sorted(module.imports):
            target = _exporters_folder(imported)
            if level[target] > level[folder] or (folder, target) in siblings:
                wrong.append(f"{module.name} imports {imported}")
    assert wrong == []


def test_the_list_of_folders_is_complete(root):
    package = root / "exporters" / "lstm_edge_exporters"
    folders = [path.parent.name for path in package.glob("*/__init__.py")]
    assert sorted(folders) == sorted(FOLDERS)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _folder(module) -> str:
    """The package that a module's file stands in."""
    return module.name if module.is_init else module.name.rpartition(".")[0]


def test_private_modules_stay_in_their_folder_and_private_names_in_their_file(modules):
    wrong = []
    for module in modules.values():
        for imported in sorted(module.imports):
            target = _target(imported, modules)
            if target is None:
                continue
            parts = target.split(".")
            private = [index for index, part in enumerate(parts) if _is_private(part)]
            outside = private and not f"{_folder(module)}.".startswith(
                ".".join(parts[: private[0]]) + "."
            )
            names = imported[len(target) + 1 :]
            if outside or (_is_private(names) and target != module.name):
                wrong.append(f"{module.name} imports {imported}")
    assert wrong == []


def test_the_containers_hold_no_package_of_their_own(root):
    for container in ("exporters", "runtime"):
        folders = [path for path in (root / container).iterdir() if path.is_dir()]
        assert [path.name for path in folders if path.name != "__pycache__"] == [
            f"lstm_edge_{container}"
        ]
        assert not list((root / container).glob("*.py"))


@pytest.mark.parametrize(
    ("name", "most"),
    [("lstm_edge_runtime", 8), ("lstm_edge_exporters", 9), ("lstm_edge", 9)],
)
def test_a_package_offers_few_names_and_each_is_there(name, most, modules):
    """Four verbs of the exporters have a configuration each, and one result."""
    package = importlib.import_module(name)
    declared = package.__all__
    assert [item for item in declared if not hasattr(package, item)] == []
    assert len([item for item in declared if item != "__version__"]) <= most
    visible = {item for item in vars(package) if not item.startswith("_")} - set(
        declared
    )
    assert {item for item in visible if f"{name}.{item}" not in modules} == set()


def _import_without(blocked: list[str], names: list[str]) -> dict[str, str]:
    """Import each name in a fresh isolated process where the blocked ones can't be;
    gives what failed."""
    program = (
        "import importlib, json, sys\n"
        "blocked, names = json.loads(sys.argv[1])\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "failed = {}\n"
        "for name in names:\n"
        "    try: importlib.import_module(name)\n"
        "    except BaseException as error: failed[name] = repr(error)\n"
        "print(json.dumps(failed))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program, json.dumps([blocked, names])],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout)


def test_every_runtime_module_imports_with_nothing_but_numpy_and_onnxruntime(modules):
    names = [name for name in modules if name.split(".")[0] == "lstm_edge_runtime"]
    assert _import_without(NOT_IN_RUNTIME, names) == {}


def test_the_application_and_every_verb_import_without_the_export_extra(modules):
    verbs = [
        name
        for name in modules
        if name.startswith("lstm_edge.cli.") and "._" not in name
    ]
    assert _import_without(HEAVY, ["lstm_edge", "lstm_edge.cli", *verbs]) == {}


def test_the_runtime_and_the_command_line_import_before_onnxruntime_is_installed():
    assert (
        _import_without([*HEAVY, "onnxruntime"], ["lstm_edge_runtime", "lstm_edge.cli"])
        == {}
    )
