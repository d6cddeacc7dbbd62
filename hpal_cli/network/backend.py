"""Chooses the library that computes sparse convolutions: hpal's own code in PyTorch, or MinkowskiEngine."""

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
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
ON_GPU_ONLY = ("tf32", "fp16")


class AnyGeometry(Protocol):
    """The voxels of a batch at all strides, and the convolutions between them (see `geometry.Geometry`).

    fused: whether it is a `tables.TableGeometry`, for which Triton also computes batch norm, addition and ReLU.
    """

    fused: bool

    def sizes(self) -> list[int]:
        """The number of voxels at each stride."""
        ...

    def permute(self, features: Tensor) -> Tensor:
        """(M, C) in the order of the input voxels -> in the network's order and type."""
        ...

    def unpermute(self, features: Tensor) -> Tensor:
        """(M, C) in the network's order and type -> in the order of the input voxels."""
        ...

    def cube(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """The 3x3x3 convolution of features (M, C_in) at stride 2^level; kernel: (27, C_in, C_out)."""
        ...

    def down(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """The 2x2x2 convolution from stride 2^level to the next one; kernel: (8, C_in, C_out)."""
        ...

    def up(self, features: Tensor, kernel: Tensor, level: int) -> Tensor:
        """The transposed 2x2x2 convolution from stride 2^level to the one before; kernel: (8, C_in, C_out)."""
        ...


@dataclass(frozen=True)
class Backend:
    """A way to compute sparse convolutions. name: torch or minkowski; reason: why it was chosen, for messages;
    geometry: makes the geometry of voxels (M, 4) int64; precision: number format of the factors in the convolutions'
    products, whose sums are float32. It is fp32 or bf16, or on a GPU also tf32 (float32 with 10 bits of mantissa) or
    fp16 (for which `train` scales the loss). With Triton, bf16 and fp16 are also the format of the features between the
    layers."""

    name: str
    reason: str
    geometry: Callable[[Tensor], AnyGeometry]
    precision: str = "fp32"

    def __str__(self) -> str:
        return f"{self.name} backend{f' ({self.reason})' if self.reason else ''}, {self.precision}"


def choose(name: str, device: torch.device, precision: str = "fp32") -> Backend:
    """The backend `torch`, `minkowski`, or with `auto` the fastest that is installed for the device
    (docs/benchmarks.md).

    Raises:
        UsageError: there is no such backend or precision, or MinkowskiEngine is missing, does not load or was built
            without CUDA.
    """
    if name not in NAMES:
        raise UsageError("--backend", f"{name!r} is unknown", f"choose from {', '.join(NAMES)}")
    if precision not in PRECISIONS:
        raise UsageError("--precision", f"{precision!r} is unknown", f"choose from {', '.join(PRECISIONS)}")
    if precision in ON_GPU_ONLY and (device.type != "cuda" or _without_triton()):
        problem = "is for a GPU with Triton" if device.type == "cuda" else "is for a GPU"
        raise UsageError("--precision", f"{precision} {problem}", "choose fp32 or bf16")
    if name == "minkowski":
        return _minkowski(device, precision, "as asked")
    if device.type == "cuda":
        return _on_cuda(name, device, precision)
    reason = "as asked" if name == "torch" else ""
    if name == "auto" and (lacking := native.missing()):
        reason = f"slower here: {lacking}"
    return Backend("torch", reason, partial(Geometry, half=precision == "bf16"), precision)


def _on_cuda(name: str, device: torch.device, precision: str) -> Backend:
    """The backend for a GPU. `auto` chooses the first that is installed of Triton's kernels, MinkowskiEngine, and
    several torch calls for every kernel offset, which are the slowest."""
    lacking = _without_triton()
    if lacking is None:
        from hpal_cli.network.tables import TableGeometry

        reason = "as asked, with Triton" if name == "torch" else "fastest of what is installed: with Triton"
        return Backend("torch", reason, partial(TableGeometry, precision=precision), precision)
    if name == "auto" and precision == "fp32":
        try:
            return _minkowski(device, precision, f"fastest of what is installed: {lacking}; does not repeat to the bit")
        except UsageError:
            # It is not installed, and nobody asked for it.
            pass
    return Backend("torch", f"slower here: {lacking}", partial(Geometry, half=precision == "bf16"), precision)


def _without_triton() -> str | None:
    """Why Triton's kernels cannot be used here, None if they can."""
    try:
        import hpal_cli.network.implicit_gemm  # noqa: F401
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "triton"
        return "Triton is not installed" if missing else f"Triton does not load ({error})"
    return None


def _minkowski(device: torch.device, precision: str, reason: str) -> Backend:
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
    return Backend("minkowski", reason, MinkowskiGeometry)
