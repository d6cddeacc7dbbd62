"""The header of a point stream (docs/formats.md section 5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np

from hpal_cli import __version__
from hpal_cli.errors import HpalError
from hpal_cli.history import Entry
from hpal_cli.scene_table import SceneInfo, require_scene_name

SPEC = 1
"""The version of the specification that this program writes, and the newest that it reads."""

PLY_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
PLY_NAMES = {
    "i1": "char",
    "u1": "uchar",
    "i2": "short",
    "u2": "ushort",
    "i4": "int",
    "u4": "uint",
    "f4": "float",
    "f8": "double",
}

MAX_HEADER = 1 << 26
"""Bytes of a header, at most. A table of a million scenes fits."""


@dataclass(frozen=True)
class PoolScene:
    """A scene of the pool that was scored. points: of the whole scene, whether in the stream or not."""

    number: int
    name: str
    points: int

    @classmethod
    def from_info(cls, info: SceneInfo) -> PoolScene:
        return cls(info.number, info.name, info.points)


@dataclass(frozen=True)
class Header:
    """The description of a stream at its beginning.

    kind: `scores`, `selection` or `labelled`; source: path of the store that was scored; scenes: the `id` of the scenes
    store; unit: metres in one unit of x, y and z; features: number of columns of the source's features, 0 if it has
    none; pool: all scenes that were scored; history: one entry for each command.
    dtype: the columns of a row, little endian; count: number of rows; comments: those of other programs.
    strategy: by which the points were scored; shard: (i, n) if this is the i-th of n parts, counted from 1.
    """

    kind: str
    source: str | None = None
    scenes: str | None = None
    unit: float | None = None
    features: int | None = None
    pool: tuple[PoolScene, ...] = ()
    history: tuple[Entry, ...] = ()
    dtype: np.dtype[np.void] = field(default_factory=lambda: np.dtype([]))
    count: int = 0
    comments: tuple[str, ...] = ()
    strategy: str | None = None
    shard: tuple[int, int] | None = None

    def then(self, kind: str, history: Sequence[Entry] | None) -> Header:
        """The header that the next command writes. kind: of that stream; history: the entries that the command adds, or
        None for a header without any history."""
        return replace(self, kind=kind, history=() if history is None else (*self.history, *history))

    def encode(self) -> bytes:
        """The header as PLY text, ending in `end_header`."""
        comments = [f"hpal {SPEC} {self.kind} (written by hpal {__version__})"]
        if self.source is not None:
            comments.append(f"source {json.dumps(self.source)}")
        if self.scenes is not None:
            comments.append(f"scenes {self.scenes}")
        if self.unit is not None:
            comments.append(f"unit {self.unit!r}")
        if self.features is not None:
            comments.append(f"features {self.features}")
        if self.strategy is not None:
            comments.append(f"strategy {self.strategy}")
        if self.shard is not None:
            comments.append("shard {}/{}".format(*self.shard))
        comments += [f"scene {s.number} {s.points} {s.name}" for s in self.pool]
        comments += [f"history {entry.line()}" for entry in self.history]
        comments += self.comments
        lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
        lines.append(f"element vertex {self.count}")
        for name in self.dtype.names or ():
            lines.append(f"property {PLY_NAMES[self.dtype[name].str[1:]]} {name}")
        return ("\n".join(lines) + "\nend_header\n").encode()


@dataclass(frozen=True)
class RawHeader:
    """The text of a PLY header. plain: whether the rows can be read directly, and not only by plyfile."""

    lines: tuple[str, ...]
    text: bytes
    plain: bool


def read_text(stream: IO[bytes], subject: object) -> RawHeader:
    """Reads a stream up to the line `end_header`, including it.

    Raises:
        HpalError: the stream is empty, is no PLY, or ends within the header.
    """
    text = bytearray(stream.readline(64))
    if not text:
        raise HpalError(subject, "is empty: the command before it wrote nothing", "look at that command's own message")
    if text.strip() != b"ply":
        raise HpalError(subject, "is not a PLY stream", "give the output of `hpal score` or `hpal select`")
    lines = ["ply"]
    while lines[-1] != "end_header":
        line = stream.readline(MAX_HEADER)
        text += line
        if not line.endswith(b"\n") or len(text) > MAX_HEADER:
            raise HpalError(subject, "its PLY header does not end", "the command before it died early: run it again")
        lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
    words = [line.split() for line in lines]
    elements = [w for w in words if w[:1] == ["element"]]
    plain = ["format", "binary_little_endian", "1.0"] in words and bool(elements) and elements[0][1:2] == ["vertex"]
    plain = plain and not any(w[:2] == ["property", "list"] for w in words)
    return RawHeader(tuple(lines), bytes(text), plain)


def parse(raw: RawHeader, subject: object) -> Header:
    """Parses a header that `encode` wrote, or what another program has kept of it.

    Raises:
        HpalError: the specification is newer, a property has an unknown type, or a line cannot be read.
    """
    kind, source, scenes, unit, features, strategy, shard = "points", None, None, None, None, None, None
    pool: list[PoolScene] = []
    entries: list[Entry] = []
    comments: list[str] = []
    columns: list[tuple[str, str]] = []
    count, element = 0, ""
    for line in raw.lines:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "comment":
                what, _, value = rest.strip().partition(" ")
                if what == "hpal" and value[:1].isdigit():
                    spec, kind = int(value.split()[0]), value.split()[1]
                    if spec > SPEC:
                        raise HpalError(
                            subject,
                            f"is written to stream specification {spec}, this hpal reads {SPEC}",
                            "install a newer hpal",
                        )
                elif kind == "points":
                    # A comment of another program may begin with `scene` too, so these words only have a meaning after
                    # the line that hpal writes first.
                    comments.append(rest.strip())
                elif what == "source":
                    source = str(json.loads(value))
                elif what == "scenes":
                    scenes = value
                elif what == "unit":
                    unit = float(value)
                    if not 0 < unit < float("inf"):
                        raise ValueError("a unit is above zero")
                elif what == "features":
                    features = int(value)
                elif what == "strategy":
                    strategy = value or None
                elif what == "shard":
                    part, parts = map(int, value.split("/"))
                    shard = part, parts
                elif what == "scene":
                    number, points, name = value.split(" ", 2)
                    pool.append(PoolScene(int(number), require_scene_name(name), int(points)))
                elif what == "history":
                    entries.append(Entry.from_json(json.loads(value)))
                else:
                    comments.append(rest.strip())
            elif word == "element":
                element = rest.split()[0]
                if element == "vertex":
                    count = int(rest.split()[1])
            elif word == "property" and element == "vertex" and not rest.startswith("list"):
                kind_name, name = rest.split()
                columns.append((name, "<" + PLY_TYPES[kind_name]))
        except (ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:
            short = line if len(line) < 200 else f"{line[:200]}..."
            raise HpalError(
                subject,
                f"its header line {short!r} cannot be read ({error!r})",
                "write it as docs/formats.md says",
            ) from error
    names = [name for name, _ in columns]
    if len(set(names)) != len(names) or count < 0 or (count and not names):
        problem = "its header repeats a property, has none, or counts below zero"
        raise HpalError(subject, problem, "write it as docs/formats.md says")
    return Header(
        kind,
        source,
        scenes,
        unit,
        features,
        tuple(pool),
        tuple(entries),
        np.dtype(columns),
        count,
        tuple(comments),
        strategy,
        shard,
    )


def require_columns(header: Header, names: Sequence[str], subject: object, maker: str) -> None:
    """Raises:
    HpalError: the stream lacks a column of `names`. maker: the command that writes them, for the message.
    """
    missing = [name for name in names if name not in (header.dtype.names or ())]
    if missing:
        raise HpalError(subject, f"has no property {', '.join(missing)}", f"give the output of `{maker}`")


def require_selected(header: Header, subject: object) -> None:
    """Raises:
    HpalError: the stream is not a selection, but has all candidates with their scores.
    """
    if header.kind == "scores":
        raise HpalError(subject, "holds scores, not a selection", "give the output of `hpal select`")


def require_scenes(header: Header, scenes: str, subject: object, other: object, remedy: str) -> None:
    """Raises:
    HpalError: the stream names other scenes than those with the id `scenes`. other, remedy: parts of the message.
    """
    if header.scenes not in (None, scenes):
        raise HpalError(subject, f"holds points of other scenes than {other}", remedy)
