"""Runs tasks on the workers of a Dask cluster.

A task is a function and an item. They hold paths and scene numbers but no arrays, since everything that is sent goes
through the one scheduler. A worker that dies loses its tasks and its results, and Dask gives them to another one. A
task must therefore be able to run twice (`store.tasks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import pickle
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hpal_cli import __version__
from hpal_cli.errors import HpalError, UsageError
from hpal_cli.progress import Monitor, Silent

In = TypeVar("In")
Out = TypeVar("Out")

CONNECT_TIMEOUT = 10.0
"""Seconds for which a scheduler is waited for."""

GPU = "GPU"
"""The resource that a worker with a GPU offers (`dask worker --resources GPU=1`)."""

FORMS = "tcp://HOST:8786, local:8 or file:scheduler.json"

_MIN_SUBMITTED = 32
"""Tasks that are submitted beyond the one whose result is taken next, if there are few workers. So many are needed for
an adaptive cluster to start further workers."""


@dataclass(frozen=True)
class Cluster:
    """A connection to a Dask scheduler, which can be given in place of the number of processes (`jobs`).

    gpu: whether tasks ask for the resource `GPU`; run: a name of this connection, by which workers know that files that
    they have opened before may have changed.
    """

    client: Any
    run: str
    gpu: bool = False

    def on_gpus(self) -> Cluster:
        """The same cluster, of which only workers with the resource `GPU` are used, if there are any."""
        offered = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return replace(self, gpu=any(GPU in worker["resources"] for worker in offered))

    def map_in_order(self, function: Callable[[In], Out], items: Sequence[In]) -> Generator[Out, None, None]:
        """`map(function, items)` on the workers. The first error ends it, and what was submitted is then cancelled.

        Raises:
            HpalError: workers die at a task again and again, the scheduler is gone, or a worker does not see a path.
        """
        pending: deque[Any] = deque()
        left, limit, asked = iter(items), _MIN_SUBMITTED, 0.0
        name = getattr(function, "__name__", "task").strip("_")
        try:
            with _problems():
                while True:
                    if time.monotonic() - asked > 1:
                        # Workers come and go.
                        limit, asked = max(_MIN_SUBMITTED, 2 * sum(self.client.nthreads().values())), time.monotonic()
                    while len(pending) < limit and (item := next(left, _END)) is not _END:
                        pending.append(self._submit(name, function, item))
                    if not pending:
                        return
                    result = pending[0].result()
                    # Frees the memory that it takes on the worker.
                    pending.popleft().release()
                    yield result
        finally:
            if pending:
                with contextlib.suppress(Exception):
                    self.client.cancel(list(pending), force=True)

    def _submit(self, name: str, function: Callable[[In], Out], item: object) -> Any:
        return self.client.submit(
            run_task,
            packed((function, item)),
            __version__,
            self.run,
            key=f"hpal-{name}-{uuid.uuid4().hex}",
            resources={GPU: 1} if self.gpu else None,
        )


_END = object()


@contextlib.contextmanager
def connect(scheduler: str, monitor: Monitor | None = None) -> Iterator[Cluster]:
    """Connects to a scheduler: `tcp://host:port` or `tls://host:port`; `file:PATH` of the file that a scheduler writes
    with `--scheduler-file`; or `local:N`, which starts a scheduler and N workers on this computer for this block.

    Raises:
        UsageError: it is none of these, or Dask is not installed.
        HpalError: no scheduler answers, or a worker has another version of hpal.
    """
    count = re.fullmatch(r"local:(\d{1,4})", scheduler)
    if not (count and int(count[1])) and not re.fullmatch(r"file:.+|(tcp|tls)://[^/]+:\d+", scheduler):
        raise UsageError("--scheduler", f"{scheduler!r} names none", f"give {FORMS}")
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UsageError("--scheduler", "needs Dask, which is not installed", "pip install 'hpal[dask]'") from error
    # Dask logs every attempt to reconnect; the error of one line at the end says enough.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as opened:
        at: Any
        if count:
            at = opened.enter_context(
                LocalCluster(
                    n_workers=int(count[1]),
                    threads_per_worker=1,
                    # Without a limit, as for the processes of --jobs: a large scene may need the memory of all.
                    memory_limit=0,
                    # Any free port: by default it is one number, and a second cluster would warn that it is taken.
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            )
        else:
            at = _address_in(Path(scheduler.removeprefix("file:"))) if scheduler.startswith("file:") else scheduler
            try:
                # In a thread, since a notebook has an event loop of its own in this one.
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(asyncio.run, _ask(at)).result()
            except Exception as error:  # what is there may not be a scheduler, and answer anything
                problem = f"no scheduler answers at {at} within {CONNECT_TIMEOUT:g} s"
                raise HpalError(scheduler, problem, "start one with `dask scheduler`, or check the address") from error
        client = opened.enter_context(Client(at, timeout=CONNECT_TIMEOUT, set_as_default=False, name="hpal"))
        _require_same_version(client)
        if not client.nthreads():
            (monitor or Silent()).note(f"{scheduler} has no worker yet: waiting for one")
        yield Cluster(client, uuid.uuid4().hex)


async def _ask(address: str) -> None:
    """Raises an error if no scheduler answers in time. Dask itself would wait for ever for the first answer of a
    program that is none."""
    from distributed import Security
    from distributed.comm import connect as begin

    security = Security().get_connection_args("client")
    comm = await asyncio.wait_for(begin(address, timeout=CONNECT_TIMEOUT, **security), CONNECT_TIMEOUT)
    comm.abort()


def _address_in(file: Path) -> str:
    """The address in the file that a scheduler writes, which is waited for.

    Raises:
        HpalError: there is no such file, or there is no address in it.
    """
    until = time.monotonic() + CONNECT_TIMEOUT
    while True:
        try:
            return str(json.loads(file.read_text(encoding="utf-8"))["address"])
        except FileNotFoundError as error:
            if time.monotonic() > until:
                problem = f"no scheduler has written it within {CONNECT_TIMEOUT:g} s"
                remedy = f"start one with `dask scheduler --scheduler-file {file}`"
                raise HpalError(file, problem, remedy) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > until:
                raise HpalError(
                    file, "holds no address of a scheduler", "give the file that one has written"
                ) from error
        time.sleep(0.1)


def _require_same_version(client: Any) -> None:
    """Raises:
    HpalError: a worker has another version of hpal, or none.
    """
    # By `eval`, since a worker without hpal could not find a function of hpal.
    found = client.run(eval, "__import__('hpal_cli').__version__", on_error="return")
    for worker, version in sorted(found.items()):
        if version != __version__:
            raise _other_version(worker, None if isinstance(version, BaseException) else version)


def _other_version(worker: str, version: str | None) -> HpalError:
    problem = "has no hpal" if version is None else f"has hpal {version}"
    remedy = f"install hpal {__version__} for the workers, and start them again"
    return HpalError(f"worker {worker}", f"{problem}, and this is hpal {__version__}", remedy)


@contextlib.contextmanager
def _problems() -> Iterator[None]:
    """Turns what Dask raises into an HpalError."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        problem = f"{error.allowed_failures + 1} workers ended while they did one of the tasks"
        remedy = "see their logs: perhaps they need more memory, or the time of their jobs is over"
        raise HpalError("--scheduler", problem, remedy) from error
    except (CancelledError, CommClosedError) as error:
        problem, remedy = (
            "the scheduler is gone, or has cancelled the tasks",
            "start it again, and run the command again",
        )
        raise HpalError("--scheduler", problem, remedy) from error


