"""From an ONNX file to a folder of C99: header, operations, self-test, the core, and a
CMake file.
"""

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np

from lstm_edge_runtime import Model
from lstm_edge_runtime.errors import (
    CheckFailedError,
    InputError,
    MissingDependencyError,
)
from lstm_edge_runtime.manifest import Manifest

from ..folders import check_folder, write_folder
from ..native.compiler import Compiled
from ..native.convert import (
    compile_file,
    read,
    record_first_row,
    verified_program,
    verify,
)
from ..native.operations import NONE
from ..native.program import ProgramWriter
from .engine import CEngine
from .names import c_identifiers, c_string, member, model_name
from .table import Table, literals

_HERE = Path(__file__).parent
_TEMPLATES = ("network.h", "network.c", "network_selftest.c", "CMakeLists.txt")
_CORE = ("lstm_edge_core.h", "lstm_edge_core.c")
_CALLS = 3
"""Calls in the self-test; they are stored in flash."""


@dataclass(frozen=True)
class CFolder:
    """A network in C whose self-test passes on this machine."""

    name: str
    """The prefix of its functions: ``har`` for ``har_step``."""
    files: Mapping[str, str]
    """The text of each file by its path."""
    difference: float
    """The largest difference from onnxruntime in the self-test."""
    constants: int
    """Bytes of constants in flash; code comes on top."""
    state: int
    """Bytes of the state of one source."""
    work: int
    """Bytes of working memory of a call."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, whole or not at all; an earlier one of the same model is
        replaced.

        Raises:
            NotFoundError: its parent is not there.
            InputError: the folder holds other files, or can't be written.
        """
        return write_folder(
            folder, {path: text.encode() for path, text in self.files.items()}
        )


class _Port(NamedTuple):
    """An input or output of a step in C."""

    symbol: str
    """Name of the parameter."""
    suffix: str
    """End of the names of its macros; empty for the only input or output."""
    c_type: str
    """Type of an element."""
    width: int
    """Number of elements per call."""
    delay: int
    """Delay of an output, in frames."""


def check_c_folder(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    name: str | None = None,
) -> None:
    """Raise before the translation as ``CFolder.save`` would raise after it."""
    paths = {_path(_name(source, name), template) for template in (*_TEMPLATES, *_CORE)}
    check_folder(folder, paths.__contains__)


def to_c(source: str | os.PathLike[str], name: str | None = None) -> CFolder:
    """Translate an ``.onnx`` file to C99, compile it here, run its self-test and verify it
    as ``to_native`` verifies a program.

    Args:
        source: a file with a manifest and a golden case that can be streamed.
        name: the prefix of functions and files; None for the file's own name.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or can't
            be streamed.
        InputError: a name that C can't take, or a file without golden case.
        UnsupportedError: an operator or a size that the native engine or the core
            lacks.
        MissingDependencyError: no C compiler, or no ``lstm-edge-native``.
        CheckFailedError: a result is beyond its limit, or the code does not compile.
    """
    name = _name(source, name)
    model, proto = read(source)
    with model:
        compiled = compile_file(proto, model.manifest)
        if model.manifest.golden is None:
            raise InputError("the file carries no golden case; export it again")
        program = verified_program(model, proto, compiled)
        delay = max(port.delay for port in compiled.writer.ports("outputs"))
        record_first_row(model, compiled, (_CALLS + delay) * model.manifest.unit)
        table = Table(compiled.writer)
        files = _render(name, model.manifest, compiled=compiled, table=table)
        for file in _CORE:
            files[f"src/{file}"] = (_core() / file).read_text(encoding="utf-8")
        with _compiled(name, files) as library:
            difference = _self_test(name, library)
            engine = CEngine(program, table, getattr(library, f"{name}_step"))
            target = Model(engine, model.identity, "cpu", check=False)
            verify(model, proto, target, "the C code")
    return CFolder(
        name=name,
        files=files,
        difference=difference,
        constants=table.constant_bytes,
        state=4 * table.states,
        work=4 * table.memory + 2 * table.quantized,
    )


def _core() -> Path:
    """Return the folder of the core: next to this file in a wheel, else in the
    clone.
    """
    packaged = _HERE / "core"
    return packaged if packaged.is_dir() else _HERE.parents[3] / "native" / "core"


def _name(source: str | os.PathLike[str], name: str | None) -> str:
    """Return the prefix of all names in C, by default from the file's name."""
    return model_name(Path(source).stem if name is None else name)


