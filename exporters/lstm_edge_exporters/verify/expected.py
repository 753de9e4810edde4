"""What a file must be: its module exported again in memory, or another ONNX file."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import KEY, Array, Axes, Manifest, TensorSpec

from ..export.cast import widened
from ..onnx_reader import ValueInfo
from .cases import CaseGenerator, Feeds
from .file import ModelFile, open_file
from .float64 import Graph64, constants_of
from .indices import index_values

if TYPE_CHECKING:
    from torch import nn

    from ..export.config import ExportConfig


@dataclass(frozen=True)
class Expected:
    """What a file is compared with."""

    about: str
    """What it is, in words."""
    manifest: Manifest
    """What the file's manifest should say."""
    exact: ir.Model
    """The graph that the file should hold, in float64."""
    proto: onnx.ModelProto
    """The same in float32."""
    reference: Runner
    """What is right, in float64: the module, or ``exact``."""
    cases: CaseGenerator
    """Draws inputs."""
    reach: int = 0
    """Steps that states of operators along time hold."""
    configured: bool = False
    """True if labels, units, ranges and the like are known, and not taken from the file."""
    same_graph: bool = True
    """True if the file should hold this graph, with the same constants."""
    sha256: str = ""
    """Of the checkpoint, if there is one."""

    @property
    def constants(self) -> dict[str, Array]:
        """Every float constant that data meet, in float64."""
        return dict(constants_of(self.exact))


def against_module(
    module: "nn.Module",
    file: ModelFile,
    example: Any = None,
    *,
    config: "ExportConfig | None" = None,
    about: str = "",
    sha256: str = "",
) -> Expected:
    """Compare with ``module``, which is exported again in memory.

    Args:
        module: the trained network; copied, never changed.
        file: the file under test.
        example: what ``forward`` takes, as for ``export``; the file's golden inputs by default.
        config: what the module is exported with, if that is known: labels, units, features, rate, reset
            values and axes are then compared as well.
        about: what to call the module in the report.
        sha256: of the checkpoint that the module's weights come from; ``config``'s by default.

    Raises:
        InputError: the file's manifest contradicts its graph, or the example does not fit.
        UnsupportedError: the module can't be exported.
    """
    from ..export.call import Call
    from ..export.pipeline import build

    if file.model is None:
        raise InputError(f"{file.path} can't be compared: {file.broken}")
    example = _example(module, file) if example is None else example
    own = config or _config_of(file, Call.of(module, example), module)
    if file.manifest.is_buffered:
        return _streamed(module, example, file, replace(own, stream=True), about, sha256)
    built = build(module, example, own)
    return Expected(
        about or type(module).__name__,
        built.manifest,
        built.exact,
        built.file,
        built.module,
        built.cases,
        built.past.reach,
        config is not None,
        sha256=sha256 or own.checkpoint_sha256 or "",
    )


def _streamed(
    module: "nn.Module", example: Any, file: ModelFile, config: "ExportConfig", about: str, sha256: str
) -> Expected:
    """Compare with the file that streams ``module``, which is verified on the way."""
    from ..export import export

    made = export(module, example, config)
    proto = onnx.load_from_string(made.model)
    exact = widened(proto)
    examples = dict(file.manifest.golden.inputs) if file.manifest.golden else {}
    return Expected(
        about or type(module).__name__,
        made.manifest,
        exact,
        proto,
        Graph64(exact),
        CaseGenerator.of(made.manifest, examples, index_values(exact.graph)),
        sha256=sha256 or config.checkpoint_sha256 or "",
    )


def against_file(path: str | os.PathLike[str], file: ModelFile | None = None) -> Expected:
    """Compare ``file`` with another ONNX file.

    An original without states, as that of a lifted file, tells what is right from the reset states alone.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
        InputError: its manifest contradicts its graph.
        UnsupportedError: it can't be evaluated in float64.
    """
    other = open_file(path)
    if file is not None and file.model is not None and KEY not in other.content.metadata:
        other = replace(other, given=_interface_like(other, file.manifest))
    if other.model is None and other.given is None:
        raise InputError(f"{path} can't be a reference: {other.broken}")
    if other.precision == "int8":
        raise UnsupportedError(
            f"{path} is int8 and has no float64 run; compare with the float file or the PyTorch module that "
            "it was made from"
        )
    exact, manifest = widened(other.proto), other.manifest
    graph = Graph64(exact)
    examples = dict(manifest.golden.inputs) if manifest.golden else {}
    lifted = file is not None and file.model is not None and file.manifest.states and not manifest.states
    reference: Runner = graph
    if lifted and file is not None:
        reference, manifest = _AtReset(graph, file.manifest), _with_states(file.manifest, manifest)
    if file is not None and file.model is not None and file.manifest.golden:
        examples = {**file.manifest.golden.inputs, **examples}
    values = index_values(exact.graph)
    cases = CaseGenerator.of(manifest, examples, values)
    return Expected(
        f"{other.path.name} (ONNX)",
        manifest,
        exact,
        other.proto,
        reference,
        replace(cases, held=frozenset(state.input for state in manifest.states) if lifted else cases.held),
        configured=other.has_manifest,
        same_graph=not lifted and other.has_manifest,
        sha256=str(manifest.provenance.get("checkpoint_sha256") or ""),
    )


