"""The reference of a file: its module exported again in memory, or another ONNX
file.
"""

import copy
import inspect
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest

from ..cast import widened
from ..export import export
from ..export.call import Call, own_copy, try_example, unwrapped
from ..export.config import ExportConfig
from ..export.pipeline import build
from ..lift import lift
from ..lift.config import LiftConfig
from ..verify.cases import CaseGenerator
from ..verify.file import ModelFile, open_file
from ..verify.float64 import Graph64
from ..verify.indices import cases_of


@dataclass(frozen=True)
class Expected:
    """The reference that a file is compared with."""

    about: str
    """Description for reports."""
    manifest: Manifest
    """The expected manifest."""
    exact: ir.Model
    """The graph that the file should hold, in float64."""
    proto: onnx.ModelProto
    """The same in float32."""
    reference: Runner
    """The function in float64: the module, or ``exact``."""
    is_module: bool
    """True if the reference is a module, False if it is ``exact`` itself."""
    cases: CaseGenerator
    """Draws inputs."""
    reach: int = 0
    """Steps that states of operators along time hold."""
    configured: bool = False
    """True if labels, units, ranges and the like are known, and not taken from the
    file."""
    sha256: str = ""
    """Of the checkpoint, if there is one."""
    hint: str = ""
    """Parts that the reference may lack if its graph is another one."""


def against_module(
    module: nn.Module,
    file: ModelFile,
    example: Any = None,
    *,
    config: ExportConfig | None = None,
    about: str = "",
    sha256: str = "",
) -> Expected:
    """Compare with ``module``, which is exported again in memory.

    Args:
        module: the trained network; copied, never changed.
        file: the file under test.
        example: what ``forward`` takes, as for ``export``; the file's golden inputs by
            default.
        config: what the module is exported with, if that is known: labels, units,
            features, rate, reset values and axes are then compared as well.
        about: what to call the module in the report.
        sha256: of the checkpoint that the module's weights come from; ``config``'s by
            default.

    Raises:
        InputError: the file's manifest contradicts its graph, or the example does not
            fit.
        UnsupportedError: the module can't be exported.
    """
    if file.model is None:
        raise InputError(f"{file.path} can't be compared: {file.broken}")
    module = unwrapped(module)
    example = _example(module, file) if example is None else example
    settings = config or _config_of(file, Call.of(module, example), module)
    title = about or type(module).__name__
    hashed = sha256 or settings.checkpoint_sha256 or ""
    if file.manifest.is_buffered:
        artifact = export(module, example, replace(settings, stream=True))
        proto = onnx.load_from_string(artifact.model)
        expected = _of_file(
            about=title,
            manifest=artifact.manifest,
            proto=proto,
            file=file.manifest,
            sha256=hashed,
        )
        return replace(expected, configured=config is not None)
    built = build(module, example, settings)
    return Expected(
        about=title,
        manifest=built.manifest,
        exact=built.exact,
        proto=built.file,
        reference=built.module64,
        is_module=True,
        cases=built.cases,
        reach=built.along_time.reach,
        configured=config is not None,
        sha256=hashed,
    )


def _of_file(
    about: str,
    manifest: Manifest,
    proto: onnx.ModelProto,
    *,
    file: Manifest | None,
    sha256: str = "",
) -> Expected:
    """Compare with a float file."""
    exact = widened(proto)
    graph = Graph64(exact)
    examples: dict[str, Array] = {}
    for side in (file, manifest):
        if side is not None and side.golden is not None:
            examples |= side.golden.inputs
    cases = cases_of(exact.graph, manifest, examples)
    return Expected(
        about=about,
        manifest=manifest,
        exact=exact,
        proto=proto,
        reference=graph,
        is_module=False,
        cases=cases,
        sha256=sha256,
    )


