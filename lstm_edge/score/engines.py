"""Who does the work: this process, or Ray Data's workers on this machine or a cluster."""

import contextlib
import logging
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from lstm_edge_runtime.errors import InputError, LstmEdgeError, MissingDependencyError, first_line

from .job import Job, Tell

__all__ = ["Engine", "open_engine", "open_ray"]

Stage = Callable[[Job, Mapping[str, Any], Tell], dict[str, Any]]
_PATIENCE = 10
"""Seconds to wait for a cluster's answer."""
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the least that Ray takes: rows go through files, items and their results are small."""


@dataclass(frozen=True)
class Engine:
    """Applies a stage to items of work."""

    name: str
    """``one process`` or ``Ray``."""
    workers: int
    """How many items are in work at once."""
    map: Callable[[Stage, Job, Sequence[Mapping[str, Any]], Tell], Iterator[dict[str, Any]]]
    """Yields each item's result as it is done, in any order; ``Tell`` hears of rows."""


@contextmanager
def open_engine(workers: int | None, address: str | None) -> Iterator[Engine]:
    """Yield the engine for so many processes on this machine, or for a running cluster.

    Args:
        workers: None takes one a core where Ray is installed, else one.
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
    """Yield Ray Data: a block of one row for each item, mapped by tasks; arguments as ``open_engine``.

    Ray begins a task again whenever its worker dies. A local Ray listens on loopback only, has no dashboard
    and sends no usage statistics.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the node's address is 127.0.0.1
    import ray
    import ray.data

    try:
        try:
            with _own_sigterm():
                count = _start_ray(workers, address)
        except Exception as error:  # whatever Ray raises where it can't start
            what = f"no Ray cluster answers at {address}" if address else "Ray can't start here"
            advice = "ray start --head starts one" if address else "give --workers 1"
            raise InputError(f"{what} ({first_line(error)}); {advice}") from error
        yield Engine("Ray", count, _map_by_ray)
    finally:
        with contextlib.suppress(Exception):  # of a cluster that is gone
            ray.shutdown()


def _start_ray(workers: int | None, address: str | None) -> int:
    """Start Ray, or join it at an address; return how many processors it has."""
    import ray
    import ray.data

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        ray.init("local", num_cpus=workers, **quiet)
    else:
        _reach(address)
        ray.init(address, **quiet)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return int(ray.cluster_resources().get("CPU", 1))


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray puts one in its place that exits with 15, at once."""
    if threading.current_thread() is not threading.main_thread():  # Ray sets none there
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's handler, while it started
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def _map_in_turn(
    stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
) -> Iterator[dict[str, Any]]:
    for item in items:
        yield stage(job, item, tell)


def _map_by_ray(
    stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
) -> Iterator[dict[str, Any]]:
    """Yield each item's result.

    Raises:
        LstmEdgeError: the stage's own; or Ray itself gave up.
    """
    import ray

    try:
        done = ray.data.from_items(
            [{"item": pickle.dumps(item)} for item in items], override_num_blocks=len(items)
        ).map_batches(
            _call, fn_kwargs={"stage": stage, "job": job}, batch_size=1, batch_format="numpy", num_cpus=1
        )
        for row in done.iter_rows():
            result = pickle.loads(row["result"])  # noqa: S301  from a worker, which runs this program
            if isinstance(result, LstmEdgeError):
                raise result  # noqa: TRY301  it passes through
            tell(result["rows"])
            yield result
    except LstmEdgeError:
        raise
    except Exception as error:  # Ray's own are of many classes, a worker's of any
        cause = getattr(error, "cause", None) or error
        raise LstmEdgeError(
            f"Ray could not finish the work ({type(cause).__name__}: {first_line(cause)}); see to the "
            "cluster, or give --workers 1"
        ) from error


def _call(batch: Mapping[str, Any], stage: Stage, job: Job) -> dict[str, list[bytes]]:
    """Apply a stage to the item in a batch; the project's own errors come back as results."""
    (item,) = batch["item"]
    result: object
    try:
        result = stage(job, pickle.loads(item), lambda _: None)  # noqa: S301  from this program
    except LstmEdgeError as error:
        result = error
    return {"result": [pickle.dumps(result)]}


def _reach(address: str) -> None:
    """Raise ``OSError`` if nobody listens at an address; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
