"""Who does the work: this process, or several."""

from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from lstm_edge_runtime.errors import LstmEdgeError

from .plan import Plan

Stage = Callable[[Plan, int], int]
Workers = Callable[[Stage, Plan, int], Iterator[int]]
"""Applies a stage to the items ``0 ... n - 1`` and yields the results in any order."""


def processes(count: int) -> Workers:
    """Return workers on this machine."""

    def run(stage: Stage, plan: Plan, items: int) -> Iterator[int]:
        """Yield each item's number when it is done, in the order of completion."""
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
