"""Read damaged files by the thousand, and count what comes of it.

``python tests/fuzz/harness.py --count 100000`` damages files of every kind and reads each as users do, in
child processes with limits on memory and time. An input ends as

* ``read``: it is still a file that can be read;
* ``line``: an ``LstmEdgeError``, or exit 1 or 2, with one line of at most 500 printable characters;
* ``words``: such an error with more than one line, or something printed besides;
* ``traceback``, ``hang``, ``crash``, ``memory``.

The last two lines are what nothing may be in. The seed is printed; ``--only INDEX`` reads one input again and
shows all that it prints.
"""

import argparse
import contextlib
import gc
import importlib
import json
import mmap
import os
import pkgutil
import resource
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from corpus import make_corpus
from readers import CHEAP, READERS, Verb

from lstm_edge.cli import cli, run
from lstm_edge_runtime import LstmEdgeError
from lstm_edge_runtime.ort import import_onnxruntime

CLASSES = ("read", "line", "words", "traceback", "hang", "crash", "memory")
FAULTS = CLASSES[2:]
SECONDS = 0.2
"""How often the parent looks."""
CPU_SECONDS, WALL_SECONDS = 40, 600.0
"""What one input may take, of the processor and on the wall; the slowest verbs quantize and export."""
MEMORY = 2 << 30
"""Bytes of address space beyond what a child starts with."""
GROWTH = 600 << 20
"""Bytes of resident memory that one input may add."""
PER_CHILD, PER_CHILD_CHEAP = 1000, 20_000
"""Inputs that a child reads; threads of verbs that their process would end stay in it until then."""
MEMORY_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where inputs are written: nothing waits for a disk there."""
PRINTED = "printed"
"""The file that has what reading an input printed."""
ROOT = str(Path(__file__).parents[2])
_AT = struct.Struct("<qd")
DRAWN = {name: weight for name, (weight, _) in READERS.items()}
"""The readers in use, and how often each is drawn."""


@dataclass(frozen=True)
class Outcome:
    index: int
    reader: str
    kind: str
    about: str = ""


def draw(seed: int, index: int) -> tuple[Random, str]:
    """Return an input's generator and its reader."""
    rng = Random(f"{seed}:{index}")
    return rng, rng.choices(list(DRAWN), list(DRAWN.values()))[0]


def read_one(seed: int, index: int, corpus: Path, folder: Path, output: int) -> Outcome:
    """Damage and read one input; what the process prints is in the file ``output``."""
    rng, reader = draw(seed, index)
    before = _peak()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = _judge_warning
        try:
            verb = READERS[reader][1](rng, corpus, folder)
            kind, about = ("read", "") if verb is None else _call(verb, folder)
        except LstmEdgeError as error:
            kind, about = _judge_line(str(error))
        except MemoryError:
            kind, about = "memory", "MemoryError"
        except BaseException as error:  # noqa: BLE001  this is what is looked for
            kind, about = "traceback", _place(error)
    sys.stdout.flush()
    sys.stderr.flush()
    printed = _take(output)
    if kind in ("read", "line") and (verb_said := _judge_output(printed, verb_ran=bool(about == "verb"))):
        kind, about = "words", verb_said
    if _peak() - before > GROWTH:
        kind, about = "memory", f"{(_peak() - before) >> 20} MB more"
    return Outcome(index, reader, kind, about)


def _take(output: int) -> str:
    """Return what was printed since the last time."""
    if not os.fstat(output).st_size:
        return ""
    printed = os.pread(output, 1 << 16, 0).decode("utf-8", "replace")
    os.ftruncate(output, 0)
    return printed


