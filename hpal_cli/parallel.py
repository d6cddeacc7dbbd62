"""The same work over many scenes, in several processes, with the results in order."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(function: Callable[[In], Out], items: Sequence[In], jobs: int) -> Generator[Out, None, None]:
    """`map(function, items)` in `jobs` processes; the first error ends it. With one job, no process is started.

    At most two results a process wait to be taken, so that memory does not grow with the number of items.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    # Spawned, not forked: a fork copies the locks of threads that it does not copy.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        ahead = 2 * jobs
        pending = [pool.submit(function, item) for item in items[:ahead]]
        try:
            for n in range(len(items)):
                result = pending.pop(0).result()
                if n + ahead < len(items):
                    pending.append(pool.submit(function, items[n + ahead]))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
