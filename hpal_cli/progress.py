"""The interface through which the library reports progress and warnings. The command layer shows them on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Task(Protocol):
    """A long piece of work whose progress is reported."""

    def advance(self, amount: int = 1, status: str = "") -> None:
        """Reports that `amount` more units are done. status: a short text on what was done."""
        ...


class Monitor(Protocol):
    """Receives progress, notes and warnings. `hpal_cli.commands.console` shows them on a terminal."""

    def task(self, what: str, total: int) -> contextlib.AbstractContextManager[Task]:
        """Begins a task of `total` units, which ends with the block. what: its name in a few words."""
        ...

    def note(self, text: str) -> None:
        """Tells the user something that needs no action."""
        ...

    def warn(self, text: str) -> None:
        """Tells the user that something is probably wrong."""
        ...


class Silent:
    """A monitor and task that shows nothing, which is the default in Python."""

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, status: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class WarningCollector(Silent):
    """A monitor for a task in another process. It collects the `warnings`, which the process of the command shows."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)
