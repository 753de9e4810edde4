"""The files of the folder, from templates."""

from dataclasses import replace
from importlib import metadata
from importlib.resources import files
from typing import Any

import numpy as np

from lstm_edge_runtime.manifest import Array

from ...versions import versions
from ..names import c_identifiers, c_string, text_templates
from ._calls import GoldenCase
from ._generate import Step
from ._interface import Interface, StateArray, StepArray
from ._literals import array_literal
from ._verify import Sizes

HARNESS = "verify.c"
"""The program that verifies the rest; it is no part of what is written."""
_LICENSE = "LICENSE"


def render(
    interface: Interface, step: Step, golden: GoldenCase, sha256: str, sizes: Sizes | None = None
) -> dict[str, str]:
    """Return the text of each file by its path in the folder.

    Args:
        interface: what the functions take and give.
        step: the generated code of one call.
        golden: the case of the self-test.
        sha256: of the ONNX file.
        sizes: what the network takes; None while that is not measured, else only the files that state it are
            returned.
    """
    name, manifest = interface.name, interface.manifest
    environment = text_templates(__package__)
    environment.filters |= {
        "array_literal": array_literal,
        "float_literal": lambda value: f"{np.float32(value)!s}f",
        "string_literal": c_string,
    }
    inputs, outputs = _views(interface, "INPUTS"), _views(interface, "OUTPUTS")
    labels, units = (manifest.task.labels, manifest.task.units) if manifest.task else ((), ())
    ports = [*(("const ", port) for port in inputs), *(("", port) for port in outputs)]
    words = {
        ("labels", "The classes, in the order of the logits."): labels,
        ("units", "The unit of each value."): units,
        ("features", "What each column of a sample is."): manifest.signal.features,
    }
    context = {
        "name": name,
        "upper": name.upper(),
        "chunk": interface.chunk,
        "runs": interface.runs,
        "inputs": inputs,
        "outputs": outputs,
        "states": interface.states,
        "symbols": ", ".join(port["symbol"] for port in (*inputs, *outputs)),
        "step": step,
        "sizes": sizes,
        "parameters": ", ".join(
            f"{const}{port['c_type']} {port['symbol']}[{port['macro']}]" for const, port in ports
        ),
        "references": ", ".join(
            f"{const}{port['c_type']} (&{port['symbol']})[{port['macro']}]" for const, port in ports
        ),
        "labels": list(c_identifiers(labels)),
        "classes": interface.classes,
        "signal": manifest.signal,
        "reset_every": manifest.reset_every,
        "words": [({"name": what, "about": about}, texts) for (what, about), texts in words.items() if texts],
        "golden": _golden(interface, golden),
        "golden_bytes": sum(array.nbytes for array in (*golden.feeds.values(), *golden.outputs.values())),
        "version": versions("lstm-edge")["lstm-edge"],
        "sha256": sha256,
    }
    stating = ("README.md", f"src/{name}.h")
    templates = {
        path: template
        for path, template in _templates(name).items()
        if (path in stating if sizes is not None else path != "README.md")
    }
    rendered = {
        path: environment.get_template(template).render(context) for path, template in templates.items()
    }
    if sizes is not None:
        return rendered
    kernels = (files(__package__) / "templates" / "kernels.h").read_text(encoding="utf-8")
    license_text = metadata.distribution("lstm-edge").read_text("licenses/LICENSE") or ""
    return {**rendered, _kernels(name): kernels, _LICENSE: license_text}


def paths(name: str) -> list[str]:
    """Return the path of each file that is written for a model called ``name``."""
    return [path for path in (*_templates(name), _kernels(name), _LICENSE) if path != HARNESS]


def _kernels(name: str) -> str:
    return f"src/{name}_kernels.h"


