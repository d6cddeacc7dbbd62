"""Turns the answers of a person, from any kind of file, into rows for a labels store."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.label.annotated import UNANSWERED, Annotated, read_las, read_ply
from hpal_cli.label.labelcloud import read_folder
from hpal_cli.label.matching import Store, match
from hpal_cli.label.queries import expand_to_regions
from hpal_cli.label.spreadsheet import read_table
from hpal_cli.labels.store import ANSWER, LabelStore, point_keys
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore
from hpal_cli.store.envelope import kind_of
from hpal_cli.stream.rows import REGION, Rows
from hpal_cli.wording import counted


@dataclass
class ImportedAnswers:
    """The answers in a file. rows: (K,) records of `ANSWER`, each point once; source: the text that the store records
    as their source; given: number of answers that the person gave; blank: number of rows or points (`word`) without an
    answer; unasked: number of answers for points that were not asked about, None if that is not known; notes: messages
    for the person who runs the command."""

    rows: NDArray[np.void]
    source: str
    given: int
    blank: int
    word: str
    unasked: int | None = None
    notes: list[str] = field(default_factory=list)


def open_scenes(path: Path) -> Store:
    """Opens a store of any kind that has a table of scenes and classes: scenes, predictions or labels.

    Raises:
        HpalError: there is no such store at `path`.
    """
    kind = kind_of(path)
    if kind == "predictions":
        return PredictionStore(path)
    return LabelStore(path) if kind == "labels" else SceneStore(path)


def import_answers(
    path: Path, store: Store, *, asked: Rows | None = None, labels: LabelStore | None = None
) -> ImportedAnswers:
    """Reads the answers in a table (.csv, .tsv, .txt), a cloud (.ply, .las, .laz) or the folder of labelCloud.

    store: has the scenes that the answers are for. asked: (K,) the selection that was answered, with scene and index.
    If it has regions, an answer for one point of a region is an answer for all of them. labels: a store that also
    records which points were asked about.

    Raises:
        HpalError: the file cannot be read, or one of its answers is wrong. The message names it, and no answer is read.
    """
    files, what = _read(path, store)
    matched = [match(found, store) for found in files]
    rows = np.concatenate([np.zeros(0, ANSWER), *(part.rows for part in matched)])
    if len(np.unique(point_keys(rows))) < len(rows):
        raise HpalError(path, "two of its files have an answer for the same point", "keep one file for each scene")
    imported = ImportedAnswers(
        rows,
        f"{what} {path}",
        len(rows),
        sum(int((found.label == UNANSWERED).sum()) for found in files),
        files[0].what,
        notes=[note for notes in ([*f.notes, *m.notes] for f, m in zip(files, matched, strict=True)) for note in notes],
    )
    _compare(imported, asked, labels)
    if asked is not None and REGION in (asked.dtype.names or ()):
        imported.rows = _by_region(rows, asked)
        imported.notes.append(f"{counted(len(rows), 'answer')} for {counted(len(imported.rows), 'point')} of regions")
    elif regions := sum(found.regions for found in files):
        imported.notes.append(
            f"{counted(regions, 'answer')} for regions label one point each; give the selection too to label all points"
        )
    return imported


def _read(path: Path, store: Store) -> tuple[list[Annotated], str]:
    if not path.exists():
        raise HpalError(path, "does not exist", "check the name")
    if path.is_dir():
        return read_folder(path, store.classes, store.table), "labelCloud"
    readers = {".ply": read_ply, ".las": read_las, ".laz": read_las}
    read = readers.get(path.suffix.lower())
    if read is None:
        return [read_table(path, store.classes, store.table)], "table"
    return [read(path, store.classes, store.table)], "cloud"


def _compare(imported: ImportedAnswers, asked: Rows | None, labels: LabelStore | None) -> None:
    known = [point_keys(asked)] if asked is not None else []
    if labels is not None and len(found := labels.asked()):
        # A point that has an answer may be answered again, and is not counted as one that nobody asked about.
        known += [point_keys(found), point_keys(labels.latest())]
    if known:
        imported.unasked = int((~np.isin(point_keys(imported.rows), np.concatenate(known))).sum())


def _by_region(rows: NDArray[np.void], asked: Rows) -> NDArray[np.void]:
    """The answers, each for all asked points of its region; answers for points that were not asked about stay alone."""
    answer, point = expand_to_regions(asked, rows["scene"], rows["index"])
    more = rows[answer]
    for name in ("scene", "index", "x", "y", "z"):
        if name in (asked.dtype.names or ()):
            more[name] = asked[name][point]
    other = rows[~np.isin(point_keys(rows), point_keys(asked))]
    return np.concatenate([more, other])
