"""Applies a function to many scenes and returns the results in order: in this process, in several processes of this
computer, or on the workers of a Dask cluster (`cluster.py`). Which of these it is, is chosen here and nowhere else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from hpal_cli.parallel.cluster import Cluster
    from hpal_cli.progress import Monitor

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


@contextlib.contextmanager
def workers(jobs: int, scheduler: str | None, monitor: Monitor | None = None) -> Iterator[int | Cluster]:
    """What a call is given as its `jobs`: the number of processes, or the cluster that `scheduler` names, which is left
    when the block ends.

    Raises:
        UsageError: the name is none that hpal knows, or Dask is not installed.
        HpalError: no scheduler answers there, or a worker has another version of hpal.
    """
    if scheduler is None:
        yield jobs
        return
    from hpal_cli.parallel.cluster import connect

    with connect(scheduler, monitor) as cluster:
        yield cluster


def at_most(jobs: int | Cluster, tasks: int) -> int | Cluster:
    """No more processes than there are tasks. A cluster stays what it is."""
    return min(jobs, max(1, tasks)) if isinstance(jobs, int) else jobs


def threads_of(jobs: int | Cluster) -> int:
    """The number of threads that each task may use."""
    # A worker has as many tasks at a time as it was given cores.
    return max(1, cores() // jobs) if isinstance(jobs, int) else 1


def map_in_order(function: Callable[[In], Out], items: Sequence[In], jobs: int | Cluster) -> Generator[Out, None, None]:
    """`map(function, items)` in `jobs` processes, or on a cluster. The first error ends it. With one job, no process is
    started.

    At most two results for each process wait to be taken, so that memory does not grow with the number of items.
    """
    if not isinstance(jobs, int):
        yield from jobs.map_in_order(function, items)
        return
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
