"""The history of a file: one entry for each command that contributed to it, oldest first."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpal_cli import __version__


@dataclass(frozen=True)
class Entry:
    """One command. program: such as `hpal score`; version: of the program; args: the arguments as they were typed;
    seed: of random draws, None if the command draws nothing."""

    program: str
    version: str
    args: tuple[str, ...]
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {"program": self.program, "version": self.version, "args": list(self.args), "seed": self.seed}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Entry:
        return cls(
            str(entry.get("program", "?")),
            str(entry.get("version", "?")),
            tuple(str(a) for a in entry.get("args", [])),
            entry.get("seed"),
        )

    def line(self) -> str:
        """The entry as one line of ASCII JSON, whatever characters its arguments have."""
        return json.dumps(self.to_json(), ensure_ascii=True, separators=(", ", ": "))

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"  (seed {self.seed})"
        return f"{self.program} {shlex.join(self.args)}  [{self.version}]{seed}"


def call(name: str, *args: str, seed: int | None = None) -> Entry:
    """The entry of a command of this version of hpal, such as `call("score", "preds.zarr")`."""
    return Entry(f"hpal {name}", __version__, tuple(args), seed)


def from_json(entries: Sequence[Mapping[str, Any]]) -> list[Entry]:
    return [Entry.from_json(e) for e in entries]


def to_json(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [e.to_json() for e in entries]
