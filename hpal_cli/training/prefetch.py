"""Prepares batches before they are needed: copies them to the device and computes the kernel maps of their voxels."""

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
from hpal_cli.training.packing import Packed, pack, unpack

PREFETCH = 2
"""Number of batches that may wait to be used, and number that each worker process may prepare in advance."""

MAX_WORKERS = 8
"""Largest default number of worker processes."""


@dataclass
class NetworkBatch:
    """The inputs of the network for the N points of a batch. features: (M, C) of its voxels; geometry: of the voxels;
    inverse: (N,) the voxel row of every point."""

    features: Tensor
    geometry: AnyGeometry
    inverse: Tensor


@dataclass
class DeviceBatch:
    """A `Batch` of N points on the device of the network. label: (N,) int64."""

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
    """Yields the batches of these steps in order. workers: number of processes that make them; 0: the calling process
    makes them. geometry: makes the geometry of voxels (M, 4).

    For CUDA, a separate thread copies them and computes their kernel maps on a separate stream, so that a step does not
    wait for them, nor for the numbers of voxels, which the host must read from the GPU.
    """
    loaded = _loaded(batches, steps, workers, pin=device.type == "cuda")
    if device.type != "cuda":
        return (_to_device(batch, device, geometry) for batch in loaded)
    return _prefetch_in_thread(loaded, steps, device, geometry)


def default_workers(device: torch.device) -> int:
    """The default number of worker processes. It is 0 on a CPU, where training itself needs the cores."""
    return min(MAX_WORKERS, cores() - 1) if device.type == "cuda" else 0


def _loaded(batches: BatchDataset, steps: range, workers: int, *, pin: bool) -> Iterator[Batch]:
    if not workers:
        for step in steps:
            yield batches[step].pin_memory() if pin else batches[step]
        return
    with warnings.catch_warnings():
        # torch warns if there are more workers than cores, although the person has asked for that number.
        warnings.simplefilter("ignore", UserWarning)
        loader: DataLoader[Packed] = DataLoader(
            _PackedItems(batches),  # type: ignore[arg-type]
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=PREFETCH,
            collate_fn=_identity,
            pin_memory=pin,
            # Spawned and not forked, since a fork copies locks but not the threads that hold them.
            multiprocessing_context="spawn",
            worker_init_fn=_ignore_interrupts,
        )
        made = iter(loader)
    for packed in made:
        one: Batch | HpalError = unpack(packed)
        if isinstance(one, HpalError):
            raise one
        yield one


@dataclass(frozen=True)
class _PackedItems:
    """Returns batches packed for the training process. An HpalError is an item too, since torch would turn one that is
    raised in a worker into another error with a long traceback."""

    batches: BatchDataset

    def __getitem__(self, step: int) -> Packed:
        try:
            return pack(self.batches[step])
        except HpalError as error:
            return pack(error)


def _identity(batch: Any) -> Any:
    return batch


def _ignore_interrupts(worker: int) -> None:
    """Ignores Ctrl-C in a worker. The terminal sends it to every process, and the training process ends its workers
    after it has ended the step and saved."""
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
    # torch may reuse the memory of the worker's stream as soon as no tensor refers to it, so a batch is kept until the
    # steps that read it are over.
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
