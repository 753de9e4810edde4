"""The files of the folder, from templates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from lstm_edge_runtime.manifest import Array

from ...versions import versions
from ..names import c_identifiers, c_string
from ._calls import GoldenCase
from ._interface import Interface, StepArray

__all__ = ["GENERATOR", "HARNESS", "paths", "render"]

GENERATOR = "emx-onnx-cgen"
"""The generator's distribution."""
HARNESS = "verify.c"
"""The program that verifies the rest; it is no part of what is written."""
_LICENSE = "LICENSE"


def render(
    interface: Interface,
    translated: tuple[str, bool],
    order: Sequence[str],
    golden: GoldenCase,
    facts: Mapping[str, Any],
) -> dict[str, str]:
    """Return the text of each file by its path in the folder.

    Args:
        interface: what the functions take and give.
        translated: the generated code, and whether it checks indices.
        order: the names of the graph's inputs and then outputs, as the generated function takes them.
        golden: the case of the self-test.
        facts: ``sha256`` of the file, ``constants`` in bytes.
    """
    name, manifest = interface.name, interface.manifest
    code, checked = translated
    environment = Environment(  # noqa: S701  C and Markdown; names go through names.py
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "array_literal": _array_literal,
        "float_literal": lambda value: f"{np.float32(value)!s}f",
        "string_literal": c_string,
    }
    inputs = [_view(port, "INPUTS", interface, alone=len(interface.inputs) == 1) for port in interface.inputs]
    outputs = [
        _view(port, "OUTPUTS", interface, alone=len(interface.outputs) == 1) for port in interface.outputs
    ]
    labels = manifest.task.labels if manifest.task else ()
    words = {
        ("labels", "The classes, in the order of the logits."): labels,
        ("units", "The unit of each value."): manifest.task.units if manifest.task else (),
        ("features", "What each column of a sample is."): manifest.signal.features,
    }
    context = {
        "name": name,
        "upper": name.upper(),
        "chunk": interface.chunk,
        "inputs": inputs,
        "outputs": outputs,
        "states": interface.states,
        "lengths": interface.lengths,
        "parameters": ", ".join(
            [f"const {port['c_type']} {port['symbol']}[{port['macro']}]" for port in inputs]
            + [f"{port['c_type']} {port['symbol']}[{port['macro']}]" for port in outputs]
        ),
        "references": ", ".join(
            [f"const {port['c_type']} (&{port['symbol']})[{port['macro']}]" for port in inputs]
            + [f"{port['c_type']} (&{port['symbol']})[{port['macro']}]" for port in outputs]
        ),
        "arguments": [*_arguments(interface, order), *(["wrong"] if checked else [])],
        "checked": checked,
        "labels": list(c_identifiers(labels)),
        "classes": interface.classes,
        "signal": manifest.signal,
        "reset_every": manifest.reset_every,
        "words": [({"name": what, "about": about}, texts) for (what, about), texts in words.items() if texts],
        "code": code,
        "golden": _golden(interface, golden),
        "versions": {**versions("lstm-edge"), GENERATOR: metadata.version(GENERATOR)},
        "sizes": {
            "constants": facts["constants"],
            "golden": sum(array.nbytes for array in (*golden.feeds.values(), *golden.outputs.values())),
            "state": sum(state.reset.nbytes for state in interface.states),
        },
        "sha256": facts["sha256"],
    }
    files = {
        path: environment.get_template(f"{template}.j2").render(context)
        for path, template in _templates(name).items()
    }
    return files | {_LICENSE: metadata.distribution(GENERATOR).read_text("licenses/LICENSE") or ""}


def paths(name: str) -> list[str]:
    """Return the path of each file that is written for a model called ``name``."""
    return [path for path in (*_templates(name), _LICENSE) if path != HARNESS]


def _templates(name: str) -> dict[str, str]:
    return {
        "README.md": "README.md",
        "CMakeLists.txt": "CMakeLists.txt",
        "library.properties": "library.properties",
        "library.json": "library.json",
        f"src/{name}.h": "library.h",
        f"src/{name}.hpp": "library.hpp",
        f"src/{name}.c": "library.c",
        f"src/{name}_selftest.c": "library_selftest.c",
        "examples/main.c": "main.c",
        f"examples/{name}_serial/{name}_serial.ino": "sketch.ino",
        HARNESS: "verify.c",
    }


