"""Why a stage of an export failed: the line, the reason and the advice, found at whatever cost."""

import ast
import copy
import inspect
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ..numerics.reference import Signature, flatten_output
from .record import LoopError
from .request import Request, UnrepeatableError, runs
from .source import is_own, line_at, own_place, syntax_of, watching
from .trace import CONTROL_FLOW, TracingError, quietly

_LOOPS = (
    "write the loop with nn.LSTM, nn.GRU or nn.RNN or with tensor operations over the whole axis, or "
    "export one step a call with the state as input and output"
)
_CONTROL_FLOW = dict.fromkeys(CONTROL_FLOW, _LOOPS) | {
    "cond": "compute both sides and choose by torch.where(condition, one, other)"
}
"""torch's own loops and branches, and what to write instead."""
_WORDS = {
    "": "{name} can't be traced{at_line}: {text}; write that line with torch's operators on tensors and "
    "sizes, or compute it outside and pass the result in",
    "complex": "forward computes with complex tensors ({seen[complex]}), which ONNX's operators do not take; "
    "compute the spectrum outside and pass its magnitude or its real and imaginary parts in",
    "control flow": "{name} calls torch's {kind}{at_line}, which is not exported; {instead}",
    "distribution": "{name} makes an object of torch.distributions{at_line}, which looks at the values of "
    "its parameters; return the parameters and sample outside, or give it validate_args=False",
    "list": "{name} makes a list of a tensor ({seen[list]}), which a file would hold as constants; keep it a "
    "tensor, without tolist(): pack_padded_sequence, indexing and masks take one",
    "numpy": "{name} takes a tensor to NumPy ({seen[numpy]}), where no file can follow; compute it with "
    "torch's own operators",
    "same size": "{error}",
    "size": "{name} works at one size only: {where}; a Python loop over an axis, len(x), int(x.size(...)) or "
    "a layer of fixed size does this. Use tensor operations over the whole axis, or give that axis as a "
    "number",
    "checks": "{name} checks the values of a tensor ({line}): a file raises nothing; check inputs before "
    "they are fed, outside of forward",
    "counts": "{name} makes a Python number of the values of a tensor ({line}): it would be fixed at the "
    "example's; keep it a tensor, without float() or bool()",
    "decides": "{name} decides by the values of a tensor ({line}): a loop or an if on lengths or data would "
    "be fixed at the example's values; compute both sides and choose by torch.where, or multiply by a mask "
    "such as torch.arange(x.size(1)) < lengths.unsqueeze(1); keep a setting as a Python number, not a buffer",
}
"""What is wrong and what to do instead, by ``TracingError.kind`` or by what a line does with values."""
_SAMPLES = (
    "forward samples: it draws random numbers ({}), and so gives another output on every call; "
    "return the distribution's parameters and sample outside, or pass the numbers in"
)

_MACHINERY = frozenset(vars(nn.Module()))
"""Attributes that every module has."""
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>|"
                          r"No decompositions registered for .*?([\w:.]+)")  # fmt: skip
_FAILED_NODE = re.compile(r"Error when translating node .*?\[target=torch\.ops\.([\w.]+)\]")


def diagnose(error: InputError | UnsupportedError, request: Request) -> InputError | UnsupportedError:
    """Return the error of a stage with the line that is to blame, the reason, and what to write instead."""
    with quietly():
        text = str(error)
        if isinstance(error, TracingError):
            text = str(UnsupportedError(_describe(error, request)))
        elif isinstance(error, LoopError):
            text += _suggest_step(request.copy(), request.signature, error.steps)
        reason = _why_unrepeatable(request)
    if reason:
        return UnsupportedError(reason if isinstance(error, UnrepeatableError) else f"{reason} ({text})")
    return InputError(text) if isinstance(error, InputError) else UnsupportedError(text)


def _describe(error: TracingError, request: Request) -> str:
    """Return what PyTorch could not trace or translate."""
    kind, seen, cause = error.kind, error.recorder.seen, error.error
    if error.program is not None and "complex" not in seen:
        return _untranslated(error, error.program)
    path, number = own_place(cause)
    text, line = " ".join(str(cause).split()).partition(" The error above occurred")[0], line_at(path, number)
    at_line = f" ({line})" if line else ""
    where = _specialized(text) + at_line
    if kind == "size" and (fixed := error.recorder.fixed_places(request.signature.names)):
        (own, axis), place = next(iter(fixed.items()))
        where = f"axis {axis} of {own} is fixed in its code{f' ({place.line})' if place.line else at_line}"
    if isinstance(cause, AttributeError) and isinstance(cause.obj, torch.SymInt):
        text = f"a size has no {cause.name} there, it is a number already"
    words = {"translation": "complex", **dict.fromkeys(_CONTROL_FLOW, "control flow")}.get(kind, kind)
    return _WORDS[_use_of_value(path, number) if kind == "values" else words].format(
        name=type(request.module).__name__,
        error=cause,
        seen=seen,
        kind=kind,
        instead=_CONTROL_FLOW.get(kind),
        where=where,
        at_line=at_line,
        line=line or text[:160],
        text=text[:200].rstrip("."),
    )


