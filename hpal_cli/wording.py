"""Numbers in sentences, and sentences that would come again and again."""

from __future__ import annotations

NAMED = 3
"""Of many, how many are named."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 point`, `1,200 points`, `2 queries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


class Repeated:
    """Things to tell of many scenes or files: of those that are word for word the same, the first is told as it is,
    and of the others where else it holds."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = {}

    def first(self, where: str, text: str) -> bool:
        """Takes note; whether nobody was told yet."""
        self._where.setdefault(text, []).append(where)
        return len(self._where[text]) == 1

    def rest(self) -> list[str]:
        """`also b, c, d and 496 more: the text`, for each that came again."""
        lines = []
        for text, (_, *others) in self._where.items():
            if others:
                named = ", ".join(others[:NAMED])
                more = len(others) - NAMED
                lines.append(f"also {named}{f' and {more:,} more' if more > 0 else ''}: {text}")
        return lines
