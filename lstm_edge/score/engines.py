"""Who does the work: this process, or Ray Data's workers on this machine or a cluster."""

import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Any, Protocol

from lstm_edge_runtime import errors
from lstm_edge_runtime.errors import InputError, LstmEdgeError, MissingDependencyError, first_line

from .job import Job, Tell

__all__ = ["Engine", "LocalEngine", "RayEngine", "open_engine"]

Stage = Callable[[Job, Mapping[str, Any], Tell], dict[str, Any]]
_PATIENCE = 10
"""Seconds to wait for a cluster's answer."""
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the least that Ray takes: rows go through files, items and their results are small."""


class Engine(Protocol):
    """Applies a stage to items of work."""

    workers: int
    """How many items are in work at once."""
    name: str

    def map(
        self, stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """Yield each item's result as it is done, in any order; ``tell`` hears of rows."""

    def __enter__(self) -> "Engine": ...  # noqa: PYI034
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_engine(workers: int | None, address: str | None) -> Engine:
    """Return the engine for so many processes on this machine, or for a running cluster.

    Args:
        workers: None takes one a core where Ray is installed, else one.
        address: of the cluster.

    Raises:
        MissingDependencyError: Ray is needed and is not installed.
        InputError: the cluster can't be reached.
    """
    has_ray = find_spec("ray") is not None
    if address is None and (workers == 1 or (workers is None and not has_ray)):
        return LocalEngine()
    if not has_ray:
        raise MissingDependencyError(
            'several workers need ray, which is not installed; pip install "lstm-edge[cluster]", '
            "or give --workers 1"
        )
    return RayEngine(workers, address)


class LocalEngine:
    """This process, one item after another."""

    workers = 1
    name = "one process"

    def map(
        self, stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """Yield each item's result."""
        for item in items:
            yield stage(job, item, tell)

    def __enter__(self) -> "LocalEngine":  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        pass


class RayEngine:
    """Ray Data: a block of one row for each item, mapped by tasks.

    Ray begins a task again whenever its worker dies. A local Ray listens on loopback only, has no dashboard
    and sends no usage statistics.
    """

    name = "Ray"

    def __init__(self, workers: int | None, address: str | None) -> None:
        """Keep what ``__enter__`` starts with."""
        self._workers, self._address = workers, address
        self.workers = workers or 0

    def __enter__(self) -> "RayEngine":  # noqa: PYI034
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if self._address is None:
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the node's address is 127.0.0.1
        import ray
        import ray.data

        quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        if self._address is not None:
            try:
                _reach(self._address)
                ray.init(address=self._address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"no Ray cluster answers at {self._address} ({first_line(error)}); ray start --head "
                    "starts one"
                ) from error
        else:
            ray.init(
                address="local",
                num_cpus=self._workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                **quiet,
            )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        self.workers = int(ray.cluster_resources().get("CPU", 1))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    def map(
        self, stage: Stage, job: Job, items: Sequence[Mapping[str, Any]], tell: Tell
    ) -> Iterator[dict[str, Any]]:
        """Yield each item's result.

        Raises:
            LstmEdgeError: the stage's own; or Ray itself gave up.
        """
        import ray

        rows = [{"item": json.dumps(item)} for item in items]
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _call,
            fn_kwargs={"stage": stage, "job": job},
            batch_size=1,
            batch_format="numpy",
            num_cpus=1,
        )
        try:
            for row in done.iter_rows():
                result = json.loads(row["result"])
                if "error" in result:
                    raise getattr(errors, result["error"])(result["message"])
                tell(result["done"]["rows"])
                yield result["done"]
        except ray.exceptions.RayError as error:
            raise LstmEdgeError(f"Ray could not finish the work: {first_line(error)}") from error


def _reach(address: str) -> None:
    """Raise ``OSError`` if nobody listens at an address; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _call(batch: Mapping[str, Any], stage: Stage, job: Job) -> dict[str, list[str]]:
    """Apply a stage to the item in a batch; the project's own errors come back as data."""
    results = []
    for text in batch["item"]:
        try:
            result: dict[str, Any] = {"done": stage(job, json.loads(text), lambda _: None)}
        except LstmEdgeError as error:
            result = {"error": type(error).__name__, "message": str(error)}
        results.append(json.dumps(result))
    return {"result": results}
