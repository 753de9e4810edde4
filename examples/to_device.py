"""The steps from a trained network to a device: export, validate, quantize,
self-test.
"""

from pathlib import Path
from typing import Any

from torch import nn

from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.quantize import QuantizeConfig, Samples, quantize
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import against_module
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime import Model, load


def to_device(
    module: nn.Module,
    example: Any,
    config: ExportConfig,
    samples: Samples,
    folder: Path,
) -> Model:
    """Write ``model.onnx`` and ``model-int8.onnx`` to ``folder``; return the second,
    opened.

    Args:
        module: trained; with the example and the configuration as ``export`` takes
            them.
        example: what ``forward`` takes.
        config: what the file says of itself.
        samples: held-out data that the int8 file is judged on.
        folder: exists.
    """
    path = folder / "model.onnx"
    small = folder / "model-int8.onnx"
    artifact = export(module, example, config)
    artifact.save(path)
    print(
        f"export: {len(artifact.model):,} bytes, at most"
        f" {artifact.verified.max_abs:.1e} from PyTorch"
    )

    file = open_file(path)
    report = validate(
        file,
        against_module(module, file, example, config=config),
        ValidateConfig(quick=True),
    )
    if not report.ok:
        raise SystemExit(report.verdict)
    print(
        f"validate: passed, {sum(len(group.checks) for group in report.groups)} checks"
    )

    made = quantize(path, QuantizeConfig(weights_only=True), samples)
    made.save(small)
    judged = made.verified
    kept = f"outputs change by at most {max(judged.change.values()):.2%} of their range"
    if judged.agreement is not None:
        kept = f"{judged.agreement:.1%} of the labels stay"
    print(f"quantize: {len(made.model):,} bytes, {kept} on {judged.cases} samples")

    model = load(small)
    if not model.selftest().ok:
        raise SystemExit("the self-test failed")
    print("selftest: passed")
    return model