def _templates(name: str) -> dict[str, str]:
    return {
        "README.md": "README.md.j2",
        "CMakeLists.txt": "CMakeLists.txt.j2",
        "idf_component.yml": "idf_component.yml.j2",
        "library.properties": "library.properties.j2",
        "library.json": "library.json.j2",
        "zephyr/module.yml": "module.yml.j2",
        "zephyr/CMakeLists.txt": "zephyr.txt.j2",
        f"src/{name}.h": "library.h.j2",
        f"src/{name}.hpp": "library.hpp.j2",
        f"src/{name}.c": "library.c.j2",
        f"src/{name}_selftest.c": "library_selftest.c.j2",
        "examples/main.c": "main.c.j2",
        f"examples/{name}_serial/{name}_serial.ino": "sketch.ino.j2",
        HARNESS: "verify.c.j2",
    }


def _views(interface: Interface, what: str) -> list[dict[str, Any]]:
    """Return what the templates say of the ``INPUTS`` or ``OUTPUTS``."""
    upper, ports = interface.name.upper(), interface.inputs if what == "INPUTS" else interface.outputs
    return [
        {
            "symbol": port.symbol,
            "c_type": port.c_type,
            "size": port.size,
            "macro": f"{upper}_{what}{own}",
            "shape_text": " x ".join(map(str, port.shape)) or "1",
            "scan": _scan(port),
            "delay": interface.manifest.delays.get(port.name, 0) if what == "OUTPUTS" else 0,
            "delay_macro": f"{upper}_DELAY{own}",
            "framed": port.time_axis is not None,
        }
        for port in ports
        for own in ["" if len(ports) == 1 else f"_{port.symbol}"]
    ]


def _scan(port: StepArray) -> dict[str, str]:
    """Return the type to read a number as, and its conversion in ``scanf``."""
    if port.dtype == "bool":
        return {"type": "int", "format": '"d"'}
    if port.dtype.startswith("float"):
        return {"type": port.c_type, "format": '"f"' if port.dtype == "float32" else '"lf"'}
    kind = "u" if port.dtype.startswith("u") else "d"
    return {"type": port.c_type, "format": f"SCN{kind}{port.dtype.rpartition('int')[2]}"}


def _golden(interface: Interface, golden: GoldenCase) -> dict[str, Any]:
    arrays, checks = [], []

    def add(prefix: str, port: StepArray, array: Array) -> str:
        symbol = f"{prefix}_{port.symbol}"
        rows, size = array.shape
        arrays.append({"c_type": port.c_type, "symbol": symbol, "rows": rows, "size": size, "values": array})
        return symbol

    for port in interface.inputs:
        add("given", port, golden.feeds[port.name])
    for state in interface.states:
        add("start", state, state.to_c(golden.feeds[state.name]))
    results = [(port, port.name, port.symbol) for port in interface.outputs]
    results += [(state, state.output, f"state.{state.symbol}") for state in interface.states]
    for port, name, got in results:
        if name not in golden.outputs:
            continue
        expected, limits = golden.outputs[name], golden.limits[name][None].astype(np.float32)
        if isinstance(port, StateArray):
            steps = golden.calls * interface.chunk
            expected, limits = port.to_c(expected, steps), port.to_c(limits)  # the place differs by 0
        if (limits == limits[0, 0]).all():
            limits = limits[:, :1]
        checks.append(
            {
                "c_type": port.c_type,
                "got": got,
                "expected": add("expected", port, expected),
                "size": port.size,
                "limits": add("limits", replace(port, dtype="float32"), limits),
                "many": int(limits.shape[1] > 1),
                "every_call": len(golden.outputs[name]) == golden.calls > 1,
                "first": 0 if isinstance(port, StateArray) else -(-interface.early(port) // interface.runs),
            }
        )
    return {
        "calls": golden.calls,
        "from_reset": interface.manifest.stream is not None,
        "origin": golden.origin,
        "arrays": arrays,
        "checks": checks,
        "types": sorted({check["c_type"] for check in checks}),
    }
