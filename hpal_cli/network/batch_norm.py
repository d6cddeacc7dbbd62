"""Batch norm over all voxels of a batch, including those in other processes that train the same network.

On a GPU the convolution before it, and the addition and the ReLU after it, are computed in the same launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from hpal_cli.network.backend import AnyGeometry

if TYPE_CHECKING:
    from hpal_cli.network.tables import TableGeometry


class BatchNorm(nn.Module):
    """Batch norm over all voxels of the batch, of all processes if torch.distributed runs several; and what follows it,
    so that a GPU does all of it at once."""

    def __init__(self, width: int, *, rectified: bool = True) -> None:
        """rectified: whether a ReLU follows."""
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.rectified = rectified
        self.counts = False
        """Whether the last pass is one of those that `bn.num_batches_tracked` counts; `count_batches` does it."""

    def before(self, geometry: AnyGeometry, shortcut: Callable[[], Tensor] | None = None) -> AnyGeometry:
        """What the convolution before is given: on a GPU, without gradients, a geometry whose convolutions end with all
        that `forward` does, in the same launch."""
        if not self._ends(geometry):
            return geometry
        from hpal_cli.network.implicit_gemm import Ending

        added = None if shortcut is None else shortcut()
        return cast("TableGeometry", geometry).ending(Ending.of(self.bn, added, rectified=self.rectified))

    def forward(self, x: Tensor, geometry: AnyGeometry, shortcut: Callable[[], Tensor] | None = None) -> Tensor:
        """`relu(norm(x) + shortcut())` of what the convolution has made of `before(geometry, shortcut)`."""
        self.counts = False
        if self._ends(geometry):
            return x
        if geometry.fused and self.training and not _several_processes() and len(x) > 1:
            from hpal_cli.network.fused_norm import normalise_batch

            self.counts = True
            added, room = None if shortcut is None else shortcut(), cast("TableGeometry", geometry).room
            return normalise_batch(x, self.bn, added, rectified=self.rectified, room=room)
        x = self._normalised(x)
        if shortcut is not None:
            x = x.add_(shortcut())
        return torch.relu_(x) if self.rectified else x

    def _ends(self, geometry: AnyGeometry) -> bool:
        return geometry.fused and not self.training and not torch.is_grad_enabled()

    def _normalised(self, x: Tensor) -> Tensor:
        bn = self.bn
        if not self.training:
            return _in_place(x, bn) if x.device.type == "cpu" and not torch.is_grad_enabled() else bn(x)
        if _several_processes():
            return _over_processes(x, bn)
        if len(x) == 1:
            return _by_running_average(x, bn)
        self.counts = True
        return functional.batch_norm(
            x, bn.running_mean, bn.running_var, bn.weight, bn.bias, True, bn.momentum or 0.0, bn.eps
        )


def _several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def count_batches(norms: Sequence[BatchNorm]) -> None:
    """Counts the pass that is over, for all of them in one call: on a GPU each call is a launch."""
    counters = [
        norm.bn.num_batches_tracked for norm in norms if norm.counts and norm.bn.num_batches_tracked is not None
    ]
    if counters:
        torch._foreach_add_(counters, 1)


def _in_place(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """In evaluation every column is scaled and shifted: where the row lies, since nobody else reads what a
    convolution has just made."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return torch.addcmul(bn.bias - bn.running_mean * scale, x, scale, out=x)


def _by_running_average(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """One voxel has no variance: at the coarsest strides of a small cloud the running one stands in."""
    return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)


def _over_processes(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """torch's batch norm in training (biased variance for the output, unbiased for the running average), with its
    sums taken over all processes. Written out, since torch's own synchronised one is for CUDA only."""
    from torch.distributed.nn.functional import all_reduce

    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    dtype, x = x.dtype, x.to(bn.running_mean.dtype)
    count = x.new_tensor([len(x)])
    distributed.all_reduce(count)
    # Decided where the numbers are: asking for them would make the host wait for a GPU.
    alone = count <= 1
    mean = torch.where(alone, bn.running_mean, all_reduce(x.sum(0)) / count)
    centred = x - mean
    variance = torch.where(alone, bn.running_var, all_reduce(centred.square().sum(0)) / count)
    with torch.no_grad():
        share = torch.where(alone, 0, bn.momentum)
        bn.running_mean.add_(share * (mean - bn.running_mean))
        bn.running_var.add_(share * (variance * count / (count - 1).clamp(min=1) - bn.running_var))
        bn.num_batches_tracked.add_((~alone).long().squeeze())
    return (centred * torch.rsqrt(variance + bn.eps) * bn.weight + bn.bias).to(dtype)
