"""Batch norm over all voxels of a batch, wherever they are: in this process or in the others that train with it."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from hpal_cli.network.backend import AnyGeometry


class BatchNorm(nn.Module):
    """Batch norm over all voxels of the batch, of all processes if torch.distributed runs several."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor, geometry: AnyGeometry) -> Tensor:
        bn = self.bn
        if not self.training:
            return bn(x)
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            return _over_processes(x, bn)
        return _by_running_average(x, bn) if len(x) == 1 else bn(x)


def _by_running_average(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """One voxel has no variance: at the coarsest strides of a small cloud the running one stands in."""
    return functional.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)


def _over_processes(x: Tensor, bn: nn.BatchNorm1d) -> Tensor:
    """torch's batch norm in training (biased variance for the output, unbiased for the running average), with its
    sums taken over all processes. Written out, since torch's own synchronised one is for CUDA only."""
    from torch.distributed.nn.functional import all_reduce

    count = x.new_tensor([len(x)])
    distributed.all_reduce(count)
    if count == 1:
        return _by_running_average(x, bn)
    mean = all_reduce(x.sum(0)) / count
    centred = x - mean
    variance = all_reduce(centred.square().sum(0)) / count
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert bn.num_batches_tracked is not None
    assert bn.momentum is not None
    with torch.no_grad():
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.running_var.lerp_(variance * count / (count - 1), bn.momentum)
        bn.num_batches_tracked.add_(1)
    return centred * torch.rsqrt(variance + bn.eps) * bn.weight + bn.bias
