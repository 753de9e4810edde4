"""Read damaged files of every kind: each is read, or refused in one line, in bounded
time and memory.

``FUZZ=5000`` in the environment reads that many with every reader, others at each run.
"""

import faulthandler
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from corpus import make_corpus
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from readers import READERS, Verb

from lstm_edge.cli import cli, run
from lstm_edge_runtime import LstmEdgeError

resource = pytest.importorskip("resource")  # of POSIX
pytestmark = pytest.mark.system

COUNT = int(os.environ.get("FUZZ", "20"))
SECONDS = 120
MEMORY = 4 << 30
GROWTH = 600 << 10
"""Limits of one input: seconds, bytes of addresses, KiB of resident memory."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    make_corpus(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    stack = threading.stack_size(1 << 20)
    yield folder
    threading.stack_size(stack)
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(
    reader, corpus, capfd, monkeypatch
):
    @settings(
        max_examples=COUNT,
        deadline=None,
        database=None,
        derandomize="FUZZ" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**48))
    def read(seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            os.chdir(folder)
            try:
                _read(Random(seed), reader, corpus, Path(folder), capfd)
            finally:
                os.chdir(corpus)

    monkeypatch.chdir(corpus)
    read()


def _read(
    rng: Random,
    reader: str,
    corpus: Path,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    verb = None
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    try:
        if verb := READERS[reader](rng, corpus, folder):
            assert _call(verb, folder) in (0, 1, 2), verb
    except LstmEdgeError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= 500, message
    finally:
        faulthandler.cancel_dump_traceback_later()
    printed = "".join(capfd.readouterr())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH
    if verb is None:
        assert not printed, printed
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) <= 1, errors
    assert all(len(line) <= 510 for line in errors), errors
    assert printed.replace("\n", "").isprintable(), printed
    for word in ("Warning:", "Traceback", "[E:", "[W:"):
        assert word not in printed, printed


def _call(verb: Verb, folder: Path) -> int | str | None:
    (folder / "stdin").write_bytes(verb.stdin)
    kept = os.dup(0)
    given = os.open(folder / "stdin", os.O_RDONLY)
    os.dup2(given, 0)
    try:
        with (
            open(0, encoding="utf-8", closefd=False) as stdin,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", stdin)
            return run(cli, list(verb.arguments))
    except SystemExit as stop:
        return stop.code
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(given)
