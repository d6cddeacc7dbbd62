"""The learning rate at a step."""

from __future__ import annotations

import math

from hpal_cli.training.presets import Settings


def learning_rate(settings: Settings, step: int) -> float:
    """The rate of step 0 .. steps - 1.

    Cosine: falls from `lr` to nearly 0 and starts again, every `period` steps (0: once); the period is stretched to
    fit a whole number of times, so that a run always ends at a low rate. Polynomial: `lr (1 - t)^power`.
    """
    if settings.schedule == "polynomial":
        return settings.lr * (1 - step / settings.steps) ** settings.power
    cycles = max(1, round(settings.steps / settings.period)) if settings.period else 1
    phase = step * cycles / settings.steps % 1
    return settings.lr * 0.5 * (1 + math.cos(math.pi * phase))
