"""What the layout promises: one-way imports, no cycles, private parts, light imports, honest ``__all__``."""

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

HEAVY = ["torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "jinja2", "matplotlib"]
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
    allowed = {*sys.stdlib_module_names, "numpy", "onnxruntime", "lstm_edge_native", "lstm_edge_runtime"}
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
        module.name: {target for name in module.imports if (target := _target(name, modules))}
        for module in modules.values()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(error.args[1]))


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
            private = [place for place, part in enumerate(parts) if _is_private(part)]
            outside = private and not f"{_folder(module)}.".startswith(".".join(parts[: private[0]]) + ".")
            names = imported[len(target) + 1 :]
            if outside or (_is_private(names) and target != module.name):
                wrong.append(f"{module.name} imports {imported}")
    assert wrong == []


def test_the_containers_hold_no_package_of_their_own(root):
    for container in ("exporters", "runtime"):
        assert sorted(path.name for path in (root / container).glob("*") if path.name != "__pycache__") == [
            f"lstm_edge_{container}"
        ]


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a top-level statement defines; imports are not definitions."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.If | ast.Try) and "__main__" not in ast.unparse(statement):
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                yield from _defined(child)


def _names_a_type(statement: ast.stmt) -> bool:
    """Whether this is ``Array = npt.NDArray[Any]`` or the like, which a module may keep for its own use."""
    return isinstance(statement, ast.Assign) and all(
        name[0].isupper() and not name.isupper() for name in _defined(statement)
    )


def _declared(module) -> list[str] | None:
    for statement in module.tree.body:
        if "__all__" in _defined(statement) and statement.value is not None:
            return [ast.literal_eval(item) for item in statement.value.elts]
    return None


def test_all_lists_exactly_the_public_names_of_every_module(modules):
    wrong = {}
    for module in modules.values():
        defined = [
            (name, _names_a_type(statement))
            for statement in module.tree.body
            for name in _defined(statement)
            if not name.startswith("_")
        ]
        public = {name for name, _ in defined}
        declared = set(_declared(module) or ())
        if module.is_init:  # a package also offers what its modules define
            declared &= public
        if not {name for name, is_type in defined if not is_type} <= declared <= public:
            wrong[module.name] = f"public {sorted(public)}, __all__ {sorted(declared)}"
    assert not wrong, "\n".join(f"{name}: {what}" for name, what in wrong.items())


@pytest.mark.parametrize("name", ["lstm_edge_runtime", "lstm_edge_exporters", "lstm_edge"])
def test_a_package_offers_at_most_eight_names_and_each_is_there(name, modules):
    declared = _declared(modules[name])
    package = importlib.import_module(name)
    assert [item for item in declared if not hasattr(package, item)] == []
    assert len([item for item in declared if item != "__version__"]) <= 8
    visible = {item for item in vars(package) if not item.startswith("_")} - set(declared)
    assert {item for item in visible if f"{name}.{item}" not in modules} == set()


def _import_without(blocked: list[str], names: list[str]) -> dict[str, str]:
    """Import each name in a fresh isolated process where the blocked ones can't be; gives what failed."""
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
    verbs = [name for name in modules if name.startswith("lstm_edge.cli.") and "._" not in name]
    assert _import_without(HEAVY, ["lstm_edge", "lstm_edge.cli", *verbs]) == {}


def test_the_runtime_and_the_command_line_import_before_onnxruntime_is_installed():
    assert _import_without([*HEAVY, "onnxruntime"], ["lstm_edge_runtime", "lstm_edge.cli"]) == {}
