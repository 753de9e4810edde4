"""Compile what was made, run it, and compare it with onnxruntime."""

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from lstm_edge_runtime.errors import CheckFailedError, InputError, MissingDependencyError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.tolerance import Comparison, compare

from ...processes import run_program
from ._calls import CCall
from ._interface import Interface, StepArray

_COMPILERS = ("cc", "gcc", "clang")
_C99 = ("-std=c99",)
_FRAMES = 256
"""Bytes of stack of a call besides its working memory, where the compiler does not list them."""


@dataclass(frozen=True)
class Sizes:
    """Bytes that a network takes; code and stack as this machine's compiler makes them for size."""

    constants: int
    """Weights and other constants, in flash."""
    code: int | None
    """The rest of the flash, without the self-test; None where there is no program ``size``."""
    state: int
    """RAM of each source."""
    work: int
    """Working memory, part of the stack unless the caller has it elsewhere."""
    stack: int
    """The deepest stack of a step, working memory included."""

    @property
    def flash(self) -> int:
        """Constants and code."""
        return self.constants + (self.code or 0)

    @property
    def ram(self) -> int:
        """One state and the stack."""
        return self.state + self.stack

    def lines(self) -> list[str]:
        """Return them in words, a line for each kind of memory."""
        code = "code not counted" if self.code is None else f"{self.code:,} code"
        return [
            f"flash: {self.flash:,} bytes ({self.constants:,} constants, {code})",
            f"RAM: {self.ram:,} bytes ({self.state:,} per source, {self.stack:,} stack of a step, of that "
            f"{self.work:,} working memory)",
        ]


def find_compiler() -> list[str]:
    """Return the command of this machine's C compiler: what ``CC`` says, or one that is on the path.

    Raises:
        MissingDependencyError: there is none.
        InputError: ``CC`` is no command.
    """
    try:
        if given := shlex.split(os.environ.get("CC", "")):
            return given
    except ValueError as error:
        raise InputError(f"CC is {os.environ['CC']!r}, which is no command ({error}); correct it") from error
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise MissingDependencyError(
            f"no C compiler ({', '.join(_COMPILERS)}) is on the path, and C is run before it is written; "
            "install one, as in apt-get install gcc libc6-dev, or name one with CC"
        )
    return [found]


def measure(
    files: Mapping[str, str],
    interface: Interface,
    compiler: Sequence[str],
    constants: int,
    work: int,
    *,
    counted: bool,
) -> Sizes:
    """Compile the network for size and return what it takes.

    Args:
        files: the text of each by its path.
        interface: what the functions take and give.
        compiler: its command.
        constants: bytes of constants.
        work: bytes of working memory.
        counted: whether a state counts its calls.

    Raises:
        CheckFailedError: the network does not compile.
        InputError: the temporary folder can't be written, or the compiler is not there.
    """
    name = interface.name
    with _folder(files) as folder:
        made = folder / "network.o"
        command = [*compiler, *_C99, "-Os", f"-I{folder / 'src'}", "-c", str(folder / f"src/{name}.c")]
        command += ["-o", str(made)]
        if run_program([*command, "-fstack-usage", "-fno-asynchronous-unwind-tables"]).returncode:
            _execute(command, compiler[0])  # the compiler has no such options
        code = None
        if shutil.which("size"):
            sections = re.search(rb"\n\s*(\d+)\s+(\d+)", run_program(["size", str(made)]).stdout)
            code = sections and int(sections[1]) + int(sections[2]) - constants
        usage = made.with_suffix(".su")
        frames = _frames(usage.read_text(encoding="utf-8"), name) if usage.exists() else _FRAMES + work
    state = sum(each.start.nbytes for each in interface.states) + (4 if counted else 0)
    widest = max((each.start.itemsize for each in interface.states), default=1)
    state += -state % widest
    return Sizes(constants, code, state, work, frames)


