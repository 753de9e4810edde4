"""Ray Data in a separate process: Ray ends it if a head or node dies, and prints to its output."""

import logging
import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from lstm_edge_runtime.errors import InputError, LstmEdgeError, first_line

from .job import Job, Stage

ENDED = "Ray ended while it was at work: its head or node died; run again, or give --workers 1"
_PATIENCE = 10
"""Seconds to wait for a cluster's answer."""
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the minimum of Ray: rows go through files, and items and their results are small."""


def serve() -> None:
    """Start Ray as the parent asks, and map its items, until it asks for no more or ends.

    Requests are pickled on standard input: workers and address, then stages with their job and items, None
    last. Answers go to standard output: the number of processors, results, None after the last of a stage, or
    an ``LstmEdgeError``.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for the output of Ray
    requests: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        try:
            while True:
                requests.put(pickle.load(sys.stdin.buffer))  # noqa: S301  from this program
        except EOFError:
            os._exit(1)  # the parent is gone; Ray's processes end with this one

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    threading.Thread(target=read, daemon=True).start()
    import ray

    try:
        answer(_start(*requests.get()))
        while (request := requests.get()) is not None:
            for result in _map(*request):
                answer(result)
            answer(None)
    except LstmEdgeError as error:
        answer(error)
    finally:
        ray.shutdown()
        os._exit(0)  # the thread may be reading


def _start(workers: int | None, address: str | None) -> int:
    """Start Ray, or join it at an address; return its number of processors."""
    import ray
    import ray.data

    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    try:
        if address is None:
            quiet |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
            ray.init("local", num_cpus=workers, **quiet)
        else:
            _reach(address)
            ray.init(address, **quiet)
    except Exception as error:  # Ray raises many classes if it can't start
        what = f"no Ray cluster answers at {address}" if address else "Ray can't start here"
        advice = "ray start --head starts one" if address else "give --workers 1"
        raise InputError(f"{what} ({first_line(error)}); {advice}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return int(ray.cluster_resources().get("CPU", 1))


def _map(stage: Stage, job: Job, items: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each item's result; raises ``LstmEdgeError``: the stage's own, or Ray itself gave up."""
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
            yield result
    except LstmEdgeError:
        raise
    except Exception as error:  # Ray's own are of many classes, a worker's of any
        cause = getattr(error, "cause", None) or error
        if type(cause).__name__ == "LocalRayletDiedError":
            raise LstmEdgeError(ENDED) from error
        raise LstmEdgeError(
            f"Ray could not finish the work ({type(cause).__name__}: {first_line(cause)}); check the "
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
