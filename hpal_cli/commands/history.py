"""Describes the current call of `hpal` as an entry of a file's history."""

from __future__ import annotations

import sys

from hpal_cli import history


def this_call(name: str, *, seed: int | None = None) -> list[history.Entry]:
    """The history entry of command `name` with the arguments of this process."""
    arguments = sys.argv[1:]
    at = arguments.index(name) + 1 if name in arguments else 0
    return [history.call(name, *arguments[at:], seed=seed)]
