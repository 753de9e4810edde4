"""Networks that look along time: what a stream gives, beside the whole network.

In float64 the graph that streams runs whole, in chunks at random cuts and unit by unit, beside the graph of
the whole network. In float32 it runs on onnxruntime, cut at random. Differences are fractions of an output's
largest value; a limit is that of the noise floor of the whole network.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
import torch

from benchmarks.common import parser, print_machine, table
from benchmarks.proof.streaming_networks import NETWORKS, Network
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.pipeline import convert
from lstm_edge_exporters.export.request import make_request
from lstm_edge_exporters.graph import to_proto
from lstm_edge_exporters.numerics.cases import Feeds, random_sizes
from lstm_edge_exporters.numerics.compare import EQUAL, Function, fixed_axes, floors_of, measure
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.streaming.late import frames_of, settled_after, with_past
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.delayed import run_delayed
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Manifest, Streamed
from lstm_edge_runtime.onnx_reader import add_initializers
from lstm_edge_runtime.ort import open_session, run_by_name

__all__ = ["Found", "compare_stream"]

_UNITS, _ROWS = 40, 2
"""Units that are compared beside those before the first frame; rows."""


@dataclass(frozen=True)
class Found:
    """What the comparison of one network found."""

    manifest: Manifest
    float64: float
    """The largest difference of any way to cut."""
    float32: float
    of_limit: float

    @property
    def ok(self) -> bool:
        """Whether the stream is the whole network."""
        return self.float64 <= EQUAL and self.of_limit <= 1


def compare_stream(network: Network) -> Found:
    """Export a network, and compare its stream with the whole.

    Raises:
        UnsupportedError: it does not stream.
    """
    torch.manual_seed(0)
    module, example = network.make().eval(), torch.randn(2, 96, network.width)
    config = ExportConfig(inputs={"x": ("N", "L", network.width)})
    artifact = export(module, example, config)
    manifest, content = artifact.manifest, artifact.model
    if manifest.stream is not None:
        content = add_initializers(manifest.stream.graph, content)
    elif not manifest.states or manifest.unstreamable:
        raise UnsupportedError(manifest.unstreamable or "it has no states")
    else:  # one graph for both
        delays = {spec.name: 0 for spec in manifest.outputs}
        manifest = manifest._replace(stream=Streamed(b"", manifest.outputs, manifest.states, delays))
    streaming, fixed = manifest.streaming, fixed_axes(manifest.streaming)
    *_, file = convert(make_request(module, example, config))
    graph, whole = Graph64(onnx.load_from_string(content)), Graph64(to_proto(file.model))
    rng = np.random.default_rng(0)
    steps = settled_after(streaming) + _UNITS * streaming.unit
    x = rng.standard_normal((_ROWS, steps, network.width)).astype(np.float32)
    feeds, against = with_past(streaming, {"x": x}), frames_of(streaming, file.manifest)
    random = random_sizes(steps, rng)
    units = [streaming.unit] * (steps // streaming.unit)
    function = Function(graph, whole, fixed)
    float64 = max(
        function.compare(feeds, partial(_in_chunks, streaming, sizes), against).largest
        for sizes in ([steps], random, units)
    )
    engine = partial(run_by_name, open_session(content))
    rounded = measure(
        _in_chunks(streaming, random, engine, feeds),
        against(whole.run64, feeds),
        floors_of(whole, feeds, fixed, against),
    )
    float32 = max(each.max_rel for each in rounded.records)
    return Found(manifest, float64, float32, rounded.worst.ratio)


def _in_chunks(manifest: Manifest, sizes: Sequence[int], run: Runner, feeds: Feeds) -> Feeds:
    return run_delayed(run, manifest, feeds, sizes)


def main() -> None:
    """Print one row per network."""
    options = parser(str(__doc__))
    options.add_argument("names", nargs="*", help="networks, by default all")
    rows, failed = [], []
    for name in options.parse_args().names or NETWORKS:
        try:
            found = compare_stream(NETWORKS[name])
        except UnsupportedError as error:
            rows.append((name, error, "", "", "", ""))
            failed.append(name)
            continue
        manifest = found.manifest
        figures = (f"{found.float64:.1e}", f"{found.float32:.1e}", f"{found.of_limit:.2f}")
        rows.append((name, manifest.unit, manifest.delay_steps, *figures))
        failed += [] if found.ok else [name]
    columns = ("network", "unit, steps", "delay, steps", "float64", "float32", "of its limit")
    print(table(columns, rows))
    print(f"\n{len(rows) - len(failed)} of {len(rows)} networks stream and are equal")
    print_machine("torch", "onnxruntime")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
