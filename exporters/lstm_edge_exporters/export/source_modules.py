"""The Python modules whose functions ``forward`` may run: those of the layers' classes,
and those that these import.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import ModuleType
from typing import Any

from torch import nn

from .advice import is_library

Space = dict[str, Any]
"""The globals of a module."""


def source_spaces(module: nn.Module) -> list[Space]:
    """Return the globals of the modules with source code of ``module``, those of
    PyTorch, Python and this package aside.
    """
    layers = [*module.modules()]
    classes = {base for layer in layers for base in type(layer).__mro__}
    seen = {base.__module__ for base in classes}
    packages = {_package(name) for name in seen}
    spaces = [*_unregistered(classes)]
    for unregistered in spaces:
        seen.update(_imported(unregistered))
    for owner in (*classes, *layers):  # a method may be a function of another file
        seen.update(_imported(vars(owner)))
        for value in vars(owner).values():
            seen.update(_imported(_captured(value)))
    waiting = sorted(seen)
    while waiting:
        space = _space(waiting.pop())
        if space is None:
            continue
        spaces.append(space)
        imported = sorted(set(_imported(space)) - seen)
        seen.update(imported)
        waiting += [name for name in imported if _follows(name, packages)]
    return spaces


def _unregistered(classes: Iterable[type]) -> Iterator[Space]:
    """Yield the globals of classes whose module is run without being imported, as by
    ``runpy.run_path``.
    """
    known = list[Space]()
    for owner in classes:
        if owner.__module__ in sys.modules:
            continue
        for method in filter(inspect.isfunction, vars(owner).values()):
            space = method.__globals__
            if not any(space is other for other in known):
                known.append(space)
                yield space


def _space(name: str) -> Space | None:
    """Return the globals of an imported module; None for libraries."""
    if name not in sys.modules or name in sys.builtin_module_names:
        return None
    space = vars(sys.modules[name])
    return None if is_library(str(space.get("__file__"))) else space


def _imported(space: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the modules that a module's globals come from."""
    for value in list(space.values()):
        if isinstance(value, ModuleType):
            yield value.__name__
        else:
            origin = getattr(value, "__module__", None)
            if isinstance(origin, str):
                yield origin


def _captured(value: Any) -> Space:
    """Return the variables that a function takes from the one that defines it."""
    function = inspect.unwrap(value) if inspect.isfunction(value) else None
    return {} if function is None else dict(inspect.getclosurevars(function).nonlocals)


def _follows(name: str, packages: AbstractSet[str]) -> bool:
    """Return True if a module is the user's, of one of ``packages``, or an installed
    one that uses PyTorch.
    """
    space = _space(name)
    if space is None:
        return False
    installed = "-packages" in str(space.get("__file__"))
    uses_torch = any(_package(origin) == "torch" for origin in _imported(space))
    return not installed or uses_torch or _package(name) in packages


def _package(name: str) -> str:
    """Return the first part of a module's name."""
    return name.partition(".")[0]
