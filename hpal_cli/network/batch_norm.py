"""Batch norm over all voxels of a batch, including those of other processes that train the same network.

On a GPU it is computed together with the convolution before it, or with the addition and the ReLU after it."""

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
    """Batch norm over all voxels of the batch (of all processes, if torch.distributed runs several), followed by the
    addition of a shortcut and a ReLU if there are any, so that a GPU can compute all of them at once."""

    def __init__(self, width: int, *, rectified: bool = True) -> None:
        """rectified: whether a ReLU follows."""
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.rectified = rectified
        self.counts = False
        """Whether `count_batches` must add the last pass to `bn.num_batches_tracked`."""

    def before(self, geometry: AnyGeometry, shortcut: Callable[[], Tensor] | None = None) -> AnyGeometry:
        """The geometry for the convolution before this norm. On a GPU, without gradients, the convolutions of the
        returned geometry also compute all that `forward` computes, as their epilogue."""
        if not self._is_epilogue(geometry):
            return geometry
        from hpal_cli.network.implicit_gemm import Epilogue

        added = None if shortcut is None else shortcut()
        return cast("TableGeometry", geometry).with_epilogue(
            Epilogue.from_batch_norm(self.bn, added, rectified=self.rectified)
        )

    def forward(self, x: Tensor, geometry: AnyGeometry, shortcut: Callable[[], Tensor] | None = None) -> Tensor:
        """(M, C) `relu(norm(x) + shortcut())`, where x (M, C) is the result of the convolution with the geometry that
        `before(geometry, shortcut)` returned."""
        self.counts = False
        if self._is_epilogue(geometry):
            return x
        if geometry.fused and self.training and not _several_processes() and len(x) > 1:
            from hpal_cli.network.fused_norm import normalise_batch

            self.counts = True
            added, buffers = None if shortcut is None else shortcut(), cast("TableGeometry", geometry).buffers
            return normalise_batch(x, self.bn, added, rectified=self.rectified, buffers=buffers)
        x = self._normalised(x)
        if shortcut is not None:
            x = x.add_(shortcut())
        return torch.relu_(x) if self.rectified else x

    def _is_epilogue(self, geometry: AnyGeometry) -> bool:
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
    """Adds the pass that is over to the counters of all norms, in a single call, since on a GPU each call is a kernel
    launch."""
    counters = [
        norm.bn.num_batches_tracked for norm in norms if norm.counts and norm.bn.num_batches_tracked is not None
    ]
    if counters:
        torch._foreach_add_(counters, 1)


def _in_place(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """Batch norm in evaluation, which scales and shifts every column. It overwrites x (M, C), the result of a
    convolution, since nothing else reads it."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
    return torch.addcmul(bn.bias - bn.running_mean * scale, x, scale, out=x)


def _by_running_average(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """Batch norm with the running statistics. It is used for a single voxel, which has no variance, as at the coarsest
    strides of a small cloud."""
    return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)


def _over_processes(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """torch's batch norm in training (biased variance for the output, unbiased for the running average), with sums over
    all processes. torch's own synchronised batch norm cannot be used, since it is for CUDA only."""
    from torch.distributed.nn.functional import all_reduce

    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    dtype, x = x.dtype, x.to(bn.running_mean.dtype)
    count = x.new_tensor([len(x)])
    distributed.all_reduce(count)
    # A tensor on the device, since reading the number would make the host wait for the GPU.
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
