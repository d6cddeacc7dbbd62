"""Numbers in sentences, and text that a terminal may show."""

from __future__ import annotations

import unicodedata

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They make what follows run the other way."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 point`, `1,200 points`, `2 queries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shown(text: str) -> str:
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
