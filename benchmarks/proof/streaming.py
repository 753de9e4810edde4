"""Networks that look along time: what a stream gives, compared with the network in float64.

Each is exported, with ``stream=True`` if its ordinary file does not stream, which verifies it. Then it is
streamed at random cuts on both engines. Differences are fractions of the largest value of an output.
"""

import copy
import sys
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.common import parser, print_machine, table
from benchmarks.proof.streaming_networks import NETWORKS, Network
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.verify.cases import random_sizes
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.native import installed

__all__ = ["Found", "compare_stream"]

_UNITS = 40
_NEAR = 1e-4
"""Largest difference of an engine in float32."""


@dataclass(frozen=True)
class Found:
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
        config = ExportConfig(inputs=config.inputs, stream=True)
        artifact = export(module, example, config)
    manifest, rng = artifact.manifest, np.random.default_rng(0)
    steps = (_UNITS + -(-manifest.delay_steps // manifest.unit)) * manifest.unit
    x = rng.standard_normal((steps, network.width)).astype(np.float32)
    with torch.no_grad():
        found = copy.deepcopy(module).double()(torch.from_numpy(x)[None].double())
    whole = [each[0].numpy() for each in (found if isinstance(found, tuple) else (found,))]
    parts = np.split(x, np.cumsum(random_sizes(steps, rng))[:-1])
    engines = {}
    for engine in ("onnxruntime", *["native"] * installed()):
        content = artifact.model
        if engine == "native":
            try:
                content = to_native(content)
            except UnsupportedError:
                continue
        with load(content) as model:
            stream = model.stream()
            results = [stream.process(part) for part in parts]
            engines[model.engine] = max(
                _difference(manifest, spec.name, [_of(each, spec.name) for each in results], expected)
                for spec, expected in zip(manifest.outputs, whole, strict=True)
            )
    return Found(manifest, engines)


def _of(result: object, name: str) -> Array | None:
    return result[name] if isinstance(result, dict) else result  # type: ignore[return-value]


def _difference(manifest: Manifest, name: str, results: list[Array | None], whole: Array) -> float:
    """Return the difference of the frames that both have; 0 for a last result that looks ahead."""
    spec = next(each for each in manifest.outputs if each.name == name)
    axis = manifest.time_axis(tuple(size for size in spec.axes if size != manifest.batch))
    if axis is None:
        if manifest.delays.get(name):
            return 0.0  # ``export`` compares it with the frame that the network computes without padding
        one, other = results[-1], whole
    else:
        joined = np.concatenate([each for each in results if each is not None], axis)
        count = min(joined.shape[axis], whole.shape[axis])
        one, other = joined.take(range(count), axis), whole.take(range(count), axis)
    return float(np.abs(one - other).max(initial=0) / max(np.abs(other).max(initial=0), 1e-9))


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
