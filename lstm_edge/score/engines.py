"""Who does the work: this process, or Ray Data's workers on this machine or a cluster."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from lstm_edge_runtime.errors import LstmEdgeError, MissingDependencyError

from .driver import ENDED
from .job import Job, Stage, Tell

_DRIVER = "lstm_edge.score.driver"
_END = 20
"""Seconds that Ray has to shut down."""


@dataclass(frozen=True)
class Engine:
    """Applies a stage to items of work."""

    name: str
    """``one process`` or ``Ray``."""
    workers: int
    """Number of items processed at once."""
    map: Callable[[Stage, Job, Sequence[Mapping[str, Any]], Tell], Iterator[dict[str, Any]]]
    """Yields the results of items in any order; calls ``Tell`` with numbers of rows."""


@contextmanager
def open_engine(workers: int | None, address: str | None) -> Iterator[Engine]:
    """Yield the engine for a number of processes on this machine, or for a running cluster.

    Args:
        workers: number of processes; None for one per core, or one if Ray is not installed.
        address: of the cluster.

    Raises:
        MissingDependencyError: Ray is needed and is not installed.
        InputError: the cluster can't be reached.
    """
    has_ray = find_spec("ray") is not None
    if address is None and (workers == 1 or (workers is None and not has_ray)):
        yield Engine("one process", 1, _map_in_turn)
    elif has_ray:
        with open_ray(workers, address) as engine:
            yield engine
    else:
        raise MissingDependencyError(
            'several workers need ray, which is not installed; pip install "lstm-edge[cluster]", '
            "or give --workers 1"
        )


@contextmanager
def open_ray(workers: int | None, address: str | None) -> Iterator[Engine]:
    """Yield Ray Data: one task per item; arguments as ``open_engine``.

    Ray restarts a task if its worker dies. A local Ray listens on loopback only, has no dashboard
    and sends no usage statistics.
    """
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    if address is None:
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the node's address is 127.0.0.1
    driver = subprocess.Popen(  # noqa: S603  our own interpreter and program
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; from {_DRIVER} import serve; serve()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is this process's
    )
    try:
        _send(driver, (workers, address))
        yield Engine("Ray", _receive(driver), partial(_map_by_ray, driver))
        _send(driver, None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(_END)
    finally:
        if driver.returncode is None:
            _kill(driver)
        driver.communicate()


def _kill(driver: "subprocess.Popen[bytes]") -> None:
    """Kill the driver and its processes: the agents of a local Ray would stay for a minute."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    else:
        driver.kill()


def _send(driver: "subprocess.Popen[bytes]", request: object) -> None:
    assert driver.stdin is not None
    with contextlib.suppress(OSError):  # the next answer says that it has ended
        pickle.dump(request, driver.stdin)
        driver.stdin.flush()


def _receive(driver: "subprocess.Popen[bytes]") -> Any:
    """Return the next answer; raises ``LstmEdgeError``, also if Ray ended the process."""
    assert driver.stdout is not None
    try:
        answer = pickle.load(driver.stdout)  # noqa: S301  from this program
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise LstmEdgeError(ENDED) from error
    if isinstance(answer, LstmEdgeError):
        raise answer
    return answer


def _map_in_turn(
    stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
) -> Iterator[dict[str, Any]]:
    for item in items:
        yield stage(job, item, tell)


def _map_by_ray(
    driver: "subprocess.Popen[bytes]",
    stage: Stage,
    job: Job,
    items: Sequence[Mapping[str, Any]],
    tell: Tell,
) -> Iterator[dict[str, Any]]:
    """Yield each item's result; raises ``LstmEdgeError``: the stage's own; or Ray gave up, or ended."""
    _send(driver, (stage, job, items))
    while (result := _receive(driver)) is not None:
        tell(result["rows"])
        yield result
