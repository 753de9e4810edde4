"""How many modules and files of public packages stream, and why the others do not.

    strangers/bin/python -m benchmarks.strangers.streams modules --json NOW.json
    python -m benchmarks.strangers.streams files --work FOLDER --json FILES.json
    python -m benchmarks.strangers.streams --table BEFORE.json NOW.json

The modules are those of ``exporters.py``, without the matrix, the files those of ``files.py``. One *streams*
if the file that ``export`` or ``lift`` writes opens as a stream. To measure another version, put its
``runtime`` and ``exporters`` folders on PYTHONPATH. With torch for the CPU alone, torchaudio from PyPI only
loads without its ``lib/*.so``.
"""

import contextlib
import io
import itertools
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import torch

from benchmarks.common import parser, table
from benchmarks.strangers.calls import GROUPS, Call, calls_of
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

__all__ = ["main"]

STREAMS = "streams"
_NAMES = r"\(.*|[\w./:]*[\d_/][\w./:]*|'[^']*'|(?<=layer )\S+|(?<= of )\w+(?=[,:;]| \()"
_TRACED = (2, 3)
"""As ``exporters.PACKAGES``."""


def of_content(content: bytes) -> str:
    """Return ``STREAMS``, or why the file does not."""
    try:
        load(content, engine="onnxruntime").stream()
    except LstmEdgeError as error:
        return str(error)
    return STREAMS


def of_module(call: Call) -> str:
    """Return ``STREAMS``, or why the module's file does not, or why there is none."""
    torch.manual_seed(0)
    module = call.build().eval()
    example = call.inputs(*_TRACED)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = export(module, example, ExportConfig(inputs=call.axes)).model
    except LstmEdgeError as error:
        return f"no file: {error}"
    except Exception as error:  # noqa: BLE001  a traceback is a finding
        return f"TRACEBACK: {type(error).__name__}: {error}"
    return of_content(content)


def modules() -> Iterator[tuple[str, str]]:
    """Yield every module's name and outcome."""
    for call in itertools.chain(*(calls_of(group) for group in GROUPS if group != "matrix")):
        yield f"{call.package} {call.name}", of_module(call)


def files(options: Any) -> Iterator[tuple[str, str]]:
    """Yield every file's name and outcome."""
    from benchmarks.strangers.files import SOURCES

    for file in itertools.chain(*(SOURCES[name](options) for name in options.sources or SOURCES)):
        try:
            outcome = of_content(lift(file.content, file.config).model)
        except LstmEdgeError as error:
            outcome = f"no file: {error}"
        except Exception as error:  # noqa: BLE001  a traceback is a finding
            outcome = f"TRACEBACK: {type(error).__name__}: {error}"
        yield f"{file.source} {file.name}", outcome


def reason(outcome: str) -> str:
    """Return an outcome without names of nodes, axes and sizes, to count equal ones."""
    words = outcome.removeprefix("this file can't be streamed: ").partition("; ")[0]
    return re.sub(_NAMES, "…", words)[:100]


def main() -> None:
    """Measure one kind, or print the table of several versions."""
    arguments = parser(__doc__)
    arguments.add_argument("kind", nargs="?", choices=("modules", "files"))
    arguments.add_argument("--work", type=Path, help="as for files.py")
    arguments.add_argument("--python", type=Path, help="as for files.py")
    arguments.add_argument("--sources", nargs="*", help="as for files.py")
    arguments.add_argument("--json", type=Path, help="write the outcomes there")
    arguments.add_argument("--table", type=Path, nargs="+", help="print the table of these files")
    options = arguments.parse_args()
    if options.table:
        versions = [json.loads(path.read_text()) for path in options.table]
        common = set.intersection(*(set(version) for version in versions))
        counts = [Counter(reason(version[name]) for name in common) for version in versions]
        reasons = sorted(set().union(*counts), key=lambda each: (each != STREAMS, -counts[-1][each]))
        rows = [[each, *(count[each] for count in counts)] for each in reasons]
        print(table([f"of {len(common)}", *(path.stem for path in options.table)], rows))
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    outcomes = {}
    for name, outcome in modules() if options.kind == "modules" else files(options):
        outcomes[name] = outcome
        print(name, outcome[:160], sep=" | ", flush=True)
        if options.json:
            options.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
