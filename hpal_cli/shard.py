"""Divides the scenes into parts for the tasks of a job array."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from hpal_cli.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Part `part` of `parts`, counted from 1: the scenes part, part + parts, part + 2 parts, ... of the pool."""

    part: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that a text such as `2/4` stands for.

        Raises:
            UsageError: the text is no such pair of numbers.
        """
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not match or not 1 <= int(match.group(1)) <= int(match.group(2)):
            raise UsageError("--shard", f"{text!r} is no part", "give i/n with i from 1 to n, like 2/4")
        return cls(int(match.group(1)), int(match.group(2)))

    @classmethod
    def from_array_task(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """The shard of the Slurm array task that this process is, whatever its first number and step are. Outside a job
        array, the shard is the whole pool.

        Raises:
            UsageError: Slurm's variables contradict each other.
        """
        if "SLURM_ARRAY_TASK_ID" not in environment or "SLURM_ARRAY_TASK_COUNT" not in environment:
            return cls()
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
        try:
            task, count, least, step = (
                int(environment.get(n, d)) for n, d in zip(names, ("", "", "0", "1"), strict=True)
            )
            place, rest = divmod(task - least, step)
        except (ValueError, ZeroDivisionError):
            place, count, rest = -1, 0, 0
        if rest or not 0 <= place < count:
            values = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
            raise UsageError("--shard", f"cannot be read from {values}", "give it as i/n, or 1/1 for all scenes")
        return cls(place + 1, count)

    def of(self, items: Sequence[Item]) -> list[Item]:
        """The items of this part."""
        return list(items[self.part - 1 :: self.parts])
