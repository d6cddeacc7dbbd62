"""The objective (paper section 3.4) and the teacher's average (Eq. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from hpal_cli.training.batches import UNKNOWN
from hpal_cli.training.presets import Settings


@dataclass
class Loss:
    """The loss of a step, None if no point had anything to say, and what a person wants to see of it:
    labelled points, and the share of unlabelled ones with a confident pseudo-label."""

    total: Tensor | None
    labelled: int
    confident: float


def objective(student: Tensor, teacher: Tensor | None, label: Tensor, settings: Settings) -> Loss:
    """CE on labelled points plus CE against the teacher's confident hard labels on unlabelled ones.

    student, teacher: (N, C) logits at the points; label: (N,) int64 as in `Batch`. Each term is the mean over its
    points, and is left out where it has none. With `consistency` "kl", plus KL(student || teacher) over all points
    but those of no class.
    """
    known, free = label >= 0, label == UNKNOWN
    count = int(known.sum())
    terms = []
    if count:
        terms.append(functional.cross_entropy(student[known], label[known]))
    share = 0.0
    if teacher is not None:
        probability, guess = teacher.softmax(1).max(1)
        sure = (probability >= settings.confidence) & free
        sure_count = int(sure.sum())
        share = sure_count / max(1, int(free.sum()))
        if sure_count:
            terms.append(functional.cross_entropy(student[sure], guess[sure]))
        if settings.consistency == "kl":
            any_class = known | free
            ours, theirs = student[any_class].log_softmax(1), teacher[any_class].log_softmax(1)
            terms.append((ours.exp() * (ours - theirs)).sum(1).mean())
    return Loss(torch.stack(terms).sum() if terms else None, count, share)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, keep: float) -> None:
    """teacher = keep * teacher + (1 - keep) * student (Eq. 7), batch norm's running averages included."""
    ours = student.state_dict()
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            value.lerp_(ours[name], 1 - keep)
        else:
            value.copy_(ours[name])
