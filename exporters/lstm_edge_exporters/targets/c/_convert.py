"""From an ONNX file to a folder of C."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError
from lstm_edge_runtime.files import check_folder, write_folder
from lstm_edge_runtime.model import content_of, read_model, runner, stream_runner
from lstm_edge_runtime.onnx_reader import add_initializers
from lstm_edge_runtime.tolerance import Comparison

from ._calls import golden_case, run_calls
from ._generate import compile_to_c, write_step
from ._interface import build_interface, model_name
from ._render import HARNESS, paths, render
from ._verify import Sizes, find_compiler, measure, verify_c

_CALLS = 24
"""Random calls that C and onnxruntime are compared on."""
_RANGED = ("DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul")
"""Operators that quantize to the range of all that one call brings."""


@dataclass(frozen=True)
class CLibrary:
    """A model in C, run and compared with onnxruntime."""

    name: str
    """The prefix of its functions: ``har`` for ``har_step``."""
    files: Mapping[str, str]
    """The text of each file by its path in the folder."""
    comparisons: tuple[Comparison, ...]
    """Each output and state of each call that was compared."""
    sizes: Sizes

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest difference."""
        return max(self.comparisons, key=lambda comparison: comparison.max_abs)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder, whole or not at all; an earlier one of the same model is replaced.

        Raises:
            NotFoundError: its parent is not there.
            InputError: it holds something else, or can't be written.
        """
        return write_folder(folder, {path: text.encode() for path, text in self.files.items()})


def check_c_folder(
    folder: str | os.PathLike[str], source: str | os.PathLike[str], *, name: str | None = None
) -> None:
    """Refuse early, for a conversion of ``source``, what ``CLibrary.save`` would refuse after the work.

    Raises:
        NotFoundError: the parent of ``folder`` is not there.
        InputError: ``folder`` holds something else, or the model's name can't be one in C.
    """
    check_folder(folder, set(paths(_prefix(source, name))).__contains__)


def to_c(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    chunk: int = 1,
    flash_limit: int | None = None,
    ram_limit: int | None = None,
) -> CLibrary:
    """Translate an ``.onnx`` file with states to C99, compile it here, and compare it with onnxruntime.

    Args:
        source: a file with a manifest.
        name: the prefix of functions and files; None for the file's own name.
        chunk: time steps in one call, a multiple of the stream's unit; a unit where it is less.
        flash_limit: bytes of constants and code that the network may take.
        ram_limit: bytes of state and stack that one source may take.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, is no usable model, carries no
            states, or can't be run in chunks.
        InputError: a name, label or chunk that C can't take.
        UnsupportedError: an axis that can't be pinned, or a node that the native engine lacks.
        MissingDependencyError: no C compiler.
        CheckFailedError: the C code computes something else than onnxruntime, or takes more than a limit.
    """
    prefix = _prefix(source, name)
    if chunk < 1:
        raise InputError(f"the chunk is {chunk}; expected 1 time step or more")
    with load(source) as model:
        model.stream(reset_every="never")  # refuses a file without states, or whose chunks are not the whole
        if model.manifest.golden is not None:
            model.selftest().require()
        stream, run = model.manifest.stream, runner(model)
        content = content_of(model, source)
        graph = _read(content, source)
        manifest = model.manifest.streaming
        if stream is not None:
            graph, run = onnx.load_from_string(add_initializers(stream.graph, content)), stream_runner(model)
            chunk = max(chunk, stream.unit)
        operators = {node.op_type for node in graph.graph.node}
        if chunk > manifest.unit and (ranged := operators.intersection(_RANGED)):
            raise UnsupportedError(
                f"{min(ranged)} quantizes to the range of a whole chunk, so that a chunk differs from single "
                "steps; leave --chunk out, or convert the float file"
            )
        file = read_model(source)[1]
        build_interface(manifest, prefix, chunk)  # refuses names and axes before operators
        compiled = compile_to_c(file, manifest)
        interface = build_interface(manifest, prefix, chunk, compiled.parts)
        compiler = find_compiler()
        step = write_step(compiled, interface)
        golden = golden_case(run, graph, interface)
        files = render(interface, step, golden, model.sha256)
        sizes = measure(files, interface, compiler, step.flash, step.work, counted=bool(step.settled))
        _check_limits(sizes, flash_limit, ram_limit)
        runs = step.end // manifest.unit - step.settled if step.end else _CALLS * interface.runs
        calls = list(run_calls(run, graph, interface, max(1, min(_CALLS, runs // interface.runs))))
        comparisons = verify_c(files, interface, calls, compiler)
        files |= render(interface, step, golden, model.sha256, sizes)
    written = {path: text for path, text in files.items() if path != HARNESS}
    return CLibrary(prefix, written, comparisons, sizes)


def _check_limits(sizes: Sizes, flash: int | None, ram: int | None) -> None:
    for line, size, limit in zip(sizes.lines(), (sizes.flash, sizes.ram), (flash, ram), strict=True):
        if limit is not None and size > limit:
            raise CheckFailedError(f"{line}, expected at most {limit:,}; use a smaller network or int8")


def _read(content: bytes, source: str | os.PathLike[str]) -> onnx.ModelProto:
    graph = onnx.load_from_string(content)
    onnx.load_external_data_for_model(graph, str(Path(source).parent))
    return graph


def _prefix(source: str | os.PathLike[str], name: str | None) -> str:
    return model_name(Path(source).stem if name is None else name)
