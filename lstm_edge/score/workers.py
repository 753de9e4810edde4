"""Who does the work: this process, several, or a Ray cluster."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from lstm_edge_runtime.errors import (
    LstmEdgeError,
    MissingDependencyError,
    first_line,
    install_command,
)

from .plan import Plan

Stage = Callable[[Plan, int], int]
Workers = Callable[[Stage, Plan, int], Iterator[int]]
"""Applies a stage to the items ``0 ... n - 1`` and yields the results in any order."""


def processes(count: int) -> Workers:
    """Return workers on this machine."""

    def run(stage: Stage, plan: Plan, items: int) -> Iterator[int]:
        if min(count, items) <= 1:
            yield from (stage(plan, item) for item in range(items))
            return
        with ProcessPoolExecutor(min(count, items), get_context("spawn")) as pool:
            try:
                for done in as_completed(
                    [pool.submit(stage, plan, item) for item in range(items)]
                ):
                    yield done.result()
            except BrokenExecutor as error:
                raise LstmEdgeError("a worker ended; run again to continue") from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    return run


def ray_cluster(address: str) -> Workers:
    """Return the workers of a running cluster, whose machines see all files at the same
    paths.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            f"--address needs ray; {install_command('cluster')}"
        ) from error
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself waits for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise LstmEdgeError(
            f"no Ray cluster answers at {address} ({first_line(error)})"
        ) from error

    def run(stage: Stage, plan: Plan, items: int) -> Iterator[int]:
        task = ray.remote(max_retries=-1)(stage)  # repeats an item whose worker died
        waiting = [task.remote(plan, item) for item in range(items)]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            try:
                yield ray.get(done)
            except ray.exceptions.RayTaskError as error:
                is_ours = isinstance(error.cause, LstmEdgeError)
                raise (
                    error.cause if is_ours else LstmEdgeError(first_line(error.cause))
                ) from error
            except ray.exceptions.RayError as error:
                raise LstmEdgeError(
                    f"Ray ended ({first_line(error)}); run again to continue"
                ) from error

    return run
