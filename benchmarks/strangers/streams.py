"""How many modules and files of public packages stream, and why the others do not.

    strangers/bin/python -m benchmarks.strangers.streams modules [GROUP ...] --json NOW.json
    python -m benchmarks.strangers.streams files [SOURCE ...] --work FOLDER --json FILES.json
    python -m benchmarks.strangers.streams --table BEFORE.json NOW.json

The modules are those of ``exporters.py``, without the matrix, the files those of ``files.py``. One *streams*
if the file that ``export`` or ``lift`` writes opens as a stream. Each has a process of its own, which may
take ``_LONGEST`` seconds; what the JSON file has already is not done again, so that a run that was stopped
goes on. To measure another version, put its ``runtime`` and ``exporters`` folders on PYTHONPATH. With torch
for the CPU alone, torchaudio from PyPI only loads without its ``lib/*.so``.
"""

import contextlib
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import in_process, parser, quiet, table
from benchmarks.strangers.calls import GROUPS, Call, calls_of
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

__all__ = ["main"]

STREAMS = "streams"
_LONGEST = 600.0
_REASONS = {
    r"bidirectional|reads time backwards|reversal of time": "reads time backwards",
    r"forward loops over axis": "no file: a loop over time in Python",
    r"no file: .*(decides by the values|to NumPy|item|gives another output)": "no file: decided by data",
    r"(reduction|normalization|operator|softmax|product|sort) over": "an operator takes all steps together",
    r"padding='reflect'": "reflective padding",
    r"attention over": "attention over the whole sequence",
    r"carries no states": "one step a call, and the file has no states",
    r"fractions of a call": "lengths as fractions of a call",
    r"every call takes|no axis is time": "a call has a fixed number of steps",
    r"no LSTM, GRU or RNN node|no state to lift": "no file: no state, steps are copies of a cell",
    r"TRACEBACK|CRASH|no result": "a traceback, a crash or no end",
}
"""What an outcome says, in the table; the first that fits."""
_NAMES = r"\(.*|[\w./:]*[\d_/][\w./:]*|'[^']*'|(?<=layer )\S+|(?<= of )\w+(?=[,:;]| \()"
_TRACED = (2, 3)
"""As ``exporters.PACKAGES``."""


def outcome_of(write: Callable[[], bytes]) -> str:
    """Return ``STREAMS``, or why what ``write`` gives does not, or why there is none."""
    content = None
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content = write()
        load(content).stream()
    except LstmEdgeError as error:
        return str(error) if content else f"no file: {error}"
    return STREAMS


def export_call(call: Call) -> bytes:
    """Return the file of a module."""
    torch.manual_seed(0)
    module = call.build().eval()
    return export(module, call.inputs(*_TRACED), ExportConfig(inputs=call.axes)).model


def modules(options: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield every module's name and what writes its file."""
    for call in itertools.chain(
        *map(calls_of, options.parts or [each for each in GROUPS if each != "matrix"])
    ):
        yield f"{call.package} {call.name}", partial(export_call, call)


def files(options: Any) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield every file's name and what lifts it."""
    from benchmarks.strangers.files import SOURCES

    for file in itertools.chain(*(SOURCES[name](options) for name in options.parts or SOURCES)):
        yield f"{file.source} {file.name}", lambda file=file: lift(file.content, file.config).model


def reason(outcome: str) -> str:
    """Return why in a few words; where none of ``_REASONS`` fits, the outcome without names and sizes."""
    if known := next((words for pattern, words in _REASONS.items() if re.search(pattern, outcome)), ""):
        return known
    words = outcome.removeprefix("this file can't be streamed: ").partition("; ")[0]
    return re.sub(_NAMES, "…", words)[:100]


def main() -> None:
    """Measure one kind, or print the table of several versions."""
    arguments = parser(__doc__)
    arguments.add_argument("kind", nargs="?", choices=("modules", "files"))
    arguments.add_argument("parts", nargs="*", help="groups of calls.py, or sources of files.py; all if none")
    arguments.add_argument("--work", type=Path, help="as for files.py")
    arguments.add_argument("--python", type=Path, help="as for files.py")
    arguments.add_argument("--json", type=Path, help="read the outcomes that are known, and add the others")
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
    quiet()
    known = options.json and options.json.exists()
    outcomes = json.loads(options.json.read_text()) if known else {}
    for name, write in modules(options) if options.kind == "modules" else files(options):
        if name in outcomes:
            continue
        outcome, ended = in_process(partial(outcome_of, write), _LONGEST)
        outcomes[name] = outcome or ended
        print(name, outcomes[name][:160], sep=" | ", flush=True)
        if options.json:
            options.json.write_text(json.dumps(outcomes, indent=1))


if __name__ == "__main__":
    main()
