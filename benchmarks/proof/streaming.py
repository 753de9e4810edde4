"""Streams of networks that look along time, compared with the network in float64.

The networks are those of ``tests/exporters/streaming/networks.py``. Each is exported,
with ``stream=True`` if its ordinary file does not stream, which verifies it. Then it is
streamed at random cuts on both engines. Differences are fractions of the largest value
of an output.
"""

import copy
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import ROOT, apart, parser, print_machine, table
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.verify.cases import random_sizes
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Manifest, TensorSpec

_TESTED = runpy.run_path(str(ROOT / "tests/exporters/streaming/networks.py"))
NETWORKS = {network.__name__: network for network in _TESTED["NETWORKS"]}
WIDTH = _TESTED["WIDTH"]
_UNITS = 40
_NEAR = 1e-4
"""Largest difference of an engine in float32."""


def compare_stream(module: nn.Module) -> tuple[Manifest, dict[str, float]]:
    """Export a network; return its manifest, and the largest difference of each
    engine's stream from it.

    Raises:
        UnsupportedError: it does not stream.
    """
    config = ExportConfig(inputs={"x": ("N", "L", WIDTH)})
    example = torch.randn(2, 96, WIDTH)
    artifact = export(module, example, config)
    if artifact.manifest.unstreamable:
        artifact = export(module, example, replace(config, stream=True))
    manifest = artifact.manifest
    rng = np.random.default_rng(0)
    steps = (_UNITS + -(-manifest.delay_steps // manifest.unit)) * manifest.unit
    x = rng.standard_normal((steps, WIDTH)).astype(np.float32)
    with torch.no_grad():
        result = copy.deepcopy(module).double()(torch.from_numpy(x)[None].double())
    wholes = [
        output.numpy()
        for output in (result if isinstance(result, tuple) else (result,))
    ]
    parts = np.split(x, np.cumsum(random_sizes(steps, rng))[:-1])
    engines = {}
    for content in (artifact.model, to_native(artifact.model)):
        with load(content) as model:
            stream = model.stream()
            results = [stream.process(part) for part in parts]
        engines[model.engine] = max(
            _difference(manifest, spec, results, whole)
            for spec, whole in zip(
                manifest.outputs, wholes, strict=False
            )  # states are outputs, too
        )
    return manifest, engines


def _difference(
    manifest: Manifest, spec: TensorSpec, results: Sequence[Any], whole: Array
) -> float:
    """Return the difference of the frames in common; 0 for a last result that looks
    ahead.
    """
    batch = spec.axes.index(manifest.batch or "")
    axis = manifest.time_axis(spec.axes)
    outputs = [
        result[spec.name] if isinstance(result, dict) else result for result in results
    ]
    if (
        axis is None
    ):  # ``export`` compares one with a delay with the frame that has no padding
        return (
            0.0
            if manifest.delays.get(spec.name)
            else apart(outputs[-1], whole.take(0, batch))
        )
    joined = np.concatenate(
        [output for output in outputs if output is not None], axis - 1
    )
    count = min(joined.shape[axis - 1], whole.shape[axis])
    return apart(
        joined.take(range(count), axis - 1), whole[0].take(range(count), axis - 1)
    )


def main() -> None:
    """Print one row per network."""
    options = parser(str(__doc__))
    options.add_argument("names", nargs="*", help="networks, by default all")
    rows = []
    failed = []
    for name in options.parse_args().names or NETWORKS:
        torch.manual_seed(0)
        try:
            manifest, engines = compare_stream(NETWORKS[name]().eval())
        except (CheckFailedError, UnsupportedError) as error:
            rows.append((name, error, "", "", ""))
            failed.append(name)
            continue
        figures = (f"{engines[engine]:.0e}" for engine in ("onnxruntime", "native"))
        rows.append((name, manifest.unit, manifest.delay_steps, *figures))
        failed += [name] if max(engines.values()) > _NEAR else []
    print(
        table(("network", "unit, steps", "delay, steps", "onnxruntime", "`.lep`"), rows)
    )
    print(f"\n{len(rows) - len(failed)} of {len(rows)} networks stream and are equal")
    print_machine("torch", "onnxruntime")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
