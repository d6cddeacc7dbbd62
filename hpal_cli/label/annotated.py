"""Reads the answers in files from a person: tables, and clouds that a viewer saved. `matching` then finds the points
they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.readers.las import UNCLASSIFIED
from hpal_cli.scene_table import SceneInfo, SceneTable
from hpal_cli.writers import las as written

UNANSWERED = -2
"""The label of a point for which the file has no answer; -1 is the answer "unsure"."""

ANSWERS = ("label", "class", "classification")
"""Names of fields with answers, of which the first that a file has is read. Case and a prefix `scalar_` do not
matter."""

NOTHING_TAKEN = "nothing of this file was taken; correct it"


@dataclass
class Annotated:
    """The answers in a file of N points, in the order of the file.

    label: (N,) int32 class ids, -1 for unsure, -2 for unanswered; row: (N,) the number of each point in messages; what:
    the word before this number, such as "row"; scene: (N,) scene numbers, -1 where the file has none, or None; index:
    (N,) rows in the scene, -1 where the file has none, or None; position: (N, 3) or None; named: the scenes that the
    name of the file may stand for; table: the id of the scenes store that the file names, or None; typed: positions
    come from a table, so no viewer has shifted or rounded them; regions: number of answers that are meant for several
    points; notes: messages for the person who runs the command.
    """

    path: Path
    label: NDArray[np.int32]
    row: NDArray[np.int64]
    what: str = "point"
    scene: NDArray[np.int64] | None = None
    index: NDArray[np.int64] | None = None
    position: NDArray[np.float64] | None = None
    named: list[SceneInfo] = field(default_factory=list)
    table: str | None = None
    typed: bool = False
    regions: int = 0
    notes: list[str] = field(default_factory=list)

    def where(self, n: int) -> str:
        """The name of a point in messages: `row 7`."""
        return f"{self.what} {self.row[n]:,}"


def read_ply(path: Path, classes: ClassTable, table: SceneTable) -> Annotated:
    """Reads the answers in a field of a PLY file. If the file has a field `index`, as the clouds of hpal do, the
    answers are class ids, else codes of the class table, as `hpal prep` reads them. NaN and values below -1 are
    unanswered.

    Raises:
        HpalError: the file is no PLY, has no field of answers, or has an answer that is no class.
    """
    from hpal_cli.readers import ply
    from hpal_cli.stream.header import parse, read_text

    columns = _bare(ply.vertices(path))
    with path.open("rb") as file:
        header = parse(read_text(file, path), path)
    found = _identified(path, columns, table)
    found.table = header.scenes
    found.label = _field(found, columns, classes)
    return found


def read_las(path: Path, classes: ClassTable, table: SceneTable) -> Annotated:
    """Reads the answers in a LAS or LAZ file. A field called label or class is read as by `read_ply`. Without one, the
    answers are in `classification`: 0 and 1 are unanswered, and other numbers are the `las` of a class or, if it has
    none, its `code`. Numbers from 64 on are class ids plus 64, as hpal writes them, unless the table has such codes.

    Raises:
        HpalError: the file cannot be read, has no field of answers, or has an answer that is no class.
    """
    from hpal_cli.readers import las

    with las.opened(path) as reader:
        file = reader.read()
    dimensions = ["classification", *file.point_format.extra_dimension_names]
    columns = _bare({name: np.asarray(file[name]) for name in dimensions})
    columns |= {axis: np.asarray(file[axis], np.float64) for axis in "xyz"}
    found = _identified(path, columns, table)
    if _answers_in(columns) == "classification":
        _refuse_predictions(path, columns, "classification")
        found.label = _of_las(found, np.asarray(columns["classification"], np.int64), classes)
    else:
        found.label = _field(found, columns, classes)
    return found


def scenes_named(path: Path, table: SceneTable) -> list[SceneInfo]:
    """The scenes that a file's name stands for: `office_1.ply`, `Area_1/office_1.ply` and `Area_1_office_1.ply` may all
    be Area_1/office_1."""
    stem = path.with_suffix("").as_posix()
    full = [s for s in table if stem == s.name or stem.endswith("/" + s.name)]
    flat = [s for s in table if path.stem in (s.name.replace("/", "_"), s.name.rpartition("/")[2])]
    return full or flat


def _bare(columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The columns under lower-case names without `scalar_`. If two get the same name, the first is kept."""
    bare: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        bare.setdefault(name.casefold().removeprefix("scalar_"), values)
    return bare


