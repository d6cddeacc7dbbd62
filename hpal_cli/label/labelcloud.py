"""Reads the folder that labelCloud writes: `labels/_classes.json`, and `labels/segmentation/<cloud>.bin` with one byte
for each point."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpal_cli.classes import IGNORE, UNSURE, ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.label.annotated import UNANSWERED, Annotated, scenes_named
from hpal_cli.scene_table import SceneInfo, SceneTable

CLASSES = "_classes.json"

MAX_NUMBER = 127


def labels_in(folder: Path) -> Path | None:
    """The folder with labelCloud's labels, which is `folder` or `folder/labels`; None if it is neither."""
    return next((f for f in (folder, folder / "labels") if (f / CLASSES).is_file()), None)


def read_folder(folder: Path, classes: ClassTable, table: SceneTable) -> list[Annotated]:
    """Reads each `.bin` file of the folder; its name says which scene it is for. The points are in the order of the
    scene's original points or of its grid points, whichever are as many. Classes are matched by name, and one may be
    called `unsure`. Points of labelCloud's default class are unanswered, since it writes that class for all points that
    nobody labelled.

    Raises:
        HpalError: the folder has no such files, a class is not in the store, or a file does not fit any scene.
    """
    labels_folder = labels_in(folder)
    if labels_folder is None:
        raise HpalError(folder, f"has no labels/{CLASSES}", "give the folder of a labelCloud project")
    numbers = _numbers(labels_folder / CLASSES, classes)
    files = sorted((labels_folder / "segmentation").glob("*.bin"))
    if not files:
        raise HpalError(
            labels_folder, "has no segmentation/*.bin", "label a cloud in labelCloud's segmentation mode first"
        )
    return [_read(path, numbers, table) for path in files]


def _numbers(path: Path, classes: ClassTable) -> NDArray[np.int32]:
    """(128,) what each of labelCloud's numbers stands for: a class id, -1 unsure, -2 unanswered, -3 no class."""
    meaning = np.full(MAX_NUMBER + 1, -3, np.int32)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        # Older versions wrote names and numbers alone.
        listed = data["classes"] if "classes" in data else [{"name": k, "id": v} for k, v in data.items()]
        rows = [(str(row["name"]), int(row["id"])) for row in listed]
        default = int(data.get("default", 0)) if "classes" in data else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise HpalError(path, f"cannot be read ({error!r})", "give the file that labelCloud wrote") from error
    for name, number in rows:
        if not 0 <= number <= MAX_NUMBER:
            raise HpalError(path, f"class {name!r} has the number {number}", f"labelCloud has 0 to {MAX_NUMBER}")
        if number == default:
            continue
        found = IGNORE if name.casefold() == UNSURE else {c.name.casefold(): c.id for c in classes}.get(name.casefold())
        if found is None:
            remedy = f"name its classes {', '.join(classes.names)}, or {UNSURE}"
            raise HpalError(path, f"{name!r} is no class", remedy)
        meaning[number] = found
    if 0 <= default <= MAX_NUMBER:
        meaning[default] = UNANSWERED
    return meaning


def _read(path: Path, numbers: NDArray[np.int32], table: SceneTable) -> Annotated:
    try:
        values = np.fromfile(path, np.int8)
    except OSError as error:
        raise HpalError(path, f"cannot be read ({error.strerror})", "check the file") from error
    named = scenes_named(Path(path.name), table)
    if not named:
        raise HpalError(path, "has the name of no scene", "give the cloud the name of its scene")
    fitting = [scene for scene in named if len(values) in (scene.points, scene.original)]
    if len(fitting) != 1:
        raise HpalError(path, _misfit(len(values), named, fitting), "label the cloud that `hpal export` wrote")
    label = np.where(values < 0, -3, numbers[np.maximum(values, 0)])
    if (label == -3).any():
        n = int((label == -3).argmax())
        raise HpalError(path, f"point {n:,}: {values[n]} is no class of {CLASSES}", "give the files of one project")
    return Annotated(path, label.astype(np.int32), np.arange(len(values)), named=fitting)


def _misfit(count: int, named: list[SceneInfo], fitting: list[SceneInfo]) -> str:
    if fitting:
        return f"may be of {' or '.join(scene.name for scene in fitting)}"
    sizes = "; ".join(f"{s.name} has {s.original:,} points, {s.points:,} on its grid" for s in named)
    return f"has {count:,} labels, but {sizes}"
