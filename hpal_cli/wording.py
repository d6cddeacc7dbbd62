"""Text for messages: counts, messages that repeat, and text that is safe to print on a terminal."""

from __future__ import annotations

import unicodedata

MAX_NAMED = 3
"""How many scenes or files a message names, at most; it counts the others."""

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of the text after them."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 point`, `1,200 points`, `2 queries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, at most 160 letters, or its class if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


class Repeated:
    """Collects messages about many scenes or files. A message that repeats word for word is shown once, and at the end
    with the other places where it holds."""

    def __init__(self) -> None:
        self._where: dict[str, list[str]] = {}

    def first(self, where: str, text: str) -> bool:
        """Records a message about `where`. Returns whether it comes for the first time and must be shown."""
        self._where.setdefault(text, []).append(where)
        return len(self._where[text]) == 1

    def rest(self) -> list[str]:
        """A line `also b, c, d and 496 more: the text` for each message that was repeated."""
        lines = []
        for text, (_, *others) in self._where.items():
            if others:
                named = ", ".join(others[:MAX_NAMED])
                more = len(others) - MAX_NAMED
                lines.append(f"also {named}{f' and {more:,} more' if more > 0 else ''}: {text}")
        return lines


MAX_LINE = 2000
"""Letters of an error or a warning on a terminal: more than the two longest paths, or all formats, take together."""


def shortened(text: str) -> str:
    """The text, or if it has more than `MAX_LINE` letters, its beginning, which says what is at fault, and its end,
    which says what to do. A name from a damaged file can have millions of letters."""
    half = MAX_LINE // 2
    return text if len(text) <= MAX_LINE else f"{text[:half]} ... {text[-half:]}"


def printable(text: str) -> str:
    r"""The text with each character that would control a terminal or begin a new line written out, such as `\x1b`.

    It is for names and other text from files, which anybody may have written.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _is_control(letter) else letter for letter in text)


def _is_control(letter: str) -> bool:
    return letter in _BIDI_CONTROLS or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
