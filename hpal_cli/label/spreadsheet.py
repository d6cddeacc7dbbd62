"""A table of queries for a person with a spreadsheet, and its answers back."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import IO

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.label.store import ANSWER
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.classes import IGNORE, ClassTable
from hpal_cli.scenes.table import SceneTable
from hpal_cli.store.files import replace_when_whole
from hpal_cli.stream.header import Header
from hpal_cli.stream.rows import Rows

COLUMNS = ("scene", "index", "x", "y", "z", "rank", "score", "predicted", "second", "confidence", "label")

UNSURE = "unsure"


def write_queries(
    asked: Rows,
    header: Header,
    path: Path,
    *,
    predictions: PredictionStore | None = None,
    overwrite: bool = False,
) -> None:
    """One row a query, scene by scene in order of rank, with an empty `label` to fill in.

    predictions: gives the first and second guess and the confidence; empty without.
    """
    _require_unanswered(path)
    names = {s.number: s.name for s in header.pool}
    with (
        replace_when_whole(path, overwrite=overwrite) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in np.unique(asked["scene"]):
            here = asked[asked["scene"] == number]
            if "rank" in (here.dtype.names or ()):
                here = here[np.argsort(here["rank"])]
            guesses = _guesses(here, int(number), predictions)
            for row, guess in zip(here, guesses, strict=True):
                rank = int(row["rank"]) if "rank" in (here.dtype.names or ()) else ""
                score = f"{row['score']:.6f}" if "score" in (here.dtype.names or ()) else ""
                position = [f"{row[axis]:.5f}" for axis in "xyz"]
                writer.writerow(
                    [
                        names.get(int(number), int(number)),
                        int(row["index"]),
                        *position,
                        rank,
                        score,
                        *guess,
                        "",
                    ]
                )


def _require_unanswered(path: Path) -> None:
    """Raises:
    HpalError: the table that would be replaced holds a person's work.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        given = sum(bool((row.get("label") or "").strip()) for row in _rows(file))
    if given:
        raise HpalError(
            path, f"holds {given} answers", "take them with `hpal label --from` and remove it, or name another"
        )


def _rows(file: IO[str]) -> csv.DictReader[str]:
    header = file.readline()
    file.seek(0)
    # Spreadsheets of half of Europe save semicolons.
    return csv.DictReader(file, delimiter=max(",;\t", key=header.count))


def read_answers(path: Path, classes: ClassTable, table: SceneTable) -> tuple[Rows, int]:
    """The answered rows of a table as records of `ANSWER`, and how many rows are still blank.

    `label` is a class name or id, `unsure`, or blank; `scene` a name or number.

    Raises:
        HpalError: a missing column, or a row (its number is named) whose scene, index or label does not exist.
    """
    rows: list[tuple[int, int, float, float, float, int, int]] = []
    blank = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = _rows(file)
            missing = [c for c in ("scene", "index", "label") if c not in (reader.fieldnames or ())]
            if missing:
                raise HpalError(
                    path,
                    f"has no column {', '.join(missing)}",
                    "fill in the table that `hpal label --table` wrote",
                )
            for line in reader:
                text = (line["label"] or "").strip()
                if not text:
                    blank += 1
                    continue
                rows.append(_answer(line, text, path, reader.line_num, classes, table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HpalError(path, f"cannot be read ({error})", "give a CSV table in UTF-8") from error
    return np.array(rows, ANSWER), blank


def _answer(
    line: dict[str, str], text: str, path: Path, number: int, classes: ClassTable, table: SceneTable
) -> tuple[int, int, float, float, float, int, int]:
    where = f"row {number}"
    name = (line["scene"] or "").strip()
    scene = table.by_name.get(name) or (table[int(name)] if name.isdecimal() and int(name) < len(table) else None)
    if scene is None:
        raise HpalError(
            path, f"{where}: no scene is called {name!r}", "nothing of this table was taken; correct the row"
        )
    label = IGNORE if text.casefold() == UNSURE else classes.id_of(text)
    if label is None:
        raise HpalError(
            path,
            f"{where}: {text!r} is no class",
            f"write one of {', '.join(classes.names)}, {UNSURE}, or leave it blank",
        )
    try:
        row = float(line["index"] or "nan")
        if not row.is_integer():
            raise ValueError(f"index {line['index']!r} is no row")
        index = int(row)
        position = [float(line.get(axis) or "nan") for axis in "xyz"]
    except ValueError as error:
        raise HpalError(path, f"{where}: {error}", "nothing of this table was taken; correct the row") from error
    if not 0 <= index < scene.points:
        raise HpalError(
            path,
            f"{where}: scene {scene.name} has no point {index}",
            "nothing of this table was taken; correct the row",
        )
    return scene.number, index, position[0], position[1], position[2], label, 0


def _guesses(rows: Rows, number: int, predictions: PredictionStore | None) -> list[tuple[str, str, str]]:
    if predictions is None or len(predictions.classes) < 2:
        return [("", "", "")] * len(rows)
    prob = predictions.probabilities(predictions.table[number])[rows["index"]].astype(np.float32)
    order = np.argsort(-prob, axis=1, kind="stable")
    names = predictions.classes.names
    return [(names[o[0]], names[o[1]], f"{p[o[0]]:.3f}") for p, o in zip(prob, order, strict=True)]
