"""Applies a function to many scenes in several processes, and returns the results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_is_program = False


def allow_processes() -> None:
    """Says that hpal's own program runs here, so that `default_jobs` may be more than one."""
    global _is_program
    _is_program = True


def default_jobs() -> int:
    """How many processes share the scenes where nobody says a number: one a core in hpal's own program, else one.

    A spawned process imports the program that started it, and a script without `if __name__ == "__main__"` would
    begin all over again there.
    """
    return cores() if _is_program else 1


def map_in_order(function: Callable[[In], Out], items: Sequence[In], jobs: int) -> Generator[Out, None, None]:
    """`map(function, items)` in `jobs` processes; the first error ends it. With one job, no process is started.

    At most two results a process wait to be taken, so that memory does not grow with the number of items.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    # Here, since the command line loads this module for its help too.
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

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
