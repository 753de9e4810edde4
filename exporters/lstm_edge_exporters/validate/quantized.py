"""An int8 or fp16 file: quantizing its reference again must give the same file, bit for
bit.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError, first_line

from ..graph import with_manifest
from ..quantize.config import Budget, QuantizeConfig
from ..quantize.gate import evidence, judge, over_budget, run_file
from ..quantize.pipeline import on_native, quantized_again, with_limits
from ..verify.check import Check, passed_unless, within_limits
from ..verify.compare import FLOOR, compare_all
from ..verify.file import ModelFile
from ..verify.float64 import Graph64
from .config import ValidateConfig
from .expected import Expected
from .nodes import compare_graphs

_SHOWN = 3
SLACK = 1.05
"""How many times the limits found here may be those recorded."""
_FLOAT = 1e-4
"""How far recorded outputs may be from float64's, as a fraction of the largest
value."""


def check_quantized(
    file: ModelFile, expected: Expected, config: ValidateConfig
) -> Iterator[Check]:
    """Quantize the reference again with the recorded options and compare; then run the
    gate.
    """
    options = file.manifest.provenance.get("quantize")
    if not isinstance(options, dict):
        yield Check(
            "quantized as recorded",
            "failed",
            "the file does not record how it was quantized",
        )
        return
    try:
        requantized = quantized_again(
            expected.proto, QuantizeConfig(**options["config"]), options["candidate"]
        )
    except (LstmEdgeError, TypeError, KeyError) as error:
        yield Check("quantized as recorded", "failed", first_line(error))
        return
    differences = compare_graphs(file.inlined, ir.from_proto(requantized))
    texts = [*differences.nodes, *differences.constants]
    yield passed_unless("bit for bit", "; ".join(texts[:_SHOWN]))
    manifest = expected.manifest._replace(golden=file.manifest.golden)
    cases, targets = evidence(manifest, config.data)
    is_real = config.data is not None
    before, after = (
        run_file(load(source), cases, real=is_real)
        for source in (with_manifest(expected.proto, manifest), file.path)
    )
    judgement = judge(manifest, before, after, targets, real=is_real)
    exceeded = over_budget(judgement, config.budget or Budget())
    yield passed_unless("within the budget", "; ".join(exceeded))


def check_golden(file: ModelFile, expected: Expected) -> Iterator[Check]:
    """Compare the recorded cases with the reference, and their limits with what this
    file needs.
    """
    golden = file.manifest.golden
    assert golden is not None
    assert file.model is not None
    cases = [golden._replace(more=()), *golden.more]
    models = [file.model]
    try:
        native = on_native(file.path.read_bytes())
    except CheckFailedError as error:
        yield Check("native engine", "failed", first_line(error))
        native = None
    if native is not None:
        models.append(native)
    graph = Graph64(expected.exact)
    needed_cases = with_limits(file.manifest, cases, models)
    pairs = zip(cases, needed_cases, strict=True)
    for number, (case, needed) in enumerate(pairs, 1):
        exact = {}
        limits = {}
        for name, array in graph(case.inputs).items():
            if name in case.outputs:
                largest = np.abs(array).max(initial=0.0)
                exact[name] = array
                limits[name] = np.asarray(_FLOAT * largest + FLOOR)
        comparisons = compare_all(case.outputs, exact, limits)
        yield within_limits(f"golden case {number} is the reference's", comparisons)
        too_wide = []
        for name, limit in case.limit.items():
            if np.any(limit > SLACK * needed.limit[name]):
                too_wide.append(name)
        about = ""
        if too_wide:
            about = f"limits of {', '.join(too_wide)} are wider than the file needs"
        yield passed_unless(f"limits of golden case {number}", about)
