"""Who does the work: this process, or Ray Data's workers on this machine or a cluster.

Ray runs in a separate process, the driver: it ends its process if a head or node dies, and prints to its
output.
"""

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from queue import SimpleQueue
from typing import Any

from lstm_edge_runtime.errors import InputError, LstmEdgeError, MissingDependencyError, first_line

from .job import Done, Job, Stage, Tell

_ENDED = "Ray ended while it was at work: its head or node died; run again, or give --workers 1"
_END = 20
"""Seconds that Ray has to shut down."""
_PATIENCE = 10
"""Seconds to wait for a cluster's answer."""
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the minimum of Ray: rows go through files, and items and their results are small."""


@dataclass(frozen=True)
class Engine:
    """Applies a stage to items of work."""

    name: str
    """``one process`` or ``Ray``."""
    workers: int
    """Number of items processed at once."""
    map: Callable[[Stage, Job, Sequence[Any], Tell], Iterator[Done]]
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


def _map_in_turn(stage: Stage, job: Job, items: Sequence[Any], tell: Tell) -> Iterator[Done]:
    for number, item in enumerate(items):
        yield stage(job, number, item, tell)


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
            f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is this process's
    )

    def send(request: object) -> None:
        with contextlib.suppress(OSError):  # the next answer says that it has ended
            pickle.dump(request, driver.stdin)  # type: ignore[arg-type]
            driver.stdin.flush()  # type: ignore[union-attr]

    def ask(*request: Any) -> Iterator[Any]:
        send(request)
        while (answer := _receive(driver)) is not None:
            yield answer

    def map_by_ray(stage: Stage, job: Job, items: Sequence[Any], tell: Tell) -> Iterator[Done]:
        for done in ask(_map, stage, job, items):
            tell(done.rows)
            yield done

    try:
        (cores,) = ask(_start, workers, address)
        yield Engine("Ray", cores, map_by_ray)
        send(None)
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


def _receive(driver: "subprocess.Popen[bytes]") -> Any:
    """Return the next answer; raises ``LstmEdgeError``, also if Ray ended the process."""
    try:
        answer = pickle.load(driver.stdout)  # type: ignore[arg-type]  # noqa: S301  from this program
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise LstmEdgeError(_ENDED) from error
    if isinstance(answer, LstmEdgeError):
        raise answer
    return answer


def serve() -> None:
    """Run in the driver what the parent asks for, until it asks for no more or ends.

    Requests are pickled on standard input: a generator function and its arguments, None last. What it yields
    goes to standard output: values or an ``LstmEdgeError``, and None at its end.
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

    threading.Thread(target=read, daemon=True).start()
    import ray

    try:
        while (request := requests.get()) is not None:
            function, *arguments = request
            for answer in chain(function(*arguments), [None]):
                pickle.dump(answer, answers)
                answers.flush()
    finally:
        ray.shutdown()
        os._exit(0)  # the thread may be reading


def _start(workers: int | None, address: str | None) -> Iterator[int | LstmEdgeError]:
    """Start Ray, or join it at an address; yield its number of processors."""
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
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield int(ray.cluster_resources().get("CPU", 1))
    except Exception as error:  # noqa: BLE001  Ray raises many classes if it can't start
        what = f"no Ray cluster answers at {address}" if address else "Ray can't start here"
        advice = "ray start --head starts one" if address else "give --workers 1"
        yield InputError(f"{what} ({first_line(error)}); {advice}")


def _reach(address: str) -> None:
    """Raise ``OSError`` if nobody listens at an address; Ray itself tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def _map(stage: Stage, job: Job, items: Sequence[Any]) -> Iterator[Done | LstmEdgeError]:
    """Yield each item's result, or the first error: the stage's own, or that Ray itself gave up."""
    import ray

    try:
        done = ray.data.from_items(
            [{"item": pickle.dumps(item)} for item in enumerate(items)], override_num_blocks=len(items)
        ).map_batches(
            _call, fn_kwargs={"stage": stage, "job": job}, batch_size=1, batch_format="numpy", num_cpus=1
        )
        for row in done.iter_rows():
            yield pickle.loads(row["result"])  # noqa: S301  from a worker, which runs this program
    except Exception as error:  # noqa: BLE001  Ray's own are of many classes, a worker's of any
        cause = getattr(error, "cause", None) or error
        ended = type(cause).__name__ == "LocalRayletDiedError"
        what = f"Ray could not finish the work ({type(cause).__name__}: {first_line(cause)})"
        yield LstmEdgeError(_ENDED if ended else f"{what}; check the cluster, or give --workers 1")


def _call(batch: Mapping[str, Any], stage: Stage, job: Job) -> dict[str, list[bytes]]:
    """Apply a stage to the item in a batch; the project's own errors come back as results."""
    result: Done | LstmEdgeError
    try:
        number, item = pickle.loads(batch["item"][0])  # noqa: S301  from this program
        result = stage(job, number, item, lambda _: None)
    except LstmEdgeError as error:
        result = error
    return {"result": [pickle.dumps(result)]}
