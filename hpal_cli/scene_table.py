"""The scene table, which every store has, so that a scene has the same number in all stores."""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import UsageError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SceneInfo:
    """One scene. number: its row in the table, which is sorted by name; points: number of its grid points; original:
    number of points as they were read; split: train, val or test; fingerprint: hash of its grid positions."""

    number: int
    name: str
    points: int
    original: int
    split: str
    fingerprint: str


class SceneTable(Sequence[SceneInfo]):
    """All scenes of a store, by number. id: a hash that is equal for stores with the same grid points; by_name: the
    scenes by name."""

    def __init__(self, infos: Sequence[SceneInfo]) -> None:
        self._infos = tuple(infos)
        lines = "\n".join(f"{i.number} {i.fingerprint} {i.name}" for i in self._infos)
        self.id = hashlib.sha256(lines.encode()).hexdigest()[:16]
        self.by_name = {i.name: i for i in self._infos}

    def __len__(self) -> int:
        return len(self._infos)

    def __getitem__(self, number: Any) -> Any:
        return self._infos[number]

    def choose(self, split: str | None, globs: Sequence[str] = ()) -> list[SceneInfo]:
        """The scenes of a split whose names match one of the patterns `globs`. split: `all` or None for every split;
        globs: none for every name.

        Raises:
            UsageError: there is no such split, or no scene matches.
        """
        if split not in (None, "all", *SPLITS):
            raise UsageError("--split", f"{split!r} is no split", f"choose from {', '.join(SPLITS)}, all")
        chosen = [i for i in self._infos if split in (None, "all", i.split)]
        for glob in globs:
            if not any(fnmatch.fnmatchcase(i.name, glob) for i in chosen):
                raise UsageError("--scenes", f"{glob!r} matches no scene of split {split or 'all'}", "check the name")
        if globs:
            chosen = [i for i in chosen if any(fnmatch.fnmatchcase(i.name, g) for g in globs)]
        if not chosen:
            have = ", ".join(f"{s} ({n})" for s in SPLITS if (n := sum(i.split == s for i in self._infos)))
            what = f"no scene of split {split or 'all'}" + (f" matches {', '.join(globs)}" if globs else "")
            raise UsageError("--scenes" if globs else "--split", what, f"the store has {have}")
        return chosen

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(i) for i in self._infos]

    @classmethod
    def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> SceneTable:
        """Checks and returns a table that was read from a store. Every value is checked, since names become paths and
        numbers become indices.

        Raises:
            KeyError, TypeError, ValueError: the rows are no valid table (docs/formats.md section 1.5).
        """
        table = cls(
            [
                SceneInfo(
                    _whole(r, "number"),
                    _text(r, "name"),
                    _whole(r, "points"),
                    _whole(r, "original"),
                    _text(r, "split"),
                    _text(r, "fingerprint"),
                )
                for r in rows
            ]
        )
        if any(info.number != n for n, info in enumerate(table)) or len(table.by_name) != len(table):
            raise ValueError("the scenes are not numbered 0, 1, 2, ... by name")
        for info in table:
            require_scene_name(info.name)
            outer = next((name for name in outer_names(info.name) if name in table.by_name), None)
            if outer is not None:
                raise ValueError(f"scene {info.name} lies inside scene {outer}")
            if info.split not in SPLITS:
                raise ValueError(f"scene {info.name} has an unknown split")
        return table


MAX_POINTS = 1 << 62
"""More points than any scene has, which are still an index of 64 bits."""


def _whole(row: Mapping[str, Any], member: str) -> int:
    value = row[member]
    if isinstance(value, bool) or not isinstance(value, int) or not -1 < value < MAX_POINTS:
        raise ValueError(f"{member} of a scene is {value!r}, no number of points or scenes")
    return value


def _text(row: Mapping[str, Any], member: str) -> str:
    value = row[member]
    if not isinstance(value, str):
        raise ValueError(f"{member} of a scene is {value!r}, no text")
    return value


def require_scene_name(name: str) -> str:
    """Checks the name of a scene and returns it.

    Raises:
        ValueError: the name does not consist of segments of `A-Z a-z 0-9 . _ -` joined by `/`, or a segment has only
            dots. Such a name could lead out of a folder, or control a terminal.
    """
    if not all(re.fullmatch(r"[A-Za-z0-9._-]+", segment) and segment.strip(".") for segment in name.split("/")):
        raise ValueError(f"{name!r} is no name of a scene")
    return name


def outer_names(name: str) -> list[str]:
    """The names that contain a name: `a` and `a/b` for `a/b/c`."""
    return list(itertools.accumulate(name.split("/")[:-1], "{}/{}".format))


def fingerprint(offset: NDArray[np.float64], xyz: NDArray[np.float32]) -> str:
    """16 hex digits of the SHA-256 of the offset (3 little-endian float64) and xyz (N x 3 little-endian float32)."""
    digest = hashlib.sha256(np.ascontiguousarray(offset, "<f8").tobytes())
    digest.update(np.ascontiguousarray(xyz, "<f4").tobytes())
    return digest.hexdigest()[:16]
