"""Protects the cells of a CSV table whose text a spreadsheet would take for a formula, and would run."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def safe_cell(text: str) -> str:
    """`=cmd()` as `'=cmd()`: spreadsheets show a cell that begins with `'` and do nothing. Numbers stay as they are.

    `plain_cell` takes the mark away again; a text that looked marked already gets one more, so none is lost.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain_cell(text: str) -> str:
    """The text that `safe_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
