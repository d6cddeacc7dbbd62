"""How far a run has come, by its steps or by the clock, and the learning rate at that time."""

from __future__ import annotations

import math
import time

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


def learning_rate_at(settings: Settings, share: float) -> float:
    """The rate after a share of the time, 0 to 1, that a run of `minutes` has: that of `learning_rate`, without
    restarts."""
    if settings.schedule == "polynomial":
        return settings.lr * (1 - share) ** settings.power
    return settings.lr * 0.5 * (1 + math.cos(math.pi * share))


class RunProgress:
    """How far a run is: by its steps, or by the clock where the settings have `minutes`. The clock starts here."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        """seconds: those that an interrupted run had spent before."""
        self._settings = settings
        self._begun = time.monotonic() - seconds
        self.timed = settings.minutes > 0
        self.total = math.ceil(60 * settings.minutes) if self.timed else settings.steps
        """Seconds or steps of the whole run."""

    def seconds(self) -> float:
        """Spent so far."""
        return time.monotonic() - self._begun

    def share(self, step: int, seconds: float) -> float:
        """Of the run that is over after so many steps, or seconds; 1 and more where it should end."""
        return seconds / (60 * self._settings.minutes) if self.timed else step / self._settings.steps

    def reached(self, step: int) -> int:
        """Of `total`."""
        return min(self.total, int(self.seconds())) if self.timed else step

    def rate(self, step: int, share: float) -> float:
        """The learning rate of a step that begins here."""
        return learning_rate_at(self._settings, share) if self.timed else learning_rate(self._settings, step)
