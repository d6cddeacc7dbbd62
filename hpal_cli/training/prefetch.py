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
from hpal_cli.training.batches import Batch, BatchDataset, SoftLabels

PREFETCH = 2
"""Steps that a batch may be ready before its turn; of each process, batches that may wait."""

MAX_WORKERS = 8
"""Processes that make batches, where nobody says how many."""


@dataclass
class NetworkBatch:
    """What the network is given of the N points of a batch: features (M, C) of its voxels, their maps, and the voxel
    row (N,) of every point."""

    features: Tensor
    geometry: AnyGeometry
    inverse: Tensor


@dataclass
class DeviceBatch:
    """A batch on its device, label (N,) int64."""

    scenes: list[str]
    labelled: int
    label: Tensor
    soft: SoftLabels | None
    student: NetworkBatch
    teacher: NetworkBatch | None


def prefetch_batches(
    batches: BatchDataset,
    steps: range,
    device: torch.device,
    geometry: Callable[[Tensor], AnyGeometry],
    *,
    workers: int = 0,
) -> Iterator[DeviceBatch]:
    """The batches of these steps, in order; `workers` processes make them, or with 0 this one does.

    For CUDA they are copied, and their maps made, by a thread of its own on a stream of its own, so that a step waits
    neither for them nor for the numbers of voxels that the maps have to know.
    """
    made = _loaded(batches, steps, workers, pin=device.type == "cuda")
    if device.type != "cuda":
        return (_to_device(batch, device, geometry) for batch in made)
    return _prefetch_in_thread(made, steps, device, geometry)


def default_workers(device: torch.device) -> int:
    """How many processes make batches where nobody says: on a CPU training itself needs the cores."""
    return min(MAX_WORKERS, cores() - 1) if device.type == "cuda" else 0


def _loaded(batches: BatchDataset, steps: range, workers: int, *, pin: bool) -> Iterator[Batch]:
    if not workers:
        for step in steps:
            yield batches[step].pin_memory() if pin else batches[step]
        return
    with warnings.catch_warnings():
        # That there are more workers than cores: so it was asked for.
        warnings.simplefilter("ignore", UserWarning)
        loader: DataLoader[Batch | HpalError] = DataLoader(
            _ErrorsAsItems(batches),  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            collate_fn=_identity,
            pin_memory=pin,
            # Spawned, not forked: a fork copies the locks of threads that it does not copy.
            multiprocessing_context="spawn",
            worker_init_fn=_ignore_interrupts,
        )
        made = iter(loader)
    for one in made:
        if isinstance(one, HpalError):
            raise one
        yield one


@dataclass(frozen=True)
class _ErrorsAsItems:
    """Batches whose errors come back as they are: torch would make others of them, with a process's whole history."""

    batches: BatchDataset

    def __getitem__(self, step: int) -> Batch | HpalError:
        try:
            return self.batches[step]
        except HpalError as error:
            return error


def _identity(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal. The one that trains ends the step, saves, and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _to_device(batch: Batch, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]) -> DeviceBatch:
    def view(inputs: NetworkInput) -> NetworkBatch:
        inputs = inputs.to(device)
        return NetworkBatch(inputs.features, geometry(inputs.voxel), inputs.inverse)

    return DeviceBatch(
        batch.scenes,
        batch.labelled,
        batch.label.to(device, non_blocking=True).long(),
        None if batch.soft is None else batch.soft.to(device),
        view(batch.student),
        None if batch.teacher is None else view(batch.teacher),
    )


def _prefetch_in_thread(
    batches: Iterator[Batch], steps: range, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]
) -> Iterator[DeviceBatch]:
    made: queue.Queue[tuple[DeviceBatch, torch.cuda.Event] | BaseException] = queue.Queue(PREFETCH)
    stopped = threading.Event()

    def put(item: tuple[DeviceBatch, torch.cuda.Event] | BaseException) -> None:
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
                    ready = _to_device(batch, device, geometry)
                    event = torch.cuda.Event()
                    event.record(stream)
                put((ready, event))
        except BaseException as error:
            put(error)

    worker = threading.Thread(target=work, name="batches", daemon=True)
    worker.start()
    # Memory of the worker's stream may be used again as soon as nothing names it: a batch is kept until the steps
    # that read it are over.
    running: deque[tuple[DeviceBatch, torch.cuda.Event]] = deque()
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
            if len(running) > PREFETCH:
                running.popleft()[1].synchronize()
    finally:
        stopped.set()
        worker.join()
        torch.cuda.synchronize(device)
