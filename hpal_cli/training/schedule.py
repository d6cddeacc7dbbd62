"""The progress of a training run, by its steps or by time, and the learning rate at each step."""

from __future__ import annotations

import math
import time

from hpal_cli.training.presets import Settings


def learning_rate(settings: Settings, step: int) -> float:
    """The learning rate of a step, from 0 to steps - 1.

    The cosine schedule falls from `lr` to nearly 0, and starts again after about `period` steps (never if that is 0).
    The period is adjusted so that the run has a whole number of periods and ends at a low rate. The polynomial schedule
    is `lr (1 - t)^power` with t from 0 to 1.
    """
    if settings.schedule == "polynomial":
        return settings.lr * (1 - step / settings.steps) ** settings.power
    cycles = max(1, round(settings.steps / settings.period)) if settings.period else 1
    phase = step * cycles / settings.steps % 1
    return settings.lr * 0.5 * (1 + math.cos(math.pi * phase))


def learning_rate_at(settings: Settings, share: float) -> float:
    """The learning rate of a run with `minutes`, after a share of its time, 0 to 1. It is that of `learning_rate`
    without restarts."""
    if settings.schedule == "polynomial":
        return settings.lr * (1 - share) ** settings.power
    return settings.lr * 0.5 * (1 + math.cos(math.pi * share))


class RunProgress:
    """The progress of a run, by its steps, or by time if the settings have `minutes`. The time begins when this object
    is made."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        """seconds: that the run had taken before it was interrupted."""
        self._settings = settings
        self._begun = time.monotonic() - seconds
        self.timed = settings.minutes > 0
        self.total = math.ceil(60 * settings.minutes) if self.timed else settings.steps
        """The seconds of the whole run if it is timed, else its steps."""

    def seconds(self) -> float:
        """The seconds that the run has taken so far."""
        return time.monotonic() - self._begun

    def share(self, step: int, seconds: float) -> float:
        """The share of the run that is over after this number of steps and seconds; at 1 or more it must end."""
        return seconds / (60 * self._settings.minutes) if self.timed else step / self._settings.steps

    def reached(self, step: int) -> int:
        """The part of `total` that is done, for the progress bar."""
        return min(self.total, int(self.seconds())) if self.timed else step

    def rate(self, step: int, share: float) -> float:
        """The learning rate of step `step`, which begins after this share of the run."""
        return learning_rate_at(self._settings, share) if self.timed else learning_rate(self._settings, step)
