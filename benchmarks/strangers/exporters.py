"""Exporters side by side on the same matrix of recurrent modules.

    python -m benchmarks.strangers.exporters [--cells N] [--markdown FILE]

Every cell of ``matrix.py`` goes through

- ``torch.onnx.export(dynamo=True)`` with every batch and time axis ``Dim.AUTO``,
- the deprecated TorchScript exporter, ``torch.onnx.export(dynamo=False)`` with ``dynamic_axes``,
- ``lstm_edge_exporters.export``,

and the file is then opened in onnxruntime and run at six sizes that it was not traced at. A cell *loads* when
a session opens, *runs* when all six sizes run, *agrees* when every output is within 2e-5 of PyTorch there.
Each exporter gets the seconds of its own export alone; this project's include its proof. States that this
exporter makes inputs are fed their reset values. A file has its states as *inputs* where it agrees and takes
all of h and c, so that it can be fed in chunks. With ``--cells`` a random sample is taken, always the same.
"""

import argparse
import contextlib
import io
import logging
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.strangers.matrix import SIZES, TRACED, Cell, Recurrent, cells, draw
from lstm_edge_exporters import export
from lstm_edge_runtime import __version__
from lstm_edge_runtime.manifest import KEY, Manifest

__all__ = ["main"]

TOLERANCE = 2e-5


@dataclass
class Tally:
    """What one exporter did."""

    cells: int = 0
    exports: int = 0
    loads: int = 0
    runs: int = 0
    agrees: int = 0
    stateful: int = 0
    seconds: list[float] = field(default_factory=list)


class Positional(nn.Module):
    """Takes a cell's arguments by position, as both of PyTorch's exporters are used."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        """Wrap ``module``; ``names`` are its parameters in the order of the arguments."""
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return what the module gives."""
        result: tuple[Tensor, ...] = self.module(**dict(zip(self.names, tensors, strict=True)))
        return result


def dynamic_axes(cell: Cell, name: str) -> dict[int, str]:
    """Return the batch and time axes of an input."""
    if name == "x":
        return {0: "N", 1: "L"} if cell.batch_first else {0: "L", 1: "N"}
    return {0: "N"} if name == "lengths" else {1: "N"}


def with_dynamo(cell: Cell, module: nn.Module, feeds: dict[str, Tensor]) -> bytes:
    """Export with PyTorch's exporter."""
    shapes = tuple(dict.fromkeys(dynamic_axes(cell, name), Dim.AUTO) for name in feeds)
    made = torch.onnx.export(
        Positional(module, list(feeds)),
        tuple(feeds.values()),
        dynamo=True,
        dynamic_shapes=(shapes,),
        input_names=list(feeds),
        verbose=False,
    )
    assert made is not None
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


def with_torchscript(cell: Cell, module: nn.Module, feeds: dict[str, Tensor]) -> bytes:
    """Export with the deprecated TorchScript exporter."""
    buffer = io.BytesIO()
    torch.onnx.export(
        Positional(module, list(feeds)),
        tuple(feeds.values()),
        buffer,
        dynamo=False,
        input_names=list(feeds),
        dynamic_axes={name: dynamic_axes(cell, name) for name in feeds},
    )
    return buffer.getvalue()


def with_lstm_edge(_cell: Cell, module: nn.Module, feeds: dict[str, Tensor]) -> bytes:
    """Export with this project, axes and states found by itself."""
    return export(module, feeds).model


EXPORTERS: dict[str, Callable[[Cell, nn.Module, dict[str, Tensor]], bytes]] = {
    "torch.onnx.export(dynamo=True), Dim.AUTO": with_dynamo,
    "torch.onnx.export(dynamo=False), TorchScript": with_torchscript,
    "lstm-edge": with_lstm_edge,
}


def measure(cell: Cell, name: str, tally: Tally) -> None:
    """Put one cell through one exporter."""
    torch.manual_seed(0)
    module = Recurrent(cell).eval()
    generator = torch.Generator().manual_seed(1)
    tally.cells += 1
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = EXPORTERS[name](cell, module, draw(cell, *TRACED, generator))
    except Exception:  # noqa: BLE001  an exporter may fail in any way
        return
    tally.seconds.append(time.perf_counter() - start)
    tally.exports += 1
    try:
        session = onnxruntime.InferenceSession(content)
    except Exception:  # noqa: BLE001
        return
    tally.loads += 1
    try:
        largest = [run(session, cell, module, size, generator) for size in SIZES]
    except Exception:  # noqa: BLE001
        return
    tally.runs += 1
    if max(largest) <= TOLERANCE:
        tally.agrees += 1
        signals = 1 if cell.lengths == "none" else 2
        tally.stateful += len(session.get_inputs()) == signals + len(cell.widths)


def run(
    session: onnxruntime.InferenceSession,
    cell: Cell,
    module: nn.Module,
    size: tuple[int, int],
    generator: torch.Generator,
) -> float:
    """Return the largest difference from PyTorch at one size; infinite where shapes differ."""
    feeds = draw(cell, *size, generator)
    with torch.no_grad():
        expected = module(**feeds)
    fed = {name: tensor.numpy() for name, tensor in feeds.items()}
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    if text is not None and cell.state != "argument":
        for state in Manifest.from_json(text).states:
            shape = [size[0] if axis == "N" else int(axis) for axis in state.axes]
            fed[state.input] = np.broadcast_to(np.float32(state.reset), shape)
    got = session.run(None, fed)[: len(expected)]
    return max(
        float(np.abs(array - tensor.numpy()).max()) if array.shape == tensor.shape else np.inf
        for array, tensor in zip(got, expected, strict=True)
    )


def table(tallies: dict[str, Tally]) -> str:
    """Return the result in Markdown, versions and machine below it."""
    rows = [
        "| exporter | cells | exported | load | run at 6 sizes | agree | states as inputs | median s |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, tally in tallies.items():
        counts = (tally.cells, tally.exports, tally.loads, tally.runs, tally.agrees, tally.stateful)
        seconds = f"{statistics.median(tally.seconds):.2f}" if tally.seconds else "-"
        rows.append(f"| {name} | {' | '.join(map(str, counts))} | {seconds} |")
    versions = f"torch {torch.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}"
    rows += [
        "",
        f"lstm-edge {__version__}, {versions}, Python {platform.python_version()}, {platform.machine()}.",
    ]
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, help="a sample of about so many cells; all of them by default")
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    chosen = list(cells())
    if options.cells:
        chosen = random.Random(0).sample(chosen, min(options.cells, len(chosen)))  # noqa: S311  no secret
    tallies = {name: Tally() for name in EXPORTERS}
    for cell in chosen:
        for name, tally in tallies.items():
            measure(cell, name, tally)
    text = table(tallies)
    print(text)
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
