"""Protects the cells of a CSV table whose text a spreadsheet program would run as a formula."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """A text such as `=cmd()` as `'=cmd()`, which a spreadsheet program only shows. Numbers stay as they are.

    `plain_cell` removes the mark. A text that begins with a mark already gets another, so that it comes back unchanged.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """The text that `safe_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