def _frames(usage: str, name: str) -> int:
    """Return the deepest stack of a step by a compiler's list of frames: its own, and two kernels'."""
    found = re.findall(r":(\w+)\t(\d+)\t", usage)
    sizes = [(int(size), function) for function, size in found if not function.startswith(f"{name}_reset")]
    own = [size for size, function in sizes if function.startswith(f"{name}_step")]
    kernels = sorted(size for size, function in sizes if function.startswith("le_"))
    return sum(own) + sum(kernels[-2:])


def verify_c(
    files: Mapping[str, str], interface: Interface, calls: Sequence[CCall], compiler: Sequence[str]
) -> tuple[Comparison, ...]:
    """Compile the files, run the self-test and each of ``calls`` from its own states.

    Returns:
        One comparison with onnxruntime an output, a state and call.

    Raises:
        CheckFailedError: the files do not compile or run, or a result is beyond its limit.
        InputError: the temporary folder can't be written, or the compiler is not there.
    """
    with _folder(files) as folder:
        program = folder / "verify"
        sources = [str(folder / path) for path in files if path.endswith(".c") and "examples/" not in path]
        _execute(
            [*compiler, *_C99, "-O1", f"-I{folder / 'src'}", *sources, "-o", str(program), "-lm"], compiler[0]
        )
        arrays = [
            array
            for call in calls
            for array in (
                *(call.feeds[port.name] for port in interface.inputs),
                *(state.to_c(call.feeds[state.name]) for state in interface.states),
            )
        ]
        answer = _execute([str(program)], "the program in C", b"".join(array.tobytes() for array in arrays))
    results: dict[str, StepArray] = {port.name: port for port in interface.outputs}
    results |= {state.output: state for state in interface.states}
    kinds = [(state.dtype, state.size) for state in interface.states] + [("int32", 1), ("float32", 1)]
    taken = _taken(answer, kinds + [(port.dtype, port.size) for port in results.values()] * len(calls))
    for state in interface.states:
        if not np.array_equal(state.from_c(next(taken)), state.reset, equal_nan=True):
            raise CheckFailedError(f"in C the state {state.name} does not start at its reset value")
    passed, difference = next(taken)[0], next(taken)[0]
    if not passed:
        raise CheckFailedError(f"the golden case fails in C, by {difference:.3g} at most; use onnxruntime")
    found: list[Comparison] = []
    for call, (name, port) in product(calls, results.items()):
        expected = call.outputs[name]
        dtype = expected.dtype.name if expected.dtype.kind == "f" else "float32"
        got = port.from_c(next(taken))
        found.append(compare(name, got, expected, floor=0.0, limit=call.limits[name], dtype=dtype))
    worst = max(found, key=lambda each: each.ratio)
    if not worst.ok:
        raise CheckFailedError(f"C computes something else than onnxruntime: {worst}; use onnxruntime")
    return tuple(found)


def _taken(content: bytes, kinds: Iterable[tuple[str, int]]) -> Iterator[Array]:
    """Yield one array after another, of these dtypes and sizes, from what the program wrote."""
    start = 0
    for dtype, size in kinds:
        stop = start + size * np.dtype(dtype).itemsize
        if stop > len(content):
            raise CheckFailedError("the program in C ended early; use onnxruntime")
        yield np.frombuffer(content[start:stop], dtype)
        start = stop


@contextmanager
def _folder(files: Mapping[str, str]) -> Iterator[Path]:
    """Give a temporary folder with the files."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            for path, text in files.items():
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_text(text, encoding="utf-8")
            yield Path(folder)
    except OSError as error:
        raise InputError(f"C can't be compiled here: {error}; see to the folder or to CC") from error


def _execute(command: Sequence[str], what: str, given: bytes = b"") -> bytes:
    ran = run_program(command, given)
    if ran.returncode:
        lines = ran.stderr.decode(errors="replace").splitlines()
        reason = next((line for line in lines if "error" in line), "no message")
        raise CheckFailedError(
            f"{what} ended with {ran.returncode} ({reason:.200}); name another compiler with CC "
            "or use onnxruntime"
        )
    return ran.stdout
