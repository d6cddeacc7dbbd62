"""Text for messages: numbers in sentences, sentences that repeat, and text that is safe to show on a terminal."""

from __future__ import annotations

import unicodedata

NAMED = 3
"""Of many, how many are named."""

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make what follows run the other way."""


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


def printable(text: str) -> str:
    r"""`text` as a person may see it: what would steer a terminal, or pretend to be another line, is written as `\x1b`.

    Names of files and what streams and stores say of themselves come from anywhere.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _steers(letter) else letter for letter in text)


def _steers(letter: str) -> bool:
    return letter in _TURNING or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
