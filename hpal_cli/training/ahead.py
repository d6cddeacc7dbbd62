"""Batches made ready for the network: on their device, with the maps of their voxels, before they are wanted."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hpal_cli.network.backend import AnyGeometry
from hpal_cli.network.inputs import NetworkInput
from hpal_cli.training.batches import Batch, Batches, SoftLabels

AHEAD = 2
"""Steps that a batch may be ready before its turn."""


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
    batches: Batches, steps: range, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]
) -> Iterator[Ready]:
    """The batches of these steps, in order. For CUDA they are made by a thread of its own, on a stream of its own, so
    that a step waits neither for them nor for the numbers of neighbours that building the maps has to know."""
    if device.type != "cuda":
        return (_ready(batches[step], device, geometry) for step in steps)
    return _by_a_thread(batches, steps, device, geometry)


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
    batches: Batches, steps: range, device: torch.device, geometry: Callable[[Tensor], AnyGeometry]
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
            for step in steps:
                if stopped.is_set():
                    return
                batch = batches[step].pinned()
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