def _identified(path: Path, columns: Mapping[str, NDArray[Any]], table: SceneTable) -> Annotated:
    """The points of a file, all of them still unanswered."""
    position = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float64)
    count = len(position)
    scene, index = (_rows(columns[name]) if name in columns else None for name in ("scene", "index"))
    return Annotated(
        path,
        np.full(count, UNANSWERED, np.int32),
        np.arange(count, dtype=np.int64),
        scene=scene,
        index=index,
        position=position,
        named=scenes_named(path, table),
    )


def _rows(values: NDArray[Any]) -> NDArray[np.int64]:
    """Values as whole numbers, or -1 where a value is none or is below 0. Viewers write integers as floats, and clouds
    that were merged may have NaN."""
    number = np.asarray(values, np.float64)
    whole = np.isfinite(number) & (number == np.rint(number)) & (number >= 0) & (number < 2**53)
    return np.where(whole, number, -1).astype(np.int64)


def _answers_in(columns: Mapping[str, NDArray[Any]]) -> str | None:
    return next((name for name in ANSWERS if name in columns), None)


def _refuse_predictions(path: Path, columns: Mapping[str, NDArray[Any]], name: str) -> None:
    if name != "label" and {"confidence", "uncertainty"} <= set(columns):
        raise HpalError(
            path,
            f"its {name} holds predictions, not answers (it has a field confidence too)",
            "answer in a further field, called label",
        )


def _field(found: Annotated, columns: Mapping[str, NDArray[Any]], classes: ClassTable) -> NDArray[np.int32]:
    """(N,) the answers in a numeric field.

    Raises:
        HpalError: there is no such field, or a value is no class; the message names the first such point.
    """
    name = _answers_in(columns)
    if name is None:
        raise HpalError(found.path, f"has no field {', '.join(ANSWERS)}", "add a field called label to answer in")
    _refuse_predictions(found.path, columns, name)
    values = np.asarray(columns[name], np.float64)
    given = np.isfinite(values) & (values > UNANSWERED)
    bad = given & (values != np.rint(values))
    if bad.any():
        n = int(bad.argmax())
        raise HpalError(found.path, f"{found.where(n)}: {values[n]:g} is no class number", NOTHING_TAKEN)
    ids = np.where(given, values, UNANSWERED).astype(np.int64)
    by_code = found.index is None and any(c.codes != (c.id,) for c in classes) and bool(classes.numbers())
    if by_code:
        found.notes.append(f"{found.path}: its {name} are read as codes of the class table, for it has no field index")
    return _known(found, ids, classes.numbers() if by_code else {c.id: c.id for c in classes})


def _of_las(found: Annotated, codes: NDArray[np.int64], classes: ClassTable) -> NDArray[np.int32]:
    nothing = -3
    meaning = np.full(256, nothing, np.int32)
    numbers = classes.numbers(las=True)
    if all((c.code or 0) < written.FIRST_USER_CLASS for c in classes if c.las is None):
        usual = {n + written.FIRST_USER_CLASS: n for n in range(len(classes))}
        numbers = usual | {int(number): n for n, number in enumerate(written.codes(classes, own=False))} | numbers
    for number, n in numbers.items():
        if 0 <= number < len(meaning):
            meaning[number] = n
    meaning[list(UNCLASSIFIED)] = UNANSWERED
    label = meaning[codes]
    if (label == nothing).any():
        n = int((label == nothing).argmax())
        raise HpalError(
            found.path, f"{found.where(n)}: {codes[n]} is none of the {len(classes)} classes", NOTHING_TAKEN
        )
    return label


def _known(found: Annotated, values: NDArray[np.int64], numbers: Mapping[int, int]) -> NDArray[np.int32]:
    """(N,) the ids of the classes that values (N,) stand for; -1 and -2 stay. numbers: from each number to a class id.

    Raises:
        HpalError: a value stands for no class.
    """
    known = np.array(sorted(numbers), np.int64)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    label = np.where(values < 0, values, np.array([numbers[number] for number in known.tolist()])[at])
    bad = (values >= 0) & (known[at] != values)
    if bad.any():
        n = int(bad.argmax())
        raise HpalError(
            found.path,
            f"{found.where(n)}: {values[n]} is none of the {len(set(numbers.values()))} classes",
            NOTHING_TAKEN,
        )
    return label.astype(np.int32)
