"""The graph that streams, where it is not the file's own: it must give the frames of the whole.

What the whole computes is compared with the reference elsewhere.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.delayed import run_delayed
from lstm_edge_runtime.manifest import Golden
from lstm_edge_runtime.onnx_reader import add_initializers
from lstm_edge_runtime.ort import run_by_name
from lstm_edge_runtime.selftest import golden_limits
from lstm_edge_runtime.tolerance import MULTIPLE

from ...graph import to_proto
from ...isolation import open_isolated
from ...lift.quantized import float_twin, is_quantized
from ...numerics.cases import CaseGenerator, Feeds, random_sizes
from ...numerics.compare import Expected, channel_limits, compare_within, expected, fixed_axes
from ...numerics.graph64 import Graph64, MeasuredGraph, open_graph
from ...streaming.late import frames_of, reach_end, settled_after, with_past
from ..reference import ModelFile, ReferenceModel
from ..report import Check, asked
from .golden import compare_recorded, loose

_OFFSET = 10_003
_STEPS = 24
_SAME, _SAME_64 = 1e-3, 1e-9
"""How far chunks may be from the whole, as a fraction of an output's largest value; in float64."""
_NOT_IN_FLOAT = "an operator that quantizes has no constant weights"


def check_stream(file: ModelFile, reference: ReferenceModel | None, seed: int) -> Iterator[Check]:
    """Compare chunks with the whole, and the golden case of the stream with what it should be.

    An int8 file's float twin is compared, as a quantizer scales every call by itself.
    """
    manifest, streaming = file.manifest, file.manifest.streaming
    assert manifest.stream is not None
    name = "a stream gives the frames of the whole"
    content = add_initializers(manifest.stream.graph, file.path.read_bytes())
    stream, whole = _graph(onnx.load_from_string(content)), _graph(file.proto)
    if stream is None or whole is None:
        yield Check(name, "skipped", _NOT_IN_FLOAT)
        return
    cases = CaseGenerator.of(manifest, manifest.golden.inputs if manifest.golden else {}, None, seed)
    steps = 3 * settled_after(streaming) + -(-_STEPS // streaming.unit) * streaming.unit
    steps = min(steps, manifest.stream.end or steps)
    feeds = with_past(streaming, cases.case(2, steps, at_reset=True, offset=_OFFSET).feeds)

    def apart() -> str:
        reach_end(streaming, partial(run_by_name, open_isolated(content)), lambda *_: feeds)
        return _apart(file, stream, whole, feeds, random_sizes(steps, np.random.default_rng(seed)))

    yield asked(name, apart)
    golden = manifest.stream.golden
    if golden is None:
        yield Check("golden case of the stream", "failed", "the file has none; export it again")
    elif file.precision in ("fp32", "fp64") or reference is not None:
        yield asked("golden case of the stream", lambda: _misrecorded(file, reference, whole, golden))


def _graph(proto: onnx.ModelProto) -> Graph64 | MeasuredGraph | None:
    """Return a graph in float64, or of one that quantizes its float twin; None where there is none."""
    read = ir.from_proto(proto)
    twin = float_twin(read) if is_quantized(read) else read
    if twin is None:
        return None
    content = (proto if twin is read else to_proto(twin)).SerializeToString()
    return open_graph(content, partial(run_by_name, open_isolated(content)))


def _apart(
    file: ModelFile,
    stream: Graph64 | MeasuredGraph,
    whole: Graph64 | MeasuredGraph,
    feeds: Feeds,
    sizes: list[int],
) -> str:
    """Return by how much chunks differ from the whole, and the last step's from those of one chunk."""
    streaming = file.manifest.streaming
    one, chunks = (run_delayed(stream.run64, streaming, feeds, each) for each in ([sum(sizes)], sizes))
    frames = frames_of(streaming, file.manifest)(whole.run64, feeds)
    exact = {name: (frames if name in streaming.time_axes else one)[name] for name in chunks}
    same = _SAME_64 if isinstance(stream, Graph64) and isinstance(whole, Graph64) else _SAME
    records = compare_within(chunks, exact, channel_limits(exact, same))
    return next((f"the whole and the stream: {each}" for each in records if not each.ok), "")


def _misrecorded(
    file: ModelFile, reference: ReferenceModel | None, whole: Graph64 | MeasuredGraph, golden: Golden
) -> str:
    """Return which frames of the case are not those of the whole, or which limits are wider than needed."""
    streaming = file.manifest.streaming
    feeds, fixed = with_past(streaming, golden.inputs), fixed_axes(streaming)
    frames = frames_of(streaming, file.manifest)
    if file.precision in ("fp32", "fp64"):
        known = expected(whole, feeds, fixed, frames)
        limits = {name: MULTIPLE * array for name, array in known.floors.items()}
    else:
        from ...quantization.judge import device_limits

        assert reference is not None
        assert file.model is not None
        known = Expected(frames(reference.computation.run64, feeds), {})
        replays = (each for each in file.model.selftest().replays if each.of_stream)
        found = (record for each in replays for record in each.comparisons)
        limits = {name: np.asarray(limit) for name, limit in device_limits(found, golden.outputs).items()}
    names = [name for name in golden.outputs if name in streaming.time_axes]
    records = compare_recorded(golden, {name: known.ref64[name] for name in names})
    wrong = [str(record) for record in records if not record.ok]
    for name in names:
        wrong += loose(f"limit of {name}", golden_limits(golden, name), limits[name])
    return "; ".join(wrong[:1])
