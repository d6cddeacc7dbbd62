"""Packs the tensors of a batch into one block of shared memory. A worker process hands each tensor that it sends to
another process over by itself, with an answer to wait for, which takes longer than copying all of them once."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 64
"""Multiple of bytes at which a tensor begins, so that it may have any type."""


@dataclass
class Packed:
    """An object whose tensors lie in one block. content: the pickled object, with (start, type, shape) in place of each
    tensor; block: (B,) uint8, in shared memory or pinned."""

    content: bytes
    block: Tensor

    def pin_memory(self) -> Packed:
        """The same in pinned memory, from which a GPU copies while the program continues."""
        return replace(self, block=self.block.pin_memory())


def pack(thing: object) -> Packed:
    """Copies the tensors of a picklable object, all on the CPU, into a block of shared memory."""
    tensors: list[tuple[int, Tensor]] = []
    size = 0

    class Pickler(pickle.Pickler):
        def persistent_id(self, part: Any) -> tuple[int, torch.dtype, torch.Size] | None:
            nonlocal size
            if not isinstance(part, Tensor):
                return None
            start, shape = size, part.shape
            tensors.append((start, part))
            size += -(-part.nbytes // _ALIGNMENT) * _ALIGNMENT
            return start, part.dtype, shape

    content = io.BytesIO()
    Pickler(content, pickle.HIGHEST_PROTOCOL).dump(thing)
    # Allocated there, since `share_memory_` would copy once more.
    block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(max(1, size)))
    for start, tensor in tensors:
        _part(block, start, tensor.dtype, tensor.shape).copy_(tensor)
    return Packed(content.getvalue(), block)


def unpack(packed: Packed) -> Any:
    """The object that was packed. Its tensors are views of the block."""

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, part: tuple[int, torch.dtype, torch.Size]) -> Tensor:
            return _part(packed.block, *part)

    return Unpickler(io.BytesIO(packed.content)).load()


def _part(block: Tensor, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return block[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)
