"""The verified artifact: a file whose function, sizes, rows and chunks were compared with PyTorch."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import onnx
import onnx_ir as ir

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.ort import open_session, run_by_name

from ..graph import with_manifest
from ..progress import Progress
from ..streaming.file import stream_file
from ..verify.compare import Pair
from ..verify.float64 import Graph64
from ..verify.golden import record_golden
from ..verify.verify import Verified, differing_constants, find_streaming, verify
from .cast import to_float32
from .pipeline import Built


@dataclass(frozen=True)
class Artifact:
    """A verified ONNX file; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    verified: Verified
    """Every comparison with PyTorch."""
    nodes: Mapping[str, int]
    """Operator to count."""
    notes: tuple[str, ...] = ()
    """What a reader should know: states left in the graph, sizes that PyTorch itself refuses."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically: to a temporary file, which is then renamed.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def finish(built: Built, show: Progress) -> Artifact:
    """Verify what was built, record golden cases, and write the file.

    Raises:
        CheckFailedError: the file does not compute what the module does.
    """
    bare = with_manifest(built.file, built.manifest)
    try:
        onnx.checker.check_model(bare, full_check=True)
        engine = partial(run_by_name, open_session(bare))
    except Exception as error:
        raise CheckFailedError(f"the file is not valid: {first_line(error)}") from error
    if differing := differing_constants(built.file, built.constants):
        raise CheckFailedError(f"constants are not the rounded ones of float64: {', '.join(differing[:3])}")
    pair = Pair(built.manifest, Graph64(built.exact), built.module, engine)
    verified = verify(pair, built.cases, built.plain, show)
    show(0.8, "feeding chunks")
    manifest = find_streaming(pair, built.cases, built.past.reach, built.past.refused)
    show(0.9, "recording golden cases")
    golden = record_golden(replace(pair, manifest=manifest), replace(built.cases, held=frozenset()))
    manifest = manifest._replace(golden=golden, equivalence=verified.figures())
    content = with_manifest(built.file, manifest)
    load(content).close()
    nodes = dict(Counter(node.op_type for node in built.file.graph.node))
    skipped = (f"not compared at {each}" for each in verified.skipped)
    made = Artifact(content, manifest, verified, nodes, (*built.notes, *skipped))
    return _streamed(built, made) if built.stream else made


def _streamed(built: Built, whole: Artifact) -> Artifact:
    """Return the file that streams the network whose full sequence was verified.

    Raises:
        InputError: its ordinary file streams.
        UnsupportedError: the network does not stream.
    """
    if not built.past.need:
        if whole.manifest.unstreamable:
            raise UnsupportedError(f"the network does not stream: {whole.manifest.unstreamable}")
        raise InputError(
            "this network only looks back, so that its ordinary file streams; leave --stream out"
        )

    def write(model: ir.Model, manifest: Manifest) -> bytes:
        return with_manifest(to_float32(model), manifest)  # a size that became a count is no size now

    found = stream_file(ir.from_proto(built.file), whole.manifest, built.cases, write)
    load(found.model).close()
    nodes = Counter(node.op_type for node in onnx.load_from_string(found.model).graph.node)
    return replace(whole, model=found.model, manifest=found.manifest, nodes=dict(nodes))
