"""Budgets: how many points a selection may choose, given as a number, a share of the pool, or a number for each
scene."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from hpal_cli.errors import UsageError

DEFAULT = "0.02%"


@dataclass(frozen=True)
class Budget:
    """A number of points, or a percentage of the pool's points. per_scene: for each scene, not for all together."""

    amount: Decimal
    percent: bool
    per_scene: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget that a text such as `0.02%`, `2600`, `20/scene` or `0.02%/scene` stands for.

        Raises:
            UsageError: the text is no budget, or the budget is 0 or more than all points.
        """
        match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*(/\s*scene)?\s*", text)
        remedy = "give a share (0.02%), a number (2600), or either for each scene (20/scene)"
        if not match:
            raise UsageError("--budget", f"{text!r} is no budget", remedy)
        amount, percent = Decimal(match.group(1)), bool(match.group(2))
        if percent and amount > 100:
            raise UsageError("--budget", f"{text!r} is more than all points", remedy)
        if not percent and 0 < amount < 1:
            remedy = f"a share has its sign: {text.strip()}%"
        if amount <= 0 or (not percent and amount != amount.to_integral_value()):
            raise UsageError("--budget", f"{text!r} is no number of points", remedy)
        return cls(amount, percent, bool(match.group(3)))

    def __str__(self) -> str:
        """The text that `parse` reads, always in the same spelling for the same budget."""
        return f"{self.amount.normalize():f}{'%' * self.percent}{'/scene' * self.per_scene}"

    def count(self, points: int) -> int:
        """How many of `points` points the budget is: rounded, and at least one."""
        if not self.percent:
            return int(self.amount)
        return max(1, round(self.amount * points / 100))


def parse_share(text: str, option: str, whole: str, example: str) -> float:
    """A share, given as `5%` or `0.05`, as a number from 0 to 1. option, whole, example: parts of the error message.

    Raises:
        UsageError: the text is no share.
    """
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(option, f"{text!r} is no share of the {whole}", f"give one like {example}")
    return share
