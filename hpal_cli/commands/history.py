"""This call as an entry of a file's history."""

from __future__ import annotations

import sys

from hpal_cli import history


def this_call(name: str, *, seed: int | None = None, hidden: bool = False) -> list[history.Entry]:
    """The entry for the arguments of this process; none if `--no-history` hides it."""
    if hidden:
        return []
    arguments = sys.argv[1:]
    at = arguments.index(name) + 1 if name in arguments else 0
    return [history.call(name, *arguments[at:], seed=seed)]