def against_file(path: str | os.PathLike[str], file: ModelFile) -> Expected:
    """Compare ``file`` with another float file that has a manifest, or with the original
    that it was lifted from.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
        InputError: it can be neither of these.
        UnsupportedError: it can't be evaluated in float64.
    """
    options = _lift_options(file)
    other = open_file(path)
    is_original = other.model is None and not other.has_manifest
    if is_original and options is None:
        raise InputError(
            f"{path} has no manifest, and {file.path} was not lifted from it; give a"
            " file that export, lift or quantize made, or the PyTorch module"
        )
    if is_original:
        return _against_original(path, file, LiftConfig.of_record(options))
    if other.model is None:
        raise InputError(f"{path} can't be a reference: {other.broken}")
    manifest = file.manifest if file.model is not None else None
    if other.precision == "int8":
        raise UnsupportedError(
            f"{path} is int8 and has no float64 run; compare with the float file or the"
            " PyTorch module that it was made from"
        )
    sha256 = str(other.manifest.provenance.get("checkpoint_sha256") or "")
    title = f"{other.path.name} (ONNX)"
    expected = _of_file(
        title, other.manifest, other.proto, file=manifest, sha256=sha256
    )
    return replace(expected, configured=True)


def _lift_options(file: ModelFile) -> Any:
    """Return the options that a lifted file records; None for any other file."""
    return None if file.model is None else file.manifest.provenance.get("lift")


def _against_original(
    path: str | os.PathLike[str], file: ModelFile, config: LiftConfig
) -> Expected:
    """Compare with another lift of the original, which that verifies."""
    lifted = lift(path, config)
    proto = onnx.load_from_string(lifted.model)
    title = f"{Path(path).name}, lifted again"
    expected = _of_file(title, lifted.manifest, proto, file=file.manifest)
    return replace(expected, configured=True)


def _config_of(file: ModelFile, call: Any, module: nn.Module) -> ExportConfig:
    """Return the names and fixed sizes that the file's graph has, to export the module
    with.
    """
    graph = file.graph_axes
    manifest = file.manifest
    inputs = {}
    for name in call.names:
        if name in graph and "?" not in graph[name]:
            inputs[name] = graph[name]
    has_all = len(inputs) == len(call.names)
    arguments = {}
    for state in manifest.states:
        if state.input in call.names:
            arguments[state.input] = state.output
    return ExportConfig(
        inputs=inputs if has_all else {},
        outputs=_returned(file, module, call),
        states=arguments or None,
        stateless=not manifest.states,
    )


def _returned(file: ModelFile, module: nn.Module, call: Any) -> tuple[str, ...]:
    """Return the name of each tensor that ``forward`` returns: the file's first outputs.

    A last state of a layer is named by ``export``, so its name is empty here.
    """
    copied = copy.deepcopy(own_copy(module))
    results = try_example(copied, call.as_floats(torch.float32))
    names = [output.name for output in file.proto.graph.output]
    if len(names) < len(results):
        return ()
    of_layers = {s.output for s in file.manifest.states if s.input not in call.names}
    return tuple("" if name in of_layers else name for name in names[: len(results)])


def _example(module: nn.Module, file: ModelFile) -> dict[str, Any]:
    """Return the example of an export: the file's golden inputs by default."""
    golden = file.manifest.golden.inputs if file.manifest.golden else {}
    in_order = [value.name for value in file.proto.graph.input]
    arrays = {name: golden[name] for name in in_order if name in golden}
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    paths = file.manifest.provenance.get("arguments") or {}
    example: dict[str, Any] = {}
    for name, array in arrays.items():
        first, *rest = paths.get(name, [name])
        if first in parameters or takes_any:
            level = example
            for key in rest:
                level = level.setdefault(first, {})
                first = key
            level[first] = torch.from_numpy(np.array(array))
    try:
        inspect.signature(module.forward).bind(**example)
    except TypeError as error:
        raise InputError(
            f"the golden inputs of {file.path} ({', '.join(arrays)}) do not fit"
            f" {type(module).__name__}.forward ({', '.join(parameters)}): {error}; give"
            " an example: validate(file, against_module(module, open_file(file),"
            " example))"
        ) from error
    return {name: _with_tuples(value) for name, value in example.items()}


def _with_tuples(value: Any) -> Any:
    """Return nested arguments with tuples for the dicts whose keys are indices."""
    if not isinstance(value, dict):
        return value
    items = {key: _with_tuples(item) for key, item in value.items()}
    is_tuple = all(isinstance(key, int) for key in items)
    return tuple(items[key] for key in sorted(items)) if is_tuple else items
