"""How many points a selection may choose: numbers, shares of the pool, and numbers for each scene."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from hpal_cli.errors import UsageError

DEFAULT = "0.02%"


@dataclass(frozen=True)
class Budget:
    """A share of the pool's points or a number of points, over all scenes together or for each."""

    amount: Decimal
    percent: bool
    per_scene: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`0.02%`, `2600`, `20/scene` or `0.02%/scene`.

        Raises:
            UsageError: anything else, or nothing to take.
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
        """As `parse` reads it, in one spelling."""
        return f"{self.amount.normalize():f}{'%' * self.percent}{'/scene' * self.per_scene}"

    def of(self, points: int) -> int:
        """How many of `points` points that is: rounded, at least one."""
        if not self.percent:
            return int(self.amount)
        return max(1, round(self.amount * points / 100))


def parse_share(text: str, option: str, whole: str, example: str) -> float:
    """A share of some things, `5%` or `0.05`, as a number from 0 to 1.

    Raises:
        UsageError: something else.
    """
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UsageError(option, f"{text!r} is no share of the {whole}", f"give one like {example}")
    return share
