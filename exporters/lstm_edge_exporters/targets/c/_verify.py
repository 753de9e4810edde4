"""Compile what was made, run it, and compare it with onnxruntime."""

import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge_runtime.errors import CheckFailedError, InputError, MissingDependencyError, UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.tolerance import Comparison, compare

from ...processes import run_program
from ._calls import CCall
from ._interface import Interface, StepArray

__all__ = ["find_compiler", "verify_c"]

_COMPILERS = ("cc", "gcc", "clang")


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


def verify_c(
    files: Mapping[str, str],
    interface: Interface,
    calls: Sequence[CCall],
    compiler: Sequence[str],
    most_stack: int,
) -> tuple[Comparison, ...]:
    """Compile the files, run the self-test and each of ``calls`` from its own states.

    Args:
        files: the text of each by its path.
        interface: what the functions take and give.
        calls: what is run.
        compiler: its command.
        most_stack: bytes that a call may take of the stack.

    Returns:
        One comparison with onnxruntime an output, a state and call.

    Raises:
        UnsupportedError: a call takes more stack, by what gcc or clang says of it.
        CheckFailedError: the files do not compile or run, or a result is beyond its limit.
        InputError: the temporary folder can't be written, or the compiler is not there.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            program, stack = _compile(files, f"src/{interface.name}.c", compiler, Path(folder))
            if stack > most_stack:
                raise UnsupportedError(
                    f"a call in C would take {stack:,} bytes of stack, expected at most {most_stack:,}; int8 "
                    "weights of a GRU, an RNN and of --weights-only are expanded there: convert the float32 "
                    "file; or give a smaller --chunk"
                )
            arrays = [
                call.feeds[port.name] for call in calls for port in (*interface.inputs, *interface.states)
            ]
            given = b"".join(array.tobytes() for array in arrays)
            answer = _execute([str(program)], "the program in C", given)
    except OSError as error:
        raise InputError(f"C can't be compiled here: {error}; see to the folder or to CC") from error
    reader = _Reader(answer)
    for state in interface.states:
        if not np.array_equal(reader.take(state), state.reset, equal_nan=True):
            raise CheckFailedError(f"in C the state {state.name} does not start at its reset value")
    passed, difference = reader.number(np.int32), reader.number(np.float32)
    if not passed:
        raise CheckFailedError(f"the golden case fails in C, by {difference:.3g} at most; use onnxruntime")
    results: list[Comparison] = []
    for call in calls:
        for port, name in (
            *((port, port.name) for port in interface.outputs),
            *((state, state.output) for state in interface.states),
        ):
            expected = call.outputs[name]
            dtype = expected.dtype.name if expected.dtype.kind == "f" else "float32"
            results.append(
                compare(name, reader.take(port), expected, floor=0.0, limit=call.limits[name], dtype=dtype)
            )
    worst = max(results, key=lambda each: each.ratio)
    if not worst.ok:
        raise CheckFailedError(f"C computes something else than onnxruntime: {worst}; use onnxruntime")
    return tuple(results)


class _Reader:
    """Takes one array after another from what the program wrote."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def take(self, port: StepArray) -> Array:
        array = self._next(np.dtype(port.dtype), port.size)
        return array.reshape(port.shape)

    def number(self, dtype: type[np.generic]) -> Any:
        return self._next(np.dtype(dtype), 1)[0]

    def _next(self, dtype: np.dtype[Any], count: int) -> Array:
        stop = self._place + count * dtype.itemsize
        if stop > len(self._content):
            raise CheckFailedError("the program in C ended early; use onnxruntime")
        array = np.frombuffer(self._content[self._place : stop], dtype)
        self._place = stop
        return array


def _compile(
    files: Mapping[str, str], network: str, compiler: Sequence[str], folder: Path
) -> tuple[Path, int]:
    """Return the program, and the bytes of stack that a call of the file ``network`` takes."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    program, made = folder / "verify", folder / "network.o"
    sources = [
        str(folder / path)
        for path in files
        if path.endswith(".c") and path != network and not path.startswith("examples/")
    ]
    command = [*compiler, "-std=c99", "-O1", f"-I{folder / 'src'}"]
    alone = [str(folder / network), "-c", "-o", str(made)]
    if run_program([*command, "-fstack-usage", *alone]).returncode:  # the compiler has no such option
        _execute([*command, *alone], compiler[0])
    _execute([*command, *sources, str(made), "-o", str(program), "-lm"], compiler[0])
    return program, _stack(made.with_suffix(".su"))


def _stack(usage: Path) -> int:
    """Return what a call takes by a compiler's list of frames, 0 without one: step, network and one node."""
    if not usage.exists():
        return 0
    frames = [int(line.split("\t")[1]) for line in usage.read_text(encoding="utf-8").splitlines()]
    return sum(sorted(frames)[-3:])


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