def _untranslated(error: TracingError, program: ExportedProgram) -> str:
    """Return which operator PyTorch's ONNX translation lacks, or what ``forward`` does that ONNX has not."""
    causes: list[BaseException] = [error.error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if found := _NO_OPERATOR.search(str(cause)):
            operator = ".".join(part for part in found.groups() if part)
            if "sampling" in error.recorder.seen:
                return _SAMPLES.format(error.recorder.seen["sampling"])
            return (
                f"torch.onnx has no translation for the operator {operator}{_at_line(operator, program)}; "
                "write it with operators that ONNX has, or move it out of the module"
            )
    text = " ".join(str(causes[-1]).split())
    failed = [found[1] for cause in causes if (found := _FAILED_NODE.search(str(cause)))]
    what = f"the operator {failed[-1]}{_at_line(failed[-1], program)}" if failed else "the traced network"
    return (
        f"torch.onnx can't translate {what}: {text[:200].rstrip('.')}; write it in another way, or move it "
        "out of the module"
    )


def _at_line(operator: str, program: ExportedProgram) -> str:
    """Return the module's own line that an operator comes from, in brackets; empty if none is known."""
    for graph in (program.graph, program.run_decompositions().graph):
        for node in graph.nodes:
            if node.op == "call_function" and str(node.target) == operator:
                for path, number in reversed(re.findall(r'File "(.+?)", line (\d+)', node.stack_trace or "")):
                    if line := line_at(path, int(number)):
                        return f" ({line})"
    return ""


def _specialized(text: str) -> str:
    found = re.search(r"specialized it to be a constant \((\d+)\)", text) or re.search(
        r"specialized .*?to (?:a )?constant.*?(\d+)", text
    )
    return f"an axis that was given a name is fixed at {found[1]} in its code" if found else text[:300]


def _use_of_value(path: str, number: int) -> str:
    """Return what a line of source does with a tensor's values: ``checks``, ``counts`` or ``decides``."""
    statements = [
        node
        for node in syntax_of(path)
        if isinstance(node, ast.stmt) and node.lineno <= number <= (node.end_lineno or node.lineno)
    ]
    innermost = max(statements, key=lambda node: node.lineno, default=None)  # of one line, the first
    if isinstance(innermost, ast.Assert):
        return "checks"
    if isinstance(innermost, ast.If | ast.While | ast.For):
        return "checks" if all(isinstance(each, ast.Raise) for each in innermost.body) else "decides"
    inside = [] if innermost is None else list(ast.walk(innermost))
    called = {
        node.func.id for node in inside if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    chooses = any(isinstance(node, ast.IfExp | ast.BoolOp | ast.comprehension) for node in inside)
    return "counts" if called & {"float", "bool"} and not chooses else "decides"


def _suggest_step(module: nn.Module, signature: Signature, steps: int) -> str:
    """Return how to export one step a call, with the options if ``forward`` takes and returns its states.

    Args:
        module: a copy in eval mode.
        signature: the inputs and the example on which a layer was called once a step.
        steps: how many steps that were.
    """
    cut: dict[str, int] = {}
    example = list(signature.example)
    for place, (name, tensor) in enumerate(zip(signature.names, signature.example, strict=True)):
        axis = next((axis for axis, size in enumerate(tensor.shape[:2]) if size == steps), None)
        if axis is not None and tensor.dim() > 1:
            cut[name], example[place] = axis, tensor.narrow(axis, 0, 1)
    one = signature.with_example(example)
    advice = ", or export one step a call: let forward take and return the state, and give --step"
    if not cut or not runs(module, one):
        return advice
    with torch.no_grad():
        outputs = [tensor for _, tensor in flatten_output(one.call(module, one.example))]
    inputs = dict(zip(one.names, one.example, strict=True))
    states = [
        name
        for name, tensor in inputs.items()
        if name not in cut
        and tensor.is_floating_point()
        and any(tensor.shape == each.shape for each in outputs)
    ]
    if not states:
        absent = _absent_states(module, signature.names)
        found = dict(zip(absent, outputs[-len(absent) :], strict=False)) if absent else {}
        if not absent or len(found) < len(absent) or not runs(partial(module, **found), one):  # type: ignore[arg-type]
            return advice
        states, inputs = absent, inputs | found
    options = " ".join(
        f"--input {name}={_axes_of_step(tensor, cut.get(name), name in states)}"
        for name, tensor in inputs.items()
    )
    return (
        f", or export one step a call, as forward takes and returns {' and '.join(states)}: --step {options}"
    )


def _absent_states(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the parameters of ``forward`` that are left out and may be None."""
    given = {name.partition("_")[0] for name in names} | {*names}
    parameters = inspect.signature(module.forward).parameters.items()
    return [name for name, parameter in parameters if parameter.default is None and name not in given]


def _axes_of_step(tensor: Tensor, time: int | None, state: bool) -> str:
    """Return the axes of an input of one step, as ``--input`` takes them."""
    batch = 1 if time == 0 or (time is None and state and tensor.dim() == 3) else 0
    unbatched = time == 0 and tensor.dim() == 2 and tensor.is_floating_point()
    axes = ({} if unbatched else {batch: "N"}) | {time: "L"}
    return ",".join(axes.get(place, str(size)) for place, size in enumerate(tensor.shape))


def _why_unrepeatable(request: Request) -> str:
    """Return why a module gives something else at its second call, and the way out; empty if it does not.

    Every line of the module's own is watched on a copy, so that a rebound attribute, a tensor written over, a
    list that grows and a generator outside of torch are found alike.
    """
    own, signature = request.copy(), request.signature
    called = copy.deepcopy(own)
    first = _call(called, signature)
    if _same(first, _call(copy.deepcopy(called), signature)):
        return ""
    drawn = _generators()
    if line := _line_after(lambda: _generators() != drawn, partial(_call, copy.deepcopy(own), signature)):
        return _SAMPLES.format(line)
    kept = [place for place in _changed(own, called) if _matters(place, own, called, signature, first)]
    if not kept:
        return "forward gives another output on every call; keep states outside, and pass them in"
    watched = copy.deepcopy(called)  # the first call may only make the state
    before = _held(watched)
    line = _line_after(
        lambda: any(_held(watched).get(place) != before.get(place) for place in kept),
        partial(_call, watched, signature),
    )
    names = " and ".join(".".join(part for part in place if part) for place in kept)
    taken = f"take {names} as an argument" if len(kept) == 1 else "take them as arguments"
    values = (
        "its new value, a state of the file" if len(kept) == 1 else "their new values, states of the file"
    )
    return (
        f"forward keeps {names} in the module between calls{f' ({line})' if line else ''}, so that every "
        f"call gives another output; {taken} and return {values}"
    )


def _call(module: nn.Module, signature: Signature) -> list[Tensor] | None:
    """Return what ``forward`` gives; None where it raises, as it may with what an earlier call left."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [tensor.clone() for _, tensor in flatten_output(signature.call(module, signature.example))]
    except Exception:  # noqa: BLE001  a module may raise anything
        return None


def _same(one: list[Tensor] | None, other: list[Tensor] | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return one is other
    return all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(one, other, strict=True)
    )


def _generators() -> tuple[Any, ...]:
    """Return the state of every generator of random numbers that a module shares with others."""
    numpys = str(np.random.get_state(legacy=False))  # noqa: NPY002  what users draw from
    return random.getstate(), numpys, torch.get_rng_state().numpy().tobytes()


def _held(module: nn.Module) -> dict[tuple[str, str], list[Any]]:
    """Return what each attribute holds, by the path of its module and its name: something that compares."""
    return {
        (path, name): [
            (id(leaf), leaf._version) if isinstance(leaf, Tensor) else leaf
            for leaf in pytree.tree_leaves(value)
            if isinstance(leaf, Tensor | bool | int | float | str) or leaf is None
        ]
        for path, name, value in _attributes(module)
    }


def _attributes(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    for path, layer in module.named_modules():
        own = vars(layer).items()
        for name, value in [*own, *layer._buffers.items(), *layer._parameters.items()]:
            if name not in _MACHINERY:
                yield path, name, value


def _changed(own: nn.Module, called: nn.Module) -> list[tuple[str, str]]:
    """Return the attributes in which a copy that was called differs from one that was not."""
    before, after = (
        {(path, name): pytree.tree_leaves(value) for path, name, value in _attributes(each)}
        for each in (own, called)
    )
    return [place for place, leaves in after.items() if not _alike(before.get(place), leaves)]


def _alike(one: list[Any] | None, other: list[Any]) -> bool:
    return one is not None and len(one) == len(other) and all(map(_equal, one, other))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same([one], [other])
    return type(one) is type(other) and (not isinstance(one, bool | int | float | str) or one == other)


def _matters(
    place: tuple[str, str],
    own: nn.Module,
    called: nn.Module,
    signature: Signature,
    first: list[Tensor] | None,
) -> bool:
    """Tell whether a module that holds at ``place`` what the called one does gives something else."""
    path, name = place
    other = copy.deepcopy(own)
    setattr(other.get_submodule(path), name, copy.deepcopy(getattr(called.get_submodule(path), name)))
    return not _same(first, _call(other, signature))


def _line_after(holds: Callable[[], bool], run: Callable[[], Any]) -> str:
    """Return the first line of the module's own, while ``run`` runs, after which ``holds`` is true."""
    last: dict[FrameType, int] = {}
    found = ""

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal found
        if found or not is_own(frame.f_code.co_filename):
            return None
        if event != "call" and holds():
            found = line_at(frame.f_code.co_filename, last[frame])
        last[frame] = frame.f_lineno
        return watch

    with watching(watch):
        run()
    return found
