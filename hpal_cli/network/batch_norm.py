"""Batch norm over all voxels of a batch, including those in other processes that train the same network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from hpal_cli.network.backend import AnyGeometry


class BatchNorm(nn.Module):
    """Batch norm over all voxels of the batch, of all processes if torch.distributed runs several."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.counts = False
        """Whether the last pass is one of those that `bn.num_batches_tracked` counts; `count_batches` does it."""

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        bn, self.counts = self.bn, False
        if not self.training:
            return _in_place(x, bn) if x.device.type == "cpu" and not torch.is_grad_enabled() else bn(x)
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            return _over_processes(x, bn)
        if len(x) == 1:
            return _by_running_average(x, bn)
        self.counts = True
        return functional.batch_norm(
            x, bn.running_mean, bn.running_var, bn.weight, bn.bias, True, bn.momentum or 0.0, bn.eps
        )


def count_batches(norms: Sequence[BatchNorm]) -> None:
    """Counts the pass that is over, for all of them in one call: on a GPU each call is a launch."""
    counters = [
        norm.bn.num_batches_tracked for norm in norms if norm.counts and norm.bn.num_batches_tracked is not None
    ]
    if counters:
        torch._foreach_add_(counters, 1)


def _in_place(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """In evaluation every column is scaled and shifted: where the row lies, since nobody else reads what a
    convolution has just made. On a GPU one launch that writes elsewhere takes less time than these six."""
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