def _config_of(file: ModelFile, call: Any, module: "nn.Module") -> "ExportConfig":
    """Return the names and fixed sizes that the file's graph has, to export the module with."""
    from ..export.config import ExportConfig

    graph, manifest = file.graph_axes, file.manifest
    inputs = {name: graph[name] for name in call.names if "?" not in graph.get(name, ("?",))}
    known = {axis for axes in inputs.values() for axis in axes}
    arguments = {s.input: s.output for s in manifest.states if s.input in call.names}
    free = [state for state in manifest.states if state.input not in call.names]
    return ExportConfig(
        inputs=inputs if {*inputs} == {*call.names} else {},
        outputs=_returned(file, module, call),
        states=arguments or None,
        lengths=manifest.lengths if manifest.lengths in call.names else None,
        batch=manifest.batch if manifest.batch in known and manifest.batch else "N",
        sequence=manifest.sequence if manifest.sequence in known and manifest.sequence else "L",
        stateless=not free and not manifest.states,
    )


def _returned(file: ModelFile, module: "nn.Module", call: Any) -> tuple[str, ...]:
    """Return the names of what ``forward`` returns: the file's first outputs."""
    import copy

    import torch

    from ..export.call import own_copy, try_example

    made = try_example(copy.deepcopy(own_copy(module)), call.as_floats(torch.float32))
    names = [output.name for output in file.content.graph.outputs]
    return tuple(names[: len(made)]) if len(names) >= len(made) else ()


def _example(module: "nn.Module", file: ModelFile) -> dict[str, Any]:
    import torch

    arrays = file.manifest.golden.inputs if file.manifest.golden else {}
    parameters = inspect.signature(module.forward).parameters
    found = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays if name in parameters}
    if not found:
        raise InputError(
            f"{file.path} carries no golden inputs named as the parameters of {type(module).__name__}."
            f"forward ({', '.join(parameters)}); give an example"
        )
    return found


def _interface_like(file: ModelFile, lifted: Manifest) -> Manifest:
    """Return the interface of a file without a manifest, with the names that a lifted file has for it."""
    graph = file.content.graph
    entering, leaving = (
        {
            each.name: TensorSpec(each.name, each.dtype, _merged(each.name, _named(each), lifted))
            for each in values
        }
        for values in (graph.inputs, graph.outputs)
    )
    states = [spec for spec in lifted.states if spec.input in entering and spec.output in leaving]
    for spec in states:
        del entering[spec.input], leaving[spec.output]
    return Manifest(
        tuple(entering.values()), tuple(leaving.values()), tuple(states), lifted.batch, lifted.sequence
    )


def _named(value: ValueInfo) -> Axes:
    return tuple(f"{value.name}.{i}" if axis is None else axis for i, axis in enumerate(value.axes))


def _merged(name: str, theirs: Axes, lifted: Manifest) -> Axes:
    """Return the axes of a tensor of the original; an axis is free that either file has free."""
    mine = lifted.axes.get(name, ())
    if len(mine) != len(theirs):
        return theirs
    return tuple(one if isinstance(one, str) else other for one, other in zip(mine, theirs, strict=True))


def _with_states(lifted: Manifest, original: Manifest) -> Manifest:
    """Return the lifted file's manifest with the original's names; an axis is free that either has free."""
    inputs, outputs = (
        tuple(spec._replace(axes=_merged(spec.name, spec.axes, lifted)) for spec in specs)
        for specs in (original.inputs, original.outputs)
    )
    return lifted._replace(inputs=inputs, outputs=outputs, golden=None)


class _AtReset:
    """A file without states as the reference of one with: it tells what is right from reset alone."""

    def __init__(self, original: Graph64, manifest: Manifest) -> None:
        self._original, self._states = original, manifest.states

    def __call__(self, feeds: Feeds) -> Mapping[str, Array]:
        if any(np.any(feeds[state.input] != state.reset) for state in self._states):
            raise RuntimeError("it takes no states, and tells what is right from the reset states alone")
        inputs = {state.input for state in self._states}
        return self._original({name: array for name, array in feeds.items() if name not in inputs})