def _render(
    name: str, manifest: Manifest, compiled: Compiled, table: Table
) -> dict[str, str]:
    """Return the text of each file that is made from a template."""
    inputs = _ports(compiled, "inputs")
    outputs = _ports(compiled, "outputs")
    labels = manifest.task.labels if manifest.task else ()
    values = {
        "name": name,
        "upper": name.upper(),
        "labels": ", ".join(map(c_string, labels)),
        **_header_values(
            name.upper(), manifest, compiled=compiled, inputs=inputs, outputs=outputs
        ),
        **_state_values(compiled, table),
        **_table_values(table),
        **_self_test_values(compiled.writer, inputs, outputs),
    }
    rendered = {}
    for template in _TEMPLATES:
        text = (_HERE / "templates" / template).read_text(encoding="utf-8")
        lines = [line for line in text.split("\n") if labels or "_labels" not in line]
        rendered[_path(name, template)] = Template("\n".join(lines)).substitute(values)
    return rendered


def _header_values(
    upper: str,
    manifest: Manifest,
    compiled: Compiled,
    inputs: Sequence[_Port],
    outputs: Sequence[_Port],
) -> dict[str, str]:
    """Return the macros, and the parameters and arguments of a step."""
    parameters = [f"const {port.c_type} *{port.symbol}" for port in inputs]
    parameters += [f"float *{port.symbol}" for port in outputs]
    bases = [f"{{.from = {port.symbol}}}" for port in inputs]
    bases += [f"{{.to = {port.symbol}}}" for port in outputs]
    unit = compiled.writer.unit
    return {
        "macros": "\n".join(
            _macros(upper, unit, inputs=inputs, outputs=outputs, manifest=manifest)
        ),
        "parameters": ", ".join(parameters),
        "bases": ", ".join(bases),
        "forward": ", ".join(port.symbol for port in (*inputs, *outputs)),
    }


def _state_values(compiled: Compiled, table: Table) -> dict[str, str]:
    """Return the members of the state and how they are reset."""
    members = [f"    {line};" for line in _members(compiled, table)]
    counters = [f" state->{counter};" for counter in _counters(compiled, table)]
    has_values = table.reset.any()
    return {
        "members": "\n".join(members),
        "counters": "".join(counters),
        "reset": table.floats.add(table.reset) if has_values else "NULL",
        "states": str(table.states),
    }


def _table_values(table: Table) -> dict[str, str]:
    """Return the operations and their constants."""
    pools = []
    for pool in table.pools:
        symbol = pool.symbol if pool.size else "NULL"
        pools.append(f"{{.from = {symbol}}}")
    definitions = [pool.definition() for pool in table.arrays]
    return {
        "memory": str(table.memory),
        "quantized": str(max(1, table.quantized)),
        "pools": ", ".join(pools),
        "definitions": "".join(definitions),
        "operations": "\n".join(table.lines),
        "count": str(table.count),
    }


def _ports(compiled: Compiled, role: str) -> list[_Port]:
    """Return the ``inputs`` or ``outputs`` of a step."""
    writer = compiled.writer
    ports = writer.ports(role)
    texts = [writer.constants[port.name].tobytes().decode() for port in ports]
    names = [*c_identifiers(texts)]
    symbols = [f"in_{name}" if role == "inputs" else f"out_{name}" for name in names]
    suffixes = [f"_{name}" for name in names]
    if len(ports) == 1:
        symbols = ["x" if role == "inputs" else "y"]
        suffixes = [""]
    return [
        _Port(
            symbol=symbol,
            suffix=suffix,
            c_type="float" if writer.dtype(port.buffer) == "float32" else "int32_t",
            width=writer.width(port.buffer),
            delay=port.delay,
        )
        for symbol, suffix, port in zip(symbols, suffixes, ports, strict=True)
    ]


def _macros(
    upper: str,
    unit: int,
    inputs: Sequence[_Port],
    outputs: Sequence[_Port],
    manifest: Manifest,
) -> Iterator[str]:
    """Yield the macros of the header."""
    yield f"#define {upper}_UNIT {unit} /* time steps in one call */"
    for macro, ports in (("INPUTS", inputs), ("OUTPUTS", outputs)):
        for port in ports:
            yield (
                f"#define {upper}_{macro}{port.suffix} {port.width} /* numbers of"
                f" {port.symbol} in a call */"
            )
    for port in outputs:
        if port.delay:
            yield (
                f"#define {upper}_DELAY{port.suffix} {port.delay} /* frames of"
                f" {port.symbol} to drop */"
            )
    if rate := manifest.signal.sampling_rate:
        yield f"#define {upper}_SAMPLING_RATE {float(rate)!r}f /* Hz */"
    if manifest.reset_every:
        yield (
            f"#define {upper}_RESET_EVERY {manifest.reset_every} /* time steps, as in"
            " training */"
        )
    labels = manifest.task.labels if manifest.task else ()
    if labels:
        members = ", ".join(
            f"{upper}_LABEL_{label} = {i}"
            for i, label in enumerate(c_identifiers(labels))
        )
        yield f"#define {upper}_LABELS {len(labels)}\nenum {{ {members} }};"


def _state_names(compiled: Compiled) -> list[str]:
    """Return the struct's member of each state of the program; layers of one state have
    the same.
    """
    inputs = list(
        dict.fromkeys(program_state.state.input for program_state in compiled.states)
    )
    names = dict(zip(inputs, map(member, c_identifiers(inputs)), strict=True))
    return [names[program_state.state.input] for program_state in compiled.states]


