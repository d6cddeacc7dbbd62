"""Batches made ready for the network: on their device, with the maps of their voxels, before they are wanted."""

from __future__ import annotations

import queue
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hpal_cli.errors import HpalError
from hpal_cli.network.backend import AnyGeometry
from hpal_cli.network.inputs import NetworkInput
from hpal_cli.parallel import cores
from hpal_cli.training.batches import Batch, Batches, SoftLabels

AHEAD = 2
"""Steps that a batch may be ready before its turn; of each process, batches that may wait."""

MOST_WORKERS = 8
"""Processes that make batches, where nobody says how many."""


@dataclass
class View:
    """What the network is given of the N points of a batch: features (M, C) of its voxels, their maps, and the voxel
    row (N,) of every point."""

    features: Tensor
    geometry: AnyGeometry
    inverse: Tensor


@dataclass
class Ready:
    """A batch on its device, label (N,)."""

    scenes: list[str]
    labelled: int
    label: Tensor
    soft: SoftLabels | None
    student: View
    teacher: View | None


def ready_batches(
    batches: Batches,
    steps: range,
    device: torch.device,
    geometry: Callable[[Tensor], AnyGeometry],
    *,
    workers: int = 0,
) -> Iterator[Ready]:
    """The batches of these steps, in order; `workers` processes make them, or with 0 this one does.

    For CUDA they are copied, and their maps made, by a thread of its own on a stream of its own, so that a step waits
    neither for them nor for the numbers of voxels that the maps have to know.
    """
    made = _made(batches, steps, workers, pin=device.type == "cuda")
    if device.type != "cuda":
        return (_ready(batch, device, geometry) for batch in made)
    return _by_a_thread(made, steps, device, geometry)


def usual_workers(device: torch.device) -> int:
    """How many processes make batches where nobody says: on a CPU training itself needs the cores."""
    return min(MOST_WORKERS, cores() - 1) if device.type == "cuda" else 0


def _made(batches: Batches, steps: range, workers: int, *, pin: bool) -> Iterator[Batch]:
    if not workers:
        for step in steps:
            yield batches[step].pin_memory() if pin else batches[step]
        return
    with warnings.catch_warnings():
        # That there are more workers than cores: so it was asked for.
        warnings.simplefilter("ignore", UserWarning)
        loader: DataLoader[Batch | HpalError] = DataLoader(
            _Told(batches),  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=AHEAD,
            collate_fn=_as_it_is,
            pin_memory=pin,
            # Spawned, not forked: a fork copies the locks of threads that it does not copy.
            multiprocessing_context="spawn",
            worker_init_fn=_leave_signals_to_the_first,
        )
    for one in loader:
        if isinstance(one, HpalError):
            raise one
        yield one


@dataclass(frozen=True)
class _Told:
    """Batches whose errors come back as they are: torch would make others of them, with a process's whole history."""

    batches: Batches

    def __getitem__(self, step: int) -> Batch | HpalError:
        try:
            return self.batches[step]
        except HpalError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals_to_the_first(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal. The one that trains ends the step, saves, and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ready(batch: Batch, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]) -> Ready:
    def view(inputs: NetworkInput) -> View:
        inputs = inputs.to(device)
        return View(inputs.features, geometry(inputs.voxel), inputs.inverse)

    return Ready(
        batch.scenes,
        batch.labelled,
        batch.label.to(device, non_blocking=True),
        None if batch.soft is None else batch.soft.to(device),
        view(batch.student),
        None if batch.teacher is None else view(batch.teacher),
    )


def _by_a_thread(
    batches: Iterator[Batch], steps: range, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]
) -> Iterator[Ready]:
    made: queue.Queue[tuple[Ready, torch.cuda.Event] | BaseException] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: tuple[Ready, torch.cuda.Event] | BaseException) -> None:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            stream = torch.cuda.Stream(device)
            for batch in batches:
                if stopped.is_set():
                    return
                with torch.cuda.stream(stream):
                    ready = _ready(batch, device, geometry)
                    event = torch.cuda.Event()
                    event.record(stream)
                put((ready, event))
        except BaseException as error:
            put(error)

    worker = threading.Thread(target=work, name="batches", daemon=True)
    worker.start()
    # Memory of the worker's stream may be used again as soon as nothing names it: a batch is kept until the steps
    # that read it are over.
    running: deque[tuple[Ready, torch.cuda.Event]] = deque()
    try:
        for _ in steps:
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            ready, event = item
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            yield ready
            over = torch.cuda.Event()
            over.record(current)
            running.append((ready, over))
            if len(running) > AHEAD:
                running.popleft()[1].synchronize()
    finally:
        stopped.set()
        worker.join()
        torch.cuda.synchronize(device)
