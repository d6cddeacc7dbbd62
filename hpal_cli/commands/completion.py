"""Completes words that are not options, such as scene names and splits, from the stores on the command line.

It reads the zarr.json of a store as plain JSON, because importing zarr takes longer than a person waits for a
completion.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

CLASS_TABLES = ("asprs", "s3dis", "scannet20", "scannet200", "nyu40", "semantickitti", "semanticposs", "nuscenes")
FORMATS = ("s3dis", "scannet", "nuscenes", "las", "ply", "pcd", "e57", "ptx", "semantickitti", "text", "numpy")
SPLITS = ("train", "val", "test")

_NAME = re.compile(r"[A-Za-z0-9._/-]+")
"""Names of scenes. Shells evaluate what a completion prints, and so must be given no other characters."""


def scenes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes the last name of a list `a,b` of scenes. The names are those of the stores on the command line, and
    only those of its --split, if it has one."""
    split = ctx.params.get("split")
    before, comma, last = incomplete.rpartition(",")
    given = set(before.split(","))
    names = {
        one["name"]: None
        for one in _scenes(ctx)
        if split in (None, "all", one.get("split")) and one["name"] not in given
    }
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]


def splits(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes a split. Offers those that have a scene in a store on the command line, or all if it has no store."""
    found = {one.get("split") for one in _scenes(ctx)}
    return [name for name in (*(s for s in SPLITS if s in found or not found), "all") if name.startswith(incomplete)]


def _scenes(ctx: typer.Context) -> Iterator[dict[str, Any]]:
    """The rows of the scene tables of all stores among the values given so far."""
    # While the line ends with an option, Click has not assigned the positional arguments yet: they are in ctx.args.
    for value in (*ctx.params.values(), ctx.args):
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, str | Path):
                yield from _table(Path(one))


def _table(store: Path) -> list[dict[str, Any]]:
    try:
        about = json.loads((store / "zarr.json").read_text(encoding="utf-8"))["attributes"]["hpal"]["scenes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        # This is no store, or a damaged one, and the command itself will say what is wrong.
        return []
    rows = about if isinstance(about, list) else []
    return [
        row
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("name"), str) and _NAME.fullmatch(row["name"])
    ]
