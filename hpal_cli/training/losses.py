"""The loss (paper section 3.4), and the update of the teacher's weights (Eq. 7)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpal_cli.training.batches import UNKNOWN, SoftLabels
from hpal_cli.training.presets import Settings


@dataclass
class Loss:
    """The loss of a step, as scalars on the device. total: this process's part of the loss; the loss is the sum over
    all processes; labelled: number of points with a label in all processes; confident: share of the points without a
    label, in all processes, that have a pseudo-label."""

    total: Tensor
    labelled: Tensor
    confident: Tensor


def objective(
    student: Tensor,
    teacher: Tensor | None,
    label: Tensor,
    settings: Settings,
    *,
    soft: SoftLabels | None = None,
    weight: Tensor | None = None,
    all_reduce: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> Loss:
    """The cross-entropy on labelled points, plus the cross-entropy against the teacher's pseudo-labels on points
    without a label, plus KL(student || teacher) over all points except those of no class if `consistency` is "kl". Each
    term is a mean over its points in all processes, and 0 if it has none.

    student, teacher: (N, C) logits of the points; label: (N,) int64 as in `Batch`; soft: replaces `label` in the first
    term, which is then the mean of CE(student, target) over all points, weighted by `soft.weight`; weight: (C,) weights
    of the classes in the first term; all_reduce: sums a vector over all processes.
    """
    log_prob = student.log_softmax(1)
    known, free = label >= 0, label == UNKNOWN
    truth = label.clamp(min=0)
    if soft is not None:
        share = soft.weight if weight is None else soft.weight * (soft.target @ weight)
        sums = [-((soft.target * log_prob).sum(1) * share).sum()]
    else:
        share = known.to(student.dtype) if weight is None else known * weight[truth]
        sums = [_summed(log_prob, truth, share)]
    counts = [share.sum(), known.sum(), free.sum(), free.new_zeros(())]
    if teacher is not None:
        probability, guess = teacher.softmax(1).max(1)
        sure = (probability >= settings.confidence) & free
        sums.append(_summed(log_prob, guess, sure.to(student.dtype)))
        counts[3] = sure.sum()
        if settings.consistency == "kl":
            divergence = (log_prob.exp() * (log_prob - teacher.log_softmax(1))).sum(1)
            sums.append(torch.where(known | free, divergence, 0).sum())
    with torch.no_grad():
        weights, labelled, unlabelled, confident = all_reduce(
            torch.stack([count.double() for count in counts])
        ).unbind()
        over = [weights, confident, labelled + unlabelled]
    total = torch.stack([part / size.clamp(min=1e-9).to(part.dtype) for part, size in zip(sums, over)]).sum()
    return Loss(total, labelled, confident / unlabelled.clamp(min=1))


def _summed(log_prob: Tensor, target: Tensor, share: Tensor) -> Tensor:
    return functional.nll_loss(log_prob, target, reduction="none").mul(share).sum()


def class_weights(counts: Tensor, power: float) -> Tensor:
    """(C,) the weights share^-power of the classes, scaled so that their mean over the labels is 1; 0 for a class
    without labels. counts: (C,) labels of each class, or sums of weights."""
    weight = torch.where(counts > 0, counts.double().clamp(min=1e-9).pow(-power), 0)
    return (weight * counts.sum() / (weight * counts).sum()).float()


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """Sets teacher = keep * teacher + (1 - keep) * student (Eq. 7), also for the running statistics of batch norm."""
    pairs = list(zip(_state(teacher), _state(student), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    # One call for all tensors, since on a GPU each call is a kernel launch.
    torch._foreach_lerp_([theirs for theirs, _ in floating], [ours for _, ours in floating], 1 - keep)
    counters = [pair for pair in pairs if not pair[0].is_floating_point()]
    torch._foreach_copy_([theirs for theirs, _ in counters], [ours for _, ours in counters])


def _state(network: nn.Module) -> Iterator[Tensor]:
    """All tensors that `state_dict` has, but faster than `state_dict`."""
    return itertools.chain(network.parameters(), network.buffers())
