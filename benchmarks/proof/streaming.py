"""Networks that look along time: what a stream gives, compared with the network in float64.

Each is exported, with ``stream=True`` if its ordinary file does not stream, which verifies it. Then it is
streamed at random cuts on both engines. Differences are fractions of the largest value of an output.
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.common import apart, parser, print_machine, table
from benchmarks.proof.streaming_networks import NETWORKS, Network
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.verify.cases import random_sizes
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest

__all__ = ["Found", "compare_stream"]

_UNITS = 40
_NEAR = 1e-4
"""Largest difference of an engine in float32."""


class Found(NamedTuple):
    """The largest difference of each engine from the network."""

    manifest: Manifest
    engines: dict[str, float]

    @property
    def ok(self) -> bool:
        """True if every engine gives the frames of the network."""
        return all(difference <= _NEAR for difference in self.engines.values())


def compare_stream(network: Network) -> Found:
    """Export a network, and compare its stream with it.

    Raises:
        UnsupportedError: it does not stream.
    """
    torch.manual_seed(0)
    module, example = network.make().eval(), torch.randn(2, 96, network.width)
    config = ExportConfig(inputs={"x": ("N", "L", network.width)})
    artifact = export(module, example, config)
    if artifact.manifest.unstreamable:
        artifact = export(module, example, replace(config, stream=True))
    manifest, rng = artifact.manifest, np.random.default_rng(0)
    steps = (_UNITS + -(-manifest.delay_steps // manifest.unit)) * manifest.unit
    x = rng.standard_normal((steps, network.width)).astype(np.float32)
    with torch.no_grad():
        whole = copy.deepcopy(module).double()(torch.from_numpy(x)[None].double())[0].numpy()
    parts = np.split(x, np.cumsum(random_sizes(steps, rng))[:-1])
    engines = {}
    for content in (artifact.model, to_native(artifact.model)):
        with load(content) as model:
            stream = model.stream()
            engines[model.engine] = _difference(manifest, [stream.process(part) for part in parts], whole)
    return Found(manifest, engines)


def _difference(manifest: Manifest, results: Sequence[Any], whole: Array) -> float:
    """Return the difference of the frames that both have; 0 for a last result that looks ahead."""
    (spec,) = manifest.outputs
    axis = manifest.time_axis(tuple(size for size in spec.axes if size != manifest.batch))
    if axis is None:
        if manifest.delays.get(spec.name):
            return 0.0  # ``export`` compares it with the frame that the network computes without padding
        return apart(results[-1], whole)
    joined = np.concatenate([each for each in results if each is not None], axis)
    count = min(joined.shape[axis], whole.shape[axis])
    return apart(joined.take(range(count), axis), whole.take(range(count), axis))


def main() -> None:
    """Print one row per network."""
    options = parser(str(__doc__))
    options.add_argument("names", nargs="*", help="networks, by default all")
    rows, failed = [], []
    for name in options.parse_args().names or NETWORKS:
        try:
            found = compare_stream(NETWORKS[name])
        except (CheckFailedError, UnsupportedError) as error:
            rows.append((name, error, "", "", ""))
            failed.append(name)
            continue
        manifest = found.manifest
        figures = (
            f"{found.engines[each]:.0e}" if each in found.engines else ""
            for each in ("onnxruntime", "native")
        )
        rows.append((name, manifest.unit, manifest.delay_steps, *figures))
        failed += [] if found.ok else [name]
    print(table(("network", "unit, steps", "delay, steps", "onnxruntime", "native"), rows))
    print(f"\n{len(rows) - len(failed)} of {len(rows)} networks stream and are equal")
    print_machine("torch", "onnxruntime")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
