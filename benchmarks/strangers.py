"""Modules of packages that strangers wrote, through three exporters.

    python -m venv strangers && strangers/bin/pip install -e ".[cpu,export]"
    strangers/bin/pip install --no-deps -r benchmarks/strangers/GROUP.txt
    strangers/bin/python benchmarks/strangers.py GROUP [--json FILE]
    python benchmarks/strangers.py --table FILE...

Each call builds one module and gives its inputs at any ``(N, L)``. It is exported from those at ``TRACED`` by

- ``lstm_edge_exporters.export``, axes and states found by itself,
- ``torch.onnx.export(dynamo=True)`` with ``Dim.AUTO`` for every axis that changes with N or L,
- the deprecated TorchScript exporter with those axes as ``dynamic_axes``,

and the file is then run in onnxruntime at the sizes of ``JUDGED``, apart from what any exporter saw. It is

- *right* where it agrees with PyTorch at every size that the module itself runs at, within 1e-4 of the
  largest value of the output;
- *ranged* where it does so at every size that its manifest allows, which leaves out some;
- *wrong* where it was written and differs or does not run;
- *refused* where the exporter raised, and for lstm-edge a *traceback* where that is no error of its own.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import platform
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from lstm_edge_exporters import export
from lstm_edge_exporters.numerics.reference import flatten_output
from lstm_edge_runtime import __version__
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import KEY, Manifest

__all__ = ["main"]

TRACED = (2, 3)
"""Rows and units of length of the example; a call says how long a unit is."""
JUDGED = ((1, 2), (3, 4), (4, 7), (1, 9))
TOLERANCE = 1e-4
EXPORTERS = ("lstm-edge", "dynamo, Dim.AUTO", "TorchScript")


@dataclass(frozen=True)
class Call:
    """One module and its inputs."""

    package: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], tuple[Tensor, ...]]
    """The positional arguments of ``forward`` for N rows and a length of so many units."""


def _frames(width: int, unit: int = 4) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, unit * length, width),)


def _wave(unit: int, channels: int = 1) -> Callable[[int, int], tuple[Tensor, ...]]:
    return lambda n, length: (torch.randn(n, channels, unit * length),)


def _separation() -> list[Call]:
    from demucs import demucs
    from denoiser.demucs import BLSTM
    from denoiser.demucs import Demucs as Denoiser

    def channels_first(width: int) -> Callable[[int, int], tuple[Tensor, ...]]:
        return lambda n, length: (torch.randn(n, width, 8 * length),)

    return [
        Call("denoiser", "Demucs", lambda: Denoiser(hidden=4, depth=2, resample=1), _wave(400)),
        Call("denoiser", "Demucs resample", lambda: Denoiser(hidden=4, depth=2, resample=2), _wave(400)),
        Call(
            "denoiser",
            "Demucs causal False",
            lambda: Denoiser(hidden=4, depth=2, resample=1, causal=False),
            _wave(400),
        ),
        Call("denoiser", "BLSTM", lambda: BLSTM(6), lambda n, length: (torch.randn(8 * length, n, 6),)),
        Call("demucs", "BLSTM", lambda: demucs.BLSTM(6), channels_first(6)),
        Call("demucs", "BLSTM max_steps", lambda: demucs.BLSTM(6, max_steps=20), channels_first(6)),
        Call("demucs", "BLSTM skip", lambda: demucs.BLSTM(6, 2, skip=True), channels_first(6)),
        Call(
            "demucs",
            "Demucs",
            lambda: demucs.Demucs(
                ["a", "b"], audio_channels=1, channels=4, depth=2, lstm_layers=1, resample=False
            ),
            _wave(600),
        ),
    ]


def _control() -> list[Call]:
    from ncps.torch import LTC, CfC
    from torchrl.modules import GRU, LSTM, GRUCell, LSTMCell

    def with_state(n: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 4 * length, 5), torch.randn(n, 6)

    return [
        Call("ncps", "CfC", lambda: CfC(5, 6), _frames(5)),
        Call("ncps", "CfC with its state", lambda: CfC(5, 6), with_state),
        Call("ncps", "LTC", lambda: LTC(5, 6), _frames(5)),
        Call("torchrl", "LSTM", lambda: LSTM(5, 6, batch_first=True), _frames(5)),
        Call("torchrl", "GRU", lambda: GRU(5, 6, batch_first=True), _frames(5)),
        Call("torchrl", "LSTMCell", lambda: LSTMCell(5, 6), lambda n, _: (torch.randn(n, 5),)),
        Call("torchrl", "GRUCell", lambda: GRUCell(5, 6), lambda n, _: (torch.randn(n, 5),)),
    ]


GROUPS: dict[str, Callable[[], list[Call]]] = {
    "separation": _separation,
    "control": _control,
}


def changing_axes(call: Call) -> list[dict[int, str]]:
    """Return the axes of each input that change with N or L."""
    shapes = [[tensor.shape for tensor in call.inputs(n, length)] for n, length in (TRACED, *JUDGED)]
    return [
        {axis: f"d{place}_{axis}" for axis in range(len(each[0])) if len({shape[axis] for shape in each}) > 1}
        for place, each in enumerate(zip(*shapes, strict=True))
    ]


def make(exporter: str, call: Call, module: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    """Export ``module`` with one of ``EXPORTERS``."""
    if exporter == "lstm-edge":
        return export(module, example).model
    axes, buffer = changing_axes(call), io.BytesIO()
    names = [f"x{place}" for place in range(len(example))]
    if exporter == "TorchScript":
        torch.onnx.export(
            module,
            example,
            buffer,
            dynamo=False,
            input_names=names,
            dynamic_axes={name: own for name, own in zip(names, axes, strict=True) if own},
        )
        return buffer.getvalue()
    made = torch.onnx.export(
        module,
        example,
        dynamo=True,
        dynamic_shapes=tuple(dict.fromkeys(own, Dim.AUTO) for own in axes),
        verbose=False,
    )
    assert made is not None
    made.save(buffer)
    return buffer.getvalue()


def judge(content: bytes, call: Call, module: nn.Module) -> str:
    """Run a file beside its module at ``JUDGED``; return the verdict."""
    try:
        session = onnxruntime.InferenceSession(content)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return "wrong"
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    manifest = Manifest.from_json(text) if text else None
    compared, left_out = 0, 0
    for n, length in JUDGED:
        torch.manual_seed(n + length)
        tensors = call.inputs(n, length)
        try:
            with torch.no_grad():
                expected = [tensor.numpy() for _, tensor in flatten_output(module(*tensors))]
        except Exception:  # noqa: BLE001, S112  a module may raise anything at a size that it does not take
            continue
        feeds = {
            given.name: tensor.numpy() for given, tensor in zip(session.get_inputs(), tensors, strict=False)
        }
        if manifest is not None:
            sizes = _sizes(manifest, feeds)
            if any(limits.nearest(sizes.get(axis, limits.least)) != sizes.get(axis, limits.least)
                   for axis, limits in manifest.ranges.items()):  # fmt: skip
                left_out += 1
                continue
            feeds |= _states(manifest, sizes, feeds)
        try:
            got = session.run(None, feeds)
        except Exception:  # noqa: BLE001
            return "wrong"
        compared += 1
        if not all(_agree(one, other) for one, other in zip(got, expected, strict=False)):
            return "wrong"
    if left_out:
        return "ranged" if compared > 1 else "wrong"
    return "right" if compared else "refused"


def _sizes(manifest: Manifest, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, int]:
    return {
        axis: size
        for spec in manifest.inputs
        for axis, size in zip(spec.axes, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }


def _states(
    manifest: Manifest, sizes: dict[str, int], feeds: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {
        state.input: np.broadcast_to(
            np.asarray(state.reset, state.dtype),
            [sizes.get(str(a), 1) if isinstance(a, str) else a for a in state.axes],
        )
        for state in manifest.states
        if state.input not in feeds
    }


def _agree(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if got.shape != expected.shape:
        return False
    scale = float(np.abs(expected).max(initial=1e-6))
    return bool(np.allclose(got, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def measure(call: Call, exporter: str) -> tuple[str, str]:
    """Return the verdict on one call, and what was said where there is no file."""
    torch.manual_seed(0)
    module = call.build().eval()
    example = call.inputs(*TRACED)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = make(exporter, call, module, example)
    except Exception as error:  # noqa: BLE001  an exporter may fail in any way
        own = exporter != "lstm-edge" or isinstance(error, LstmEdgeError)
        return (
            "refused" if own else "traceback",
            f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
        )
    return judge(content, call, module), ""


def table(documents: Sequence[dict[str, Any]]) -> str:
    """Return the tally of several groups in Markdown, with versions."""
    rows = [each for document in documents for each in document["calls"]]
    verdicts = ("right", "ranged", "wrong", "refused", "traceback")
    lines = [
        f"| {len(rows)} calls | {' | '.join(verdicts)} |",
        f"| --- | {' | '.join(['--:'] * len(verdicts))} |",
    ]
    for exporter in EXPORTERS:
        counts = Counter(row[exporter][0] for row in rows)
        lines.append(f"| {exporter} | {' | '.join(str(counts[verdict]) for verdict in verdicts)} |")
    packages = {name: version for document in documents for name, version in document["versions"].items()}
    about = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    return "\n".join([*lines, "", f"{about}; {documents[0]['platform']}."]) + "\n"


def main() -> None:
    """Run one group, or print the table of several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", nargs="?", choices=GROUPS)
    parser.add_argument("--json", type=Path, help="write the verdicts there")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(path.read_text()) for path in options.table]))
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    rows = []
    calls = GROUPS[options.group]()
    for call in calls:
        row = {"package": call.package, "name": call.name} | {
            exporter: measure(call, exporter) for exporter in EXPORTERS
        }
        rows.append(row)
        print(
            call.package,
            call.name,
            *(f"{name}: {' '.join(row[name])[:160]}" for name in EXPORTERS),
            sep=" | ",
            flush=True,
        )
    document = {
        "calls": rows,
        "versions": {
            name: importlib.metadata.version(name)
            for name in sorted({call.package for call in calls} | {"torch", "onnx", "onnxruntime"})
        }
        | {"lstm-edge": __version__},
        "platform": f"Python {platform.python_version()}, {platform.machine()}",
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
