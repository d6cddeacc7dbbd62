"""Whose sparse convolution computes: hpal's own in plain PyTorch, or MinkowskiEngine's. All else is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpal_cli.errors import UsageError
from hpal_cli.network.geometry import Geometry

NAMES = ("auto", "torch", "minkowski")


class AnyGeometry(Protocol):
    """The voxels of a batch at all strides, and the convolutions between them (`geometry.Geometry` says which)."""

    def sizes(self) -> list[int]: ...

    def enter(self, features: Tensor) -> Tensor: ...

    def leave(self, features: Tensor) -> Tensor: ...

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor: ...

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor: ...

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor: ...


@dataclass(frozen=True)
class Backend:
    """name: torch or minkowski; reason: why; geometry: from (M, 4) int64 voxels to their maps."""

    name: str
    reason: str
    geometry: Callable[[Tensor], AnyGeometry]

    def __str__(self) -> str:
        return f"{self.name} backend ({self.reason})"


def choose(name: str, device: torch.device) -> Backend:
    """`auto` (what was measured fastest for the device, docs/benchmarks.md), `torch` or `minkowski`.

    Raises:
        UsageError: no such backend, or a MinkowskiEngine that is missing, does not load or was built without CUDA.
    """
    if name == "auto" and device.type == "cuda":
        return Backend("torch", "nothing else was measured on CUDA yet", Geometry)
    if name == "auto":
        return Backend("torch", "on two CPU threads twice as fast as minkowski", Geometry)
    if name == "torch":
        return Backend("torch", "as asked", Geometry)
    if name != "minkowski":
        raise UsageError("--backend", f"{name!r} is unknown", f"choose from {', '.join(NAMES)}")
    try:
        from hpal_cli.network.minkowski import BUILT_WITH_CUDA, MinkowskiGeometry
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "MinkowskiEngine"
        problem = "MinkowskiEngine is not installed" if missing else f"MinkowskiEngine does not load ({error})"
        remedy = "run `make minkowski`, or see docs/minkowski.md"
        raise UsageError("--backend minkowski", problem, remedy) from error
    if device.type == "cuda" and not BUILT_WITH_CUDA:
        problem = "this MinkowskiEngine was built without CUDA"
        raise UsageError("--backend minkowski", problem, "choose --device cpu, or see docs/minkowski.md")
    return Backend("minkowski", "as asked", MinkowskiGeometry)