def _view(port: StepArray, what: str, interface: Interface, *, alone: bool) -> dict[str, Any]:
    macro = f"{interface.name.upper()}_{what}"
    return {
        "symbol": port.symbol,
        "c_type": port.c_type,
        "size": port.size,
        "macro": macro if alone else f"{macro}_{port.symbol}",
        "shape_text": " x ".join(map(str, port.shape)) or "1",
        "scan": _scan(port),
    }


def _scan(port: StepArray) -> dict[str, str]:
    """Return the type to read a number as, and its conversion in ``scanf``."""
    if port.dtype == "bool":
        return {"type": "int", "format": '"d"'}
    if port.dtype.startswith("float"):
        return {"type": port.c_type, "format": '"f"' if port.dtype == "float32" else '"lf"'}
    kind = "u" if port.dtype.startswith("u") else "d"
    return {"type": port.c_type, "format": f"SCN{kind}{port.dtype.rpartition('int')[2]}"}


def _arguments(interface: Interface, order: Sequence[str]) -> list[str]:
    found = {}
    for port in interface.inputs:
        found[port.name] = _as_array(port, port.symbol, "const ")
    for port in interface.outputs:
        found[port.name] = _as_array(port, port.symbol)
    for state in interface.states:
        found[state.name] = _as_array(state, f"state->{state.symbol}", "const ")
        found[state.output] = _as_array(state, f"next.{state.symbol}")
    if interface.lengths is not None:
        found[interface.lengths.name] = interface.lengths.symbol
    return [found[name] for name in order]


def _as_array(port: StepArray, expression: str, qualifier: str = "") -> str:
    inner = "".join(f"[{size}]" for size in port.shape[1:])
    return f"({qualifier}{port.c_type} (*){inner}){expression}" if inner else expression


def _golden(interface: Interface, golden: GoldenCase) -> dict[str, Any]:
    arrays, checks = [], []

    def add(prefix: str, port: StepArray, array: Array) -> str:
        symbol = f"{prefix}_{port.symbol}"
        arrays.append(
            {
                "c_type": port.c_type,
                "symbol": symbol,
                "rows": len(array),
                "size": array.shape[1],
                "values": array,
            }
        )
        return symbol

    for port in (*interface.inputs, *interface.states):
        add("given" if port in interface.inputs else "start", port, golden.feeds[port.name])
    results = [(port, port.name, port.symbol) for port in interface.outputs]
    results += [(state, state.output, f"state.{state.symbol}") for state in interface.states]
    for port, name, got in results:
        limits = golden.limits[name][None].astype(np.float32)
        checks.append(
            {
                "c_type": port.c_type,
                "got": got,
                "expected": add("expected", port, golden.outputs[name]),
                "size": port.size,
                "limits": add("limits", replace(port, dtype="float32"), limits),
                "every_call": len(golden.outputs[name]) == golden.calls > 1,
            }
        )
    return {
        "calls": golden.calls,
        "origin": golden.origin,
        "arrays": arrays,
        "checks": checks,
        "types": sorted({check["c_type"] for check in checks}),
    }


def _array_literal(array: Array, indent: int) -> str:
    values = [_literal(value) for value in array.reshape(-1)]
    lines = [", ".join(values[start : start + 6]) for start in range(0, len(values), 6)]
    return ",\n".join(" " * indent + line for line in lines)


def _literal(value: Any) -> str:
    if value.dtype.kind == "b":
        return str(bool(value)).lower()
    if value.dtype.kind == "u":
        return f"{value}ULL"
    if value.dtype.kind == "i":
        return "(-9223372036854775807LL - 1)" if value == np.iinfo(np.int64).min else f"{value}LL"
    if np.isnan(value):
        return "NAN"
    if np.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    digits, _, exponent = float(value).hex().partition("p")
    mantissa = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{mantissa}p{exponent}{'f' if value.dtype == np.float32 else ''}"
