"""Applies a function to many scenes in several processes, and returns the results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_is_program = False


def allow_processes() -> None:
    """Tells this module that the program `hpal` runs, so that `default_jobs` may be more than one."""
    global _is_program
    _is_program = True


def default_jobs() -> int:
    """The default number of processes: one for each core in the program `hpal`, and one in any other program.

    A spawned process imports the program that started it. A script without `if __name__ == "__main__"` would run again
    from its beginning there.
    """
    return cores() if _is_program else 1


def map_in_order(function: Callable[[In], Out], items: Sequence[In], jobs: int) -> Generator[Out, None, None]:
    """`map(function, items)` in `jobs` processes. The first error ends it. With one job, no process is started.

    At most two results for each process wait to be taken, so that memory does not grow with the number of items.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    # Imported here, since the command line imports this module also to print its help.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # Spawned and not forked, since a fork copies locks but not the threads that hold them.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        queued = 2 * jobs
        pending = [pool.submit(function, item) for item in items[:queued]]
        try:
            for n in range(len(items)):
                result = pending.pop(0).result()
                if n + queued < len(items):
                    pending.append(pool.submit(function, items[n + queued]))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
