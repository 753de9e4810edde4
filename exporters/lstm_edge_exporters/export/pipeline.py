"""From a module to a verified file, in a straight line.

``Call.of`` -> ``capture`` (one ``torch.export`` in float64) -> ``lower`` -> ``expose_states`` ->
``keep_past`` -> ``to_float32`` (the only rounding) -> ``verify`` -> golden case and bytes. Each stage is a
function in the file of its name.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime.axes import all_ones
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Manifest, StateSpec, Task, TensorSpec

from ..graph import spec_of
from ..progress import Progress, ignore
from ..verify.cases import CaseGenerator
from ..verify.compare import Pair
from ..verify.float64 import Graph64, constants_of
from ..verify.indices import index_values
from ..verify.reference import TorchReference
from ..verify.verify import find_streaming
from ..versions import MAKERS, versions
from .call import Call, own_copy, returned_names, try_example, unpacked_names
from .capture import Program, capture
from .cast import IR_VERSION, to_float32
from .config import ExportConfig
from .floats import OTHER_FLOATS, TURNS, copy_as, weights_sha256
from .lower import lower
from .past import Past, keep_past
from .states import Exposed, Variables, expose_states, sources

OPSET = 18
"""The ONNX opset of files; 18 is read by onnxruntime 1.14 (February 2023) and later."""


@dataclass(frozen=True)
class Built:
    """A file before its verification, and what it is verified with."""

    exact: ir.Model
    """The graph in float64."""
    file: onnx.ModelProto
    """The same in float32."""
    manifest: Manifest
    """The contract, without golden case and figures."""
    module: TorchReference
    """The module in float64."""
    plain: TorchReference
    """The module in float32."""
    cases: CaseGenerator
    """Draws inputs."""
    notes: tuple[str, ...]
    """What a reader should know."""
    past: Past
    """What operators along time look back at."""
    stream: bool
    """True if the file that streams is asked for."""

    @property
    def constants(self) -> dict[str, Any]:
        """Every float constant that data meet, in float64."""
        return dict(constants_of(self.exact))


def build(module: nn.Module, example: Any, config: ExportConfig, show: Progress = ignore) -> Built:
    """Trace, lower and cast; see ``export``. Threads take turns."""
    with TURNS:
        show(0.0, "tracing the module")
        plain = own_copy(module)
        call = Call.of(plain, example)
        dtypes = {each.dtype for each in (*module.parameters(), *module.buffers())} & OTHER_FLOATS
        names = sorted(str(dtype).rpartition(".")[2] for dtype in dtypes)
        notes = [f"the module is {name}, the file is float32 throughout" for name in names]
        outputs = try_example(copy.deepcopy(plain), call.as_floats(torch.float32))
        reference = copy_as(plain, torch.float64)
        call = call.as_floats(torch.float64)
        _check_repeatable(reference, call)
        program = capture(copy.deepcopy(reference), call, config)
        model = lower(program, call.names)
        variables = Variables(returned_names(plain, len(outputs)), unpacked_names(plain))
        exposed = expose_states(model, program, call, config, variables)
        manifest = _describe(exposed, program, plain, config)
        past, run = (
            keep_past(exposed.model, manifest, config),
            TorchReference(reference, call, exposed.titles),
        )
        if past.model is not exposed.model and {*call.names} & {state.input for state in manifest.states}:
            alone = Past(exposed.model, manifest.states)
            if _streams(alone, manifest, _cases(alone, manifest, call, config, run), run):
                past = alone  # its arguments are all that it needs
        manifest = manifest._replace(states=past.states, unstreamable=manifest.unstreamable or past.need)
        file = to_float32(past.model)
    cases = _cases(past, manifest, call, config, run)
    float32 = TorchReference(plain, call, exposed.titles, torch.float32)
    notes += exposed.notes + [
        f"axis {name} takes {limits} alone; another size needs an example and axes of its own (--input)"
        for name, limits in manifest.ranges.items()
        if name not in config.ranges and (limits.least > 1 or limits.most is not None)
    ]
    return Built(past.model, file, manifest, run, float32, cases, tuple(notes), past, config.stream)


def _cases(
    past: Past, manifest: Manifest, call: Call, config: ExportConfig, run: TorchReference
) -> CaseGenerator:
    """Return what draws inputs; states that are no arguments stay at reset, where the module starts."""
    values = index_values(past.model.graph)
    cases = CaseGenerator.of(manifest, call.arrays, values, config.seed).fitted_to(run)
    return replace(cases, held=frozenset(state.input for state in manifest.states) - {*call.names})


def _streams(past: Past, manifest: Manifest, cases: CaseGenerator, run: TorchReference) -> bool:
    return not find_streaming(Pair(manifest, Graph64(past.model), run, run), cases, 0).unstreamable


def _check_repeatable(module: nn.Module, call: Call) -> None:
    """Refuse a module that gives something else on every call.

    Raises:
        UnsupportedError: two runs on the same inputs differ; says what the module keeps, or that it draws.
    """
    own, other = copy.deepcopy(module), copy.deepcopy(module)
    runs = [TorchReference(each, call, ()).tensors(call.example) for each in (own, own, other)]

    def same(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> bool:
        pairs = zip(one, two, strict=True)
        return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)

    if not same(runs[0], runs[2]):
        raise UnsupportedError(
            "forward gives another output on every call, because it draws random numbers; pass the numbers "
            "in as an input, or return the distribution's parameters"
        )
    if not same(runs[0], runs[1]):
        kept = ", ".join(_changed(module, own)) or "something"
        raise UnsupportedError(
            f"forward keeps {kept} in the module from call to call, which a file can't; take it as an "
            "argument and return its next value"
        )


def _changed(before: nn.Module, after: nn.Module) -> list[str]:
    """Return the attributes of layers that a run changed."""
    changed = []
    for (path, old), new in zip(before.named_modules(), after.modules(), strict=True):
        for one, two in ((vars(old), vars(new)), (old._buffers, new._buffers)):
            for name, value in two.items():
                known = one.get(name)
                if isinstance(value, torch.Tensor) and isinstance(known, torch.Tensor):
                    differs = value.shape != known.shape or not torch.equal(value, known)
                else:
                    simple = isinstance(value, int | float | str | list | tuple | type(None) | torch.Tensor)
                    differs = simple and str(value) != str(known)
                if differs and not name.startswith("_"):
                    changed.append(f"{path}.{name}".removeprefix("."))
    return changed


def _describe(exposed: Exposed, program: Program, module: nn.Module, config: ExportConfig) -> Manifest:
    """Return the manifest, without golden case and figures.

    Raises:
        InputError: the config gives a reset value, a task output or names that the file does not have.
    """
    ends = [state.input for state in exposed.states]
    for name in config.reset:
        if name not in ends:
            raise InputError(f"reset of {name}: the states are {', '.join(ends) or 'none'}")
    states = [_with_reset(state, config.reset) for state in exposed.states]
    order = [str(value.name) for value in exposed.model.graph.inputs]
    inputs = tuple(_spec(value) for value in exposed.model.graph.inputs if value.name not in ends)
    outputs = tuple(map(_spec, exposed.outputs))
    width = next((spec.width for spec in inputs if len(spec.axes) > 1), None)
    features = config.signal.features
    if features and isinstance(width, int) and len(features) != width:
        raise InputError(f"got {len(features)} names of features, expected {width}, the width of the input")
    return Manifest(
        inputs=inputs,
        outputs=outputs,
        states=tuple(sorted(states, key=lambda state: order.index(state.input))),
        batch=program.batch,
        sequence=program.sequence,
        ranges=program.ranges,
        lengths=exposed.lengths,
        counts=_counts(exposed),
        unstreamable=exposed.unstreamable,
        task=None if config.task is None else _described(config.task, outputs),
        signal=config.signal,
        trained=config.trained,
        provenance={
            "checkpoint_sha256": config.checkpoint_sha256,
            "opset": OPSET,
            "ir_version": IR_VERSION,
            "weights_sha256": weights_sha256(module),
            "versions": versions(*MAKERS),
        },
    )


def _spec(value: ir.Value) -> TensorSpec:
    spec = spec_of(value)
    return spec._replace(dtype=spec.dtype.replace("float64", "float32"))


def _counts(exposed: Exposed) -> tuple[str, ...]:
    """Return the outputs that are the lengths: those of chunks add up to those of the full sequence."""
    return tuple(
        str(value.name)
        for value in exposed.outputs
        if exposed.lengths is not None
        and value.dtype is not None
        and value.dtype.is_integer()
        and {str(each.name) for each in sources(value)} == {exposed.lengths}
    )


def _with_reset(state: StateSpec, resets: Mapping[str, Any]) -> StateSpec:
    """Return a state with its reset value, each fixed axis in full: one row may be given for a batch."""
    reset, shape = resets.get(state.input, state.reset), all_ones(state.axes)
    if not isinstance(reset, np.ndarray):
        return state._replace(reset=reset)
    try:
        return state._replace(reset=np.broadcast_to(reset, shape))
    except ValueError as error:
        raise InputError(
            f"reset of {state.input} has shape {list(np.shape(reset))}, expected {list(shape)}"
        ) from error


def _described(task: Task, outputs: Sequence[TensorSpec]) -> Task:
    """Return ``task`` with its output, which is there and as wide as there are names for it."""
    found = {spec.name: spec for spec in outputs}
    output = found.get(task.output) if task.output else next(iter(outputs), None)
    if output is None:
        raise InputError(f"task output {task.output!r}: the outputs are {', '.join(found) or 'states only'}")
    for kind, names in (("labels", task.labels), ("units", task.units)):
        if names and isinstance(output.width, int) and len(names) != output.width:
            raise InputError(
                f"got {len(names)} {kind}, expected {output.width}, the width of output {output.name!r}"
            )
    return task._replace(output=output.name)
