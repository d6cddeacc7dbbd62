"""Training of one network by several processes, as `torchrun` starts them: their ranks, and sums over all of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from hpal_cli.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """The processes of a run. rank: of this process; world_size: their number; control: the group that sums numbers of
    the host, None for a single process."""

    rank: int = 0
    world_size: int = 1
    control: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def sum(self, counts: Tensor) -> Tensor:
        """The sum of a tensor on the training device over all processes."""
        if self.control is not None:
            counts = counts.clone()
            dist.all_reduce(counts)
        return counts

    def all_reduce_ints(self, *numbers: int) -> list[int]:
        """The sums of numbers of the host over all processes."""
        if self.control is None:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(total, group=self.control)
        return total.tolist()

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces the gradients of the parameters by their sums over all processes. They are not divided, since the
        loss of each process is already divided by the counts of all processes."""
        if self.control is None:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))


def rank_and_world_size() -> tuple[int, int]:
    """The rank of this process and the number of processes, from the variables that `torchrun` sets; (0, 1) without it.

    Raises:
        UsageError: the variables are no such numbers.
    """
    try:
        rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise UsageError("RANK, WORLD_SIZE", "are no numbers", "start it with torchrun, or unset them") from error
    if not 0 <= rank < world_size:
        raise UsageError("RANK", f"is {rank} of WORLD_SIZE {world_size}", "start it with torchrun, or unset them")
    return rank, world_size


def local_device(device: torch.device) -> torch.device:
    """The device of this process: `cuda` without a number becomes the GPU with the local rank that `torchrun` gave."""
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Connects the processes of this run while the block lasts."""
    rank, world_size = rank_and_world_size()
    if world_size == 1:
        yield Processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world_size, dist.new_group(backend="gloo"))
    finally:
        if ours:
            dist.destroy_process_group()