def _members(compiled: Compiled, table: Table) -> Iterator[str]:
    """Yield the declarations of the state's members, in memory order."""
    writer = compiled.writer
    sizes = dict[tuple[str, str], int]()
    placed_states = zip(
        table.offsets, _state_names(compiled), writer.ports("states"), strict=True
    )
    for _, name, port in sorted(placed_states):
        key = ("int64_t" if writer.dtype(port.buffer) == "int64" else "float", name)
        sizes[key] = sizes.get(key, 0) + writer.width(port.buffer)
    for (c_type, name), size in sizes.items():
        yield f"{c_type} {name}[{size}]"
    if not table.states:
        yield "float lc_nothing"


def _counters(compiled: Compiled, table: Table) -> Iterator[str]:
    """Yield the assignments that reset whole numbers, one per number."""
    writer = compiled.writer
    placed_states = zip(
        table.offsets, _state_names(compiled), writer.ports("states"), strict=True
    )
    following = Counter[str]()
    for _, name, port in sorted(placed_states):
        if writer.dtype(port.buffer) != "int64":
            continue
        values = np.zeros(writer.width(port.buffer), np.int64)
        if port.option != NONE:
            values[...] = writer.constants[port.option].reshape(-1)
        for value in values[:, None]:
            yield f"{name}[{following[name]}] = {literals(value)}"
            following[name] += 1


def _self_test_values(
    writer: ProgramWriter, inputs: Sequence[_Port], outputs: Sequence[_Port]
) -> dict[str, str]:
    """Return the recorded calls and how a step is compared with them."""
    lines = []
    calls = 0
    for port, recorded in zip(inputs, writer.ports("inputs"), strict=True):
        numbers = writer.constants[recorded.golden]
        calls = len(numbers)
        dtype = np.float32 if port.c_type == "float" else np.int32
        text = literals(numbers.astype(dtype))
        lines.append(f"static const {port.c_type} given_{port.symbol}[] = {{{text}}};")
    for port, recorded in zip(outputs, writer.ports("outputs"), strict=True):
        expected = literals(writer.constants[recorded.golden][-1])
        limits = literals(writer.constants[recorded.tolerance][-1])
        lines.append(f"static const float expected_{port.symbol}[] = {{{expected}}};")
        lines.append(f"static const float limits_{port.symbol}[] = {{{limits}}};")
    arguments = [f"given_{port.symbol} + call * {port.width}" for port in inputs]
    arguments += [port.symbol for port in outputs]
    results = [f"    float {port.symbol}[{port.width}];" for port in outputs]
    return {
        "calls": str(calls),
        "given": "\n".join(lines),
        "results": "\n".join(results),
        "arguments": ", ".join(arguments),
        "compared": "\n".join(map(_comparison, outputs)),
    }


def _comparison(port: _Port) -> str:
    """Return the line that compares an output with the recorded one."""
    name = port.symbol
    return (
        f"    lc_compare({name}, expected_{name}, limits_{name}, {port.width}, &worst,"
        " &all);"
    )


def _path(name: str, file: str) -> str:
    """Return where a template's file goes in the folder."""
    return file if file == "CMakeLists.txt" else f"src/{file.replace('network', name)}"


@contextmanager
def _compiled(name: str, files: Mapping[str, str]) -> Iterator[ctypes.CDLL]:
    """Compile the files on this machine and open the library."""
    with tempfile.TemporaryDirectory() as folder:
        contents = {path: text.encode() for path, text in files.items()}
        root = write_folder(Path(folder) / name, contents)
        library = str(Path(folder) / "network.so")
        sources = [str(root / path) for path in files if path.endswith(".c")]
        _compile(sources, library)
        yield ctypes.CDLL(library)


def _self_test(name: str, library: ctypes.CDLL) -> float:
    """Run the self-test of the code and return the largest difference."""
    test = getattr(library, f"{name}_selftest")
    test.restype = ctypes.c_float
    passed = ctypes.c_int()
    difference = float(test(ctypes.byref(passed)))
    if not passed.value:
        raise CheckFailedError(
            f"the self-test fails in C, by {difference:.3g} at most; use a native"
            " program"
        )
    return difference


def _compile(sources: Sequence[str], library: str) -> None:
    """Compile C99 to a shared library with the user's compiler."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise MissingDependencyError(
            f"no C compiler {compiler[0]!r}, which checks the code; install gcc or"
            " set CC"
        )
    options = ["-std=c99", "-O1", "-shared", "-fPIC", *sources, "-lm", "-o", library]
    process = subprocess.run(  # noqa: S603  the user's own compiler
        [*compiler, *options], capture_output=True, check=False
    )
    if process.returncode:
        errors = process.stderr.decode(errors="replace")[:300]
        raise CheckFailedError(f"the C code does not compile: {errors}")
