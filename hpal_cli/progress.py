"""How the library tells a person what it is doing, without knowing about terminals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Task(Protocol):
    """A piece of long work that is under way."""

    def advance(self, amount: int = 1, status: str = "") -> None: ...


class Monitor(Protocol):
    """Where progress, notes and warnings go; `hpal_cli.commands.console` shows them."""

    def task(self, what: str, total: int) -> contextlib.AbstractContextManager[Task]: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


class Silent:
    """Shows nothing: the default when the library is called from Python."""

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Task]:
        yield self

    def advance(self, amount: int = 1, status: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass
