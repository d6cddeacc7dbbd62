"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 point`, `1,200 points`, `2 queries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