def _call(verb: Verb, folder: Path) -> tuple[str, str]:
    source = folder / "stdin"
    source.write_bytes(verb.stdin)
    descriptor = os.open(source, os.O_RDONLY)
    os.dup2(descriptor, 0)
    os.close(descriptor)
    try:
        code = run(cli, list(verb.arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 3
    if code not in (0, 1, 2):
        return "traceback", f"exit {code}"
    return "line" if code else "read", "verb"


def _judge_warning(message: object, category: object, filename: str, lineno: int, *_: object) -> None:
    """Print what is no warning of the project's own."""
    own = category is RuntimeWarning
    if not own or ROOT not in filename or _judge_line(str(message))[0] != "line":
        print(f"{category} at {filename}:{lineno}: {message}"[:300])


def _judge_line(message: str) -> tuple[str, str]:
    fine = "\n" not in message and len(message) <= 500 and message.isprintable()
    return ("line", "") if fine else ("words", repr(message[:200]))


def _judge_output(printed: str, *, verb_ran: bool) -> str:
    """Say what is wrong with what was printed; empty where nothing is."""
    if not verb_ran:
        return printed[:200]
    if wrong := next((each for each in printed if not each.isprintable() and each != "\n"), None):
        return f"{wrong!r} in {printed[:200]!r}"
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    if len(errors) > 1 or any(len(line) > 510 for line in errors):
        return repr(errors)[:200]
    if "Warning:" in printed or "Traceback" in printed or "[E:" in printed or "[W:" in printed:
        return printed[:300]
    return ""


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if each.filename.startswith(ROOT) and ".venv" not in each.filename]
    inner = [each for each in own if "/tests/" not in each.filename] or own or list(frames)
    last = inner[-1]
    where = f"{last.filename.removeprefix(ROOT + '/')}:{last.lineno}"
    return f"{type(error).__name__} at {where}: {str(error)[:160]!r}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _child(seed: int, indices: range, corpus: Path, scratch: Path, at: mmap.mmap, results: int) -> None:
    """Read inputs."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.stack_size(1 << 20)  # the default may be more than the limit
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    output = os.open(scratch / PRINTED, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    folder = scratch / "input"
    folder.mkdir()
    os.chdir(folder)
    for index in indices:
        at[:] = _AT.pack(index, time.monotonic())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # SIGPROF ends the process
        outcome = read_one(seed, index, corpus, folder, output)
        os.write(results, (json.dumps(vars(outcome)) + "\n").encode())
        if os.listdir(folder):  # noqa: PTH208  a hundredth of what a new folder takes
            os.chdir(scratch)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            os.chdir(folder)
    at[:] = _AT.pack(-1, time.monotonic())


class Job:
    """One child at a time, started again after a batch, and behind an input that ended it."""

    def __init__(self, seed: int, first: int, stop: int, jobs: int, corpus: Path) -> None:
        self.seed, self.next, self.stop, self.jobs, self.corpus = seed, first, stop, jobs, corpus
        self.at = mmap.mmap(-1, _AT.size)
        self.pid = 0
        self.rest = b""

    def start(self) -> None:
        self.at[:] = _AT.pack(self.next, time.monotonic())
        self.scratch = Path(tempfile.mkdtemp(prefix="fuzz-read-", dir=MEMORY_FOLDER))
        self.results, writing = os.pipe()
        os.set_blocking(self.results, False)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.results)
                most = PER_CHILD_CHEAP if DRAWN.keys() <= CHEAP.keys() else PER_CHILD
                indices = range(self.next, min(self.stop, self.next + self.jobs * most), self.jobs)
                _child(self.seed, indices, self.corpus, self.scratch, self.at, writing)
                code = 0
            except BaseException:  # noqa: BLE001
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(code)
        os.close(writing)

    def poll(self) -> list[Outcome]:
        """Return new outcomes; starts, watches and replaces the child."""
        if not self.pid:
            if self.next >= self.stop:
                return []
            self.start()
        index, since = _AT.unpack(self.at[:])
        hangs = index >= 0 and time.monotonic() - since > WALL_SECONDS
        if hangs:
            os.kill(self.pid, signal.SIGKILL)
        ended, status = os.waitpid(self.pid, 0 if hangs else os.WNOHANG)
        found = self._outcomes()
        if found:
            self.next = found[-1].index + self.jobs
        if not ended:
            return found
        found += self._outcomes()
        os.close(self.results)
        self.pid = 0
        index, _ = _AT.unpack(self.at[:])
        if status or hangs:
            code = os.waitstatus_to_exitcode(status)
            about = signal.Signals(-code).name if code < 0 else f"exit {code}"
            kind = "hang" if hangs or about == "SIGPROF" else "crash"
            about += f": {(self.scratch / PRINTED).read_text(errors='replace')[:300]!r}"
            found.append(Outcome(index, draw(self.seed, index)[1], kind, about))
        shutil.rmtree(self.scratch, ignore_errors=True)
        if found:
            self.next = max(each.index for each in found) + self.jobs
        return found

    def _outcomes(self) -> list[Outcome]:
        try:
            while part := os.read(self.results, 1 << 16):
                self.rest += part
        except BlockingIOError:
            pass
        *lines, self.rest = self.rest.split(b"\n")
        return [Outcome(**json.loads(line)) for line in lines]


@contextlib.contextmanager
def undamaged(*, full: bool) -> Iterator[Path]:
    """Make the undamaged files, or use those in ``FUZZ_CORPUS``, which earlier runs left there."""
    kept = os.environ.get("FUZZ_CORPUS")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        corpus = Path(kept or place).resolve()
        if not (corpus / "onnx").exists():
            _in_child(lambda: make_corpus(corpus, full=full))
        yield corpus


def fuzz(
    count: int, seed: int, jobs: int, *, full: bool, first: int = 0, verbose: bool = False
) -> list[Outcome]:
    """Read ``count`` damaged inputs; returns an outcome for each."""
    with undamaged(full=full) as corpus:
        _import_all()
        gc.freeze()
        own = os.dup(1)
        running = [Job(seed, first + number, first + count, jobs, corpus) for number in range(jobs)]
        outcomes: list[Outcome] = []
        told, seen = time.monotonic(), set()
        while any(job.pid or job.next < job.stop for job in running):
            for job in running:
                new = job.poll()
                outcomes += new
                for each in new:
                    key = (each.reader, each.kind, each.about.partition(": ")[0])
                    if verbose and each.kind in FAULTS and key not in seen:
                        seen.add(key)
                        os.write(
                            own, f"{each.kind}, {each.reader}, --only {each.index}: {each.about}\n".encode()
                        )
            if verbose and time.monotonic() - told > 60:
                told = time.monotonic()
                os.write(own, f"{len(outcomes)} of {count}\n".encode())
            time.sleep(SECONDS)
        os.close(own)
        return outcomes


def _in_child(work: object) -> None:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the undamaged files could not be made")


def _import_all() -> None:
    """Import once, before children are made, what the readers import and all of the project."""
    import pyarrow.parquet
    import torch

    torch.set_num_threads(1)
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    import_onnxruntime()
    for package in ("lstm_edge", "lstm_edge_exporters", "lstm_edge_runtime"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def report(outcomes: list[Outcome]) -> str:
    """Return the counts as a table, a row a reader."""
    counts = Counter((each.reader, each.kind) for each in outcomes)
    lines = [f"{'reader':<18}" + "".join(f"{name:>11}" for name in CLASSES)]
    for reader in (*DRAWN, "all"):
        row = [
            sum(value for (name, found), value in counts.items() if found == kind and reader in ("all", name))
            for kind in CLASSES
        ]
        lines.append(f"{reader:<18}" + "".join(f"{number:>11,}" for number in row))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0, help="index of the first input")
    parser.add_argument("--quick", action="store_true", help="leave out files that take long to make")
    parser.add_argument(
        "--cheap", action="store_true", help="one edit of a model each, some hundred a second"
    )
    parser.add_argument("--only", type=int, help="read this input again, with all that it prints")
    given = parser.parse_args()
    if given.cheap:
        DRAWN.clear()
        DRAWN.update({name: weight for name, weight in CHEAP.items() if name in READERS})
    seed = given.seed if given.seed is not None else int.from_bytes(os.urandom(3), "little")
    print(f"seed {seed}", flush=True)
    if given.only is not None:
        with undamaged(full=True) as corpus, tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            rng, reader = draw(seed, given.only)
            verb = READERS[reader][1](rng, corpus, Path(folder))
            print(reader, verb)
            if verb:
                print(_call(verb, Path(folder)))
            os.chdir("/")
        return
    began = time.monotonic()
    outcomes = fuzz(given.count, seed, given.jobs, full=not given.quick, first=given.first, verbose=True)
    print(report(outcomes))
    print(f"{len(outcomes):,} inputs, seed {seed}, {time.monotonic() - began:,.0f} s")
    sys.exit(any(each.kind in FAULTS for each in outcomes))


if __name__ == "__main__":
    main()
