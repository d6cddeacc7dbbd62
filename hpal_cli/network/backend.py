"""Whose sparse convolution computes: hpal's own in plain PyTorch, or MinkowskiEngine's. All else is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from hpal_cli.errors import UsageError
from hpal_cli.network import native
from hpal_cli.network.geometry import Geometry

NAMES = ("auto", "torch", "minkowski")
PRECISIONS = ("fp32", "bf16")


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
    """name: torch or minkowski; reason: why, where it is not what everybody gets; geometry: from (M, 4) int64 voxels to
    their maps; precision: fp32, or bf16: factors of the convolutions' products are rounded to bfloat16, and their sums
    are not."""

    name: str
    reason: str
    geometry: Callable[[Tensor], AnyGeometry]
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.name} backend{f' ({self.reason})' if self.reason else ''}, {self.precision}"


def choose(name: str, device: torch.device, precision: str = "fp32") -> Backend:
    """`auto` (what was measured fastest for the device, docs/benchmarks.md), `torch` or `minkowski`.

    Raises:
        UsageError: no such backend or precision, or a MinkowskiEngine that is missing, does not load or was built
            without CUDA.
    """
    if name not in NAMES:
        raise UsageError("--backend", f"{name!r} is unknown", f"choose from {', '.join(NAMES)}")
    if precision not in PRECISIONS:
        raise UsageError("--precision", f"{precision!r} is unknown", f"choose from {', '.join(PRECISIONS)}")
    if name == "minkowski":
        return _minkowski(device, precision)
    reason = "as asked" if name == "torch" else ""
    if name == "auto" and device.type == "cpu" and (lacking := native.missing()):
        reason = f"slower here: {lacking}"
    return Backend("torch", reason, partial(Geometry, half=precision == "bf16"), precision)


def _minkowski(device: torch.device, precision: str) -> Backend:
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
    if precision != "fp32":
        raise UsageError("--precision", f"{precision} is not offered by minkowski", "choose --backend torch, or fp32")
    return Backend("minkowski", "as asked", MinkowskiGeometry)
