"""Writes queries as a CSV table that a person fills in with a spreadsheet program, and reads the answers in it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from hpal_cli.classes import IGNORE, UNSURE, ClassTable
from hpal_cli.csv_cells import plain_cell, safe_cell
from hpal_cli.errors import HpalError
from hpal_cli.label.annotated import NOTHING_TAKEN, UNANSWERED, Annotated, scenes_named
from hpal_cli.label.queries import Query
from hpal_cli.scene_table import SceneTable
from hpal_cli.store.files import atomic_write
from hpal_cli.wording import counted

COLUMNS = ("scene", "index", "x", "y", "z", "rank", "score", "predicted", "second", "confidence", "label")


def write_queries(
    queries: Sequence[Query],
    names: Mapping[int, str],
    path: Path,
    *,
    clips: Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a row for each query, in their order, with an empty column `label` to fill in.

    names: of the scenes, by number; clips: the address of each query's picture, for a column `clip` at the end. If a
    query is for several points, a column `points` before `label` says for how many.

    Raises:
        HpalError: the table exists and may not be replaced, or it has answers.
    """
    require_unanswered(path)
    wide = any(len(query.points) > 1 for query in queries)
    columns = [*COLUMNS[:-1], *(["points"] if wide else []), "label", *(["clip"] if clips is not None else [])]
    with (
        atomic_write(path, overwrite=overwrite) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for n, query in enumerate(queries):
            guess = query.guess
            row = [
                safe_cell(names.get(query.scene, str(query.scene))),
                query.index,
                *(f"{value:.5f}" for value in query.position),
                "" if query.rank is None else query.rank,
                "" if query.score is None else f"{query.score:.6f}",
                *(
                    ("", "", "")
                    if guess is None
                    else (safe_cell(guess.first), safe_cell(guess.second), f"{guess.confidence:.3f}")
                ),
                *([len(query.points)] if wide else []),
                "",
                *([safe_cell(clips[n])] if clips is not None else []),
            ]
            writer.writerow(row)


def require_unanswered(path: Path) -> None:
    """Raises:
    HpalError: the table that would be replaced has answers of a person.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        given = sum(bool((row.get("label") or "").strip()) for row in _rows(file))
    if given:
        remedy = "read them with `hpal label --from` and remove the table, or give another name"
        raise HpalError(path, f"holds {counted(given, 'answer')}", remedy)


def _rows(file: IO[str]) -> csv.DictReader[str]:
    # Read whole, since a pipe such as that of `<(...)` cannot go back to its beginning.
    text = io.StringIO(file.read(), newline="")
    header = text.readline()
    text.seek(0)
    # Where a comma separates decimals, spreadsheet programs separate columns by semicolons.
    return csv.DictReader(text, delimiter=max(",;\t", key=header.count))


def read_table(path: Path, classes: ClassTable, table: SceneTable) -> Annotated:
    """Reads the rows of a table. `label` is the name or id of a class, `unsure`, or blank (unanswered), and `scene` is
    a name or number. A table without `scene` and `index` must have x, y and z. If semicolons separate the columns,
    numbers may have a decimal comma.

    Raises:
        HpalError: a column is missing, or the scene, index, position or label of an answered row is not valid.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = _rows(file)
            names = set(reader.fieldnames or ())
            if "label" not in names or not ({"scene", "index"} <= names or {"x", "y", "z"} <= names):
                missing = [name for name in ("scene", "index", "label") if name not in names]
                remedy = "fill in the table that `hpal label --table` wrote"
                raise HpalError(path, f"has no column {', '.join(missing)}", remedy)
            double = [name for name in (*COLUMNS, "points") if (reader.fieldnames or ()).count(name) > 1]
            if double:
                raise HpalError(path, f"has two columns called {double[0]}", "keep one of them")
            lines = [(reader.line_num, line) for line in reader]
            comma = reader.reader.dialect.delimiter == ";"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HpalError(path, f"cannot be read ({error})", "give a CSV table in UTF-8") from error
    count = len(lines)
    found = Annotated(
        path,
        np.full(count, UNANSWERED, np.int32),
        np.array([number for number, _ in lines], np.int64),
        "row",
        scene=np.full(count, -1, np.int64) if "scene" in names else None,
        index=np.full(count, -1, np.int64) if "index" in names else None,
        position=np.full((count, 3), np.nan),
        named=scenes_named(path, table),
        typed=True,
    )
    for n, (_, line) in enumerate(lines):
        _take(found, n, line, classes, table, comma=comma)
    return found


def _take(
    found: Annotated, n: int, line: Mapping[str, str], classes: ClassTable, table: SceneTable, *, comma: bool
) -> None:
    """Reads a line of the table into row n of `found`. comma: numbers have a decimal comma."""
    # The csv module lists cells beyond the last column under the key None, and has None for missing cells.
    extra = [text for text in line.get(None) or () if text.strip()]  # type: ignore[call-overload]
    if extra or (line["label"] is None and any((text or "").strip() for text in line.values())):
        what = f"has {extra[0]!r} beyond the last column" if extra else "ends before the column label"
        raise _bad(found, n, what)
    text = (line["label"] or "").strip()
    if not text:
        return
    # The label may be copied from the column `predicted`, in which a name that looks like a formula is marked.
    label = IGNORE if text.casefold() == UNSURE else classes.id_of(plain_cell(text))
    if label is None:
        label = classes.id_of(text)
    if label is None and comma:
        label = classes.id_of(text.replace(",", "."))
    if label is None:
        remedy = f"write one of {', '.join(classes.names)}, {UNSURE}, or leave it blank"
        raise HpalError(found.path, f"{found.where(n)}: {text!r} is no class", remedy)
    found.label[n] = label
    found.regions += (line.get("points") or "1").strip() != "1"
    assert found.position is not None
    name, row = (plain_cell((line.get(column) or "").strip()) for column in ("scene", "index"))
    try:
        position = [_number(line.get(axis) or "nan", comma=comma) for axis in "xyz"]
    except ValueError as error:
        # A row with an index needs no position.
        if not row:
            raise _bad(found, n, str(error)) from error
        position = [math.nan] * 3
    found.position[n] = position
    if not name and not row and not all(map(math.isfinite, position)):
        raise _bad(found, n, f"has the label {text!r}, but no scene and index")
    if found.scene is not None and name:
        # Python refuses to read a number of thousands of digits.
        numbered = name.isdecimal() and len(name) < 10 and int(name) < len(table)
        scene = table.by_name.get(name) or (table[int(name)] if numbered else None)
        if scene is None:
            raise _bad(found, n, f"no scene is called {name[:80]!r}")
        found.scene[n] = scene.number
    if found.index is not None and row:
        try:
            number = _number(row, comma=comma)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            raise _bad(found, n, f"index {row!r} is no row of a scene")
        if number < 0 or number >= 2**53:
            raise _bad(found, n, f"there is no point {row}")
        found.index[n] = int(number)


def _number(text: str, *, comma: bool) -> float:
    return float(text.replace(",", ".") if comma else text)


def _bad(found: Annotated, n: int, problem: str) -> HpalError:
    return HpalError(found.path, f"{found.where(n)}: {problem}", NOTHING_TAKEN)
