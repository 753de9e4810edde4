"""Why a stage of an export failed: the line, the reason and the advice, found at whatever cost."""

import ast
import inspect
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ..numerics.reference import Signature, flatten_output
from .failures import CONTROL_FLOW, TracingError, UnrepeatableError
from .record import LoopError
from .repeatability import SAMPLES, why_unrepeatable
from .request import Request, runs
from .source import calling_line, line_at, own_place, syntax_of
from .trace import quietly

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
        reason = why_unrepeatable(request)
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
                return SAMPLES.format(error.recorder.seen["sampling"])
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


def parting_line(*runs: Callable[[], object]) -> str:
    """Return the module's own line where two runs of it part; empty where it is not known."""
    traces: list[list[tuple[str, Any]]] = []
    for run in runs:
        with suppress(Exception), _LineWatch() as watch:
            run()
        traces.append(watch.passed)
    pairs = zip_longest(*traces)
    return next((one[0] if one else two[0] for one, two in pairs if one != two), "")


class _LineWatch(TorchFunctionMode):
    """Sees every call of PyTorch that a module's own lines make."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[str, Any]] = []
        """The line, and the function with the number of axes that it gives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and note it."""
        result = func(*args, **(kwargs or {}))
        axes = result.ndim if isinstance(result, torch.Tensor) else None
        self.passed.append((calling_line(), (func, axes)))
        return result