class _Pickler(pickle.Pickler):
    """Makes paths absolute, since a worker runs in another folder, and remembers those that exist."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.paths: list[str] = []

    def reducer_override(self, value: Any, /) -> Any:
        # Of exactly this type: an address on object storage is a path of a type of its own.
        if type(value) is not type(Path()):
            return NotImplemented
        path = str(value.absolute())
        if os.path.exists(path):
            self.paths.append(path)
        return Path, (path,)


def packed(value: object) -> bytes:
    """A value for a worker, with the paths in it that exist here. It is bytes, since the scheduler reads everything
    else in a task, and would open the stores."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    return pickle.dumps((pickler.paths, file.getvalue()))


def unpacked(data: bytes) -> Any:
    """The value that `packed` was given.

    Raises:
        HpalError: a path in it does not exist here.
    """
    paths, value = pickle.loads(data)
    _require_seen(paths)
    return pickle.loads(value)


_current = ""


def current_run() -> str:
    """The run of the cluster for which this process works as a worker; the empty text in any other process."""
    return _current


def run_task(task: bytes, version: str, run: str) -> Any:
    """Does a task on a worker. task: a function and an item, `packed`; version: of the hpal that sends it.

    Raises:
        HpalError: this is another version of hpal, or a path does not exist here; or what the task raises.
    """
    global _current
    if version != __version__:
        # `connect` has compared the versions of the workers that were there then; this worker came later.
        problem, remedy = f"has hpal {__version__}, and the command is hpal {version}", f"install hpal {version} there"
        raise HpalError(_this_worker(), problem, remedy)
    _current = run
    function, item = unpacked(task)
    return function(item)


def _this_worker() -> str:
    try:
        from distributed import get_worker

        return f"worker {get_worker().address}"
    except (ImportError, ValueError):
        # In a process of --jobs.
        return f"process {os.getpid()}"


def _require_seen(paths: Sequence[str]) -> None:
    until = time.monotonic() + 2
    for path in paths:
        # What was made a moment ago may take a while to appear on a network file system.
        while not os.path.exists(path):
            if time.monotonic() > until:
                remedy = "put it on a disk that all workers share, or on object storage"
                raise HpalError(path, f"{_this_worker()} cannot see it", remedy)
            time.sleep(0.2)
