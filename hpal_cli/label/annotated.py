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
"""Of a point that says nothing; -1 is "unsure"."""

ANSWERS = ("label", "class", "classification")
"""Fields that answers are looked for in, in this order and any case, with or without `scalar_` before them."""

NOTHING = "nothing of this file was taken; correct it"


@dataclass
class Annotated:
    """What a file says about N points, in its order.

    label: (N,) int32 class ids, -1 = unsure, -2 = unanswered; row: (N,) what the file calls its points; what: the word
    for one of them; scene: (N,) numbers, -1 = not said, or None; index: (N,) rows of the scene, -1 = not said, or None;
    position: (N, 3) or None; named: the scenes that the file may be of, by its name; table: the id of the scenes that
    the file says it is of; typed: positions are as `hpal` wrote them, for no viewer shifts or rounds them; regions:
    answers that are meant for several points; notes: what a person should be told.
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
    """Answers in a field of a PLY file: class ids where it has a field `index`, as clouds of hpal do, else the codes of
    the class table, as `hpal prep` reads the file. NaN and anything below -1 is unanswered.

    Raises:
        HpalError: no PLY, no field of answers, or answers that are no classes.
    """
    from hpal_cli.readers import ply
    from hpal_cli.stream.header import parse, read_text

    columns = _bare(ply.vertices(path))
    with path.open("rb") as file:
        said = parse(read_text(file, path), path)
    found = _identified(path, columns, table)
    found.table = said.scenes
    found.label = _field(found, columns, classes)
    return found


def read_las(path: Path, classes: ClassTable, table: SceneTable) -> Annotated:
    """Answers in a LAS or LAZ file. In `classification` 0 and 1 are unanswered. Other numbers are the `las` of a class
    or, for classes without, their `code`; from 64 on they are ids + 64, as results are written, unless the table has
    such codes. A further field called label or class goes before it, and is read as in `read_ply`.

    Raises:
        HpalError: as `read_ply`, and whatever is wrong with the file.
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
    """By lower-case names without `scalar_`; of two that become one, the first counts."""
    bare: dict[str, NDArray[Any]] = {}
    for name, values in columns.items():
        bare.setdefault(name.casefold().removeprefix("scalar_"), values)
    return bare


def _identified(path: Path, columns: Mapping[str, NDArray[Any]], table: SceneTable) -> Annotated:
    """All but the answers."""
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
    """Whole numbers of 0 and more, -1 for everything else: viewers hand integers back as floats, merged clouds NaN."""
    number = np.asarray(values, np.float64)
    whole = np.isfinite(number) & (number == np.rint(number)) & (number >= 0) & (number < 2**53)
    return np.where(whole, number, -1).astype(np.int64)


def _answers_in(columns: Mapping[str, NDArray[Any]]) -> str | None:
    return next((name for name in ANSWERS if name in columns), None)


def _refuse_predictions(path: Path, columns: Mapping[str, NDArray[Any]], name: str) -> None:
    if name != "label" and {"confidence", "uncertainty"} <= set(columns):
        raise HpalError(
            path,
            f"its {name} is what the network predicted (it has a field confidence)",
            "answer in a field of its own, called label",
        )


def _field(found: Annotated, columns: Mapping[str, NDArray[Any]], classes: ClassTable) -> NDArray[np.int32]:
    """(N,) the answers in a numeric field.

    Raises:
        HpalError: there is none, or a value is no class; the first such point is named.
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
        raise HpalError(found.path, f"{found.where(n)}: {values[n]:g} is no class number", NOTHING)
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
        raise HpalError(found.path, f"{found.where(n)}: {codes[n]} is none of the {len(classes)} classes", NOTHING)
    return label


def _known(found: Annotated, values: NDArray[np.int64], numbers: Mapping[int, int]) -> NDArray[np.int32]:
    """(N,) numbers of classes, by what each stands for, as ids; -1 and -2 stay."""
    known = np.array(sorted(numbers), np.int64)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    label = np.where(values < 0, values, np.array([numbers[number] for number in known.tolist()])[at])
    bad = (values >= 0) & (known[at] != values)
    if bad.any():
        n = int(bad.argmax())
        raise HpalError(
            found.path,
            f"{found.where(n)}: {values[n]} is none of the {len(set(numbers.values()))} classes",
            NOTHING,
        )
    return label.astype(np.int32)
