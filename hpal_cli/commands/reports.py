"""Writes what other programs read: the report of `--json` on stdout, and the events of `--progress json` on stderr.

docs/schemas has the JSON schema of each.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hpal_cli import __version__
from hpal_cli.errors import HpalError

SPEC = 1
"""Version of both schemas. It is raised when a member is removed or changes its meaning, not when one is added."""


def report(
    command: str | None, members: Mapping[str, Any], *, warnings: Sequence[str] = (), error: Failure | None = None
) -> str:
    """The text of a report, as JSON. members: what the command found or did; error: why it could not."""
    about = {
        "json": SPEC,
        "version": __version__,
        "command": command,
        "status": 0 if error is None else error.status,
        "warnings": list(warnings),
        "error": None if error is None else error.to_json(),
    }
    return json.dumps({"hpal": about, **members}, indent=2, allow_nan=False)


class Failure:
    """Why a command ended early, in the parts that its error line consists of. status: the exit status."""

    def __init__(self, problem: str, status: int, *, subject: str | None = None, remedy: str | None = None) -> None:
        self.subject, self.problem, self.remedy, self.status = subject, _one_line(problem), remedy, status

    @classmethod
    def from_error(cls, error: HpalError) -> Failure:
        return cls(error.problem, error.exit_status, subject=error.subject, remedy=error.remedy)

    def __str__(self) -> str:
        problem = self.problem if self.remedy is None else f"{self.problem}; {self.remedy}"
        return _one_line(problem if self.subject is None else f"{self.subject}: {problem}")

    def to_json(self) -> dict[str, str | None]:
        return {"subject": self.subject, "problem": self.problem, "remedy": self.remedy, "message": str(self)}


PROGRESS_SECONDS = 0.1
"""Seconds between two events of one task."""


class Events:
    """Writes a line of JSON on stderr for each message, table and step of progress that a person would see there."""

    def __init__(self, command: str | None) -> None:
        self._command = command

    def note(self, text: str) -> None:
        if text:
            self._write("note", text=text)

    def warning(self, text: str) -> None:
        self._write("warning", text=text)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._write("table", headers=list(headers), rows=[list(row) for row in rows])

    def task(self, what: str, total: int) -> EventTask:
        return EventTask(self, what, total)

    def progress(self, what: str, done: int, total: int, status: str) -> None:
        self._write("progress", what=what, done=done, total=total, status=status)

    def end(self, failure: Failure | None) -> None:
        """The last event of a process."""
        status, error = (0, None) if failure is None else (failure.status, failure.to_json())
        self._write("end", status=status, error=error)

    def _write(self, event: str, **members: Any) -> None:
        line = json.dumps({"hpal": SPEC, "command": self._command, "event": event, **members})
        # In one call, since the commands of a pipeline share stderr and their lines must not mix.
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


class EventTask:
    """Writes an event for the beginning and for the end of a task, and in between at most every `PROGRESS_SECONDS`
    seconds."""

    def __init__(self, events: Events, what: str, total: int) -> None:
        self._events, self._what, self._total, self._done = events, what, total, 0
        self._told = time.monotonic()
        events.progress(what, 0, total, "")

    def advance(self, amount: int = 1, status: str = "") -> None:
        self._done += amount
        now = time.monotonic()
        if self._done >= self._total or now - self._told >= PROGRESS_SECONDS:
            self._told = now
            self._events.progress(self._what, self._done, self._total, status)


def _one_line(text: str) -> str:
    return " ".join(text.split())
