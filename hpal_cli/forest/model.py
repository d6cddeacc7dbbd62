"""The checkpoint of a forest: arrays and JSON in a zip archive, so that loading one can never run code
(docs/formats.md section 6.2)."""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli import archives, history
from hpal_cli.classes import ClassTable
from hpal_cli.errors import HpalError
from hpal_cli.forest import boosting
from hpal_cli.forest.learn import Stages
from hpal_cli.history import Entry
from hpal_cli.specification import check_specification
from hpal_cli.store.files import atomic_write
from hpal_cli.store.remote import local_copy
from hpal_cli.superpoints.likeness import Likeness
from hpal_cli.trees import Trees
from hpal_cli.wording import first_line

SPEC = 2

_META = "hpal.json"
_MEMBER_TIME = (1980, 1, 1, 0, 0, 0)
"""The time of every member of the archive, so that the same forest gives the same bytes."""


@dataclass
class Forest:
    """A trained forest and all that is needed to use it.

    stages: its trees; likeness: of the scenes that it learned from, whose components are the features of predictions;
    columns: number of columns of a superpoint's description; scale, appearance: of those scenes (`scale_of`,
    `appearance_of`); scenes: id of the scenes store; labels: digest of the answers; labelled: number of labelled
    points; answered: from scene names to rows (int64) that have an answer, a class or unsure; all_labelled: whether it
    learned from every label of the scenes.
    """

    stages: Stages
    likeness: Likeness
    classes: ClassTable
    columns: int
    scale: float
    appearance: str
    scenes: str
    labels: str
    labelled: int
    seed: int
    answered: dict[str, NDArray[np.int64]]
    all_labelled: bool = False
    history: list[Entry] = field(default_factory=list)

    def save(self, path: Path, *, overwrite: bool) -> None:
        """Writes the checkpoint.

        Raises:
            HpalError: `path` exists and `overwrite` is not set, or it cannot be written.
        """
        meta = {
            "spec": SPEC,
            "kind": "forest",
            "stages": len(self.stages.trees),
            "classes": self.classes.to_json(),
            "columns": self.columns,
            "scale": self.scale,
            "appearance": self.appearance,
            "scenes": self.scenes,
            "labels": self.labels,
            "labelled": self.labelled,
            "all_labelled": self.all_labelled,
            "seed": self.seed,
            "answered": sorted(self.answered),
            "history": history.to_json(self.history),
        }
        groups = {f"stage{n}": trees for n, trees in enumerate(self.stages.trees)} | {"boosted": self.stages.boosted}
        arrays: dict[str, NDArray[Any]] = {
            f"{name}/{one.name}": getattr(trees, one.name) for name, trees in groups.items() for one in fields(Trees)
        }
        arrays |= {f"likeness/{one.name}": getattr(self.likeness, one.name) for one in fields(Likeness)}
        arrays |= {f"answered/{n}": self.answered[name] for n, name in enumerate(sorted(self.answered))}
        with atomic_write(path, overwrite=overwrite) as partial, zipfile.ZipFile(partial, "w") as archive:
            _add(archive, _META, json.dumps(meta).encode())
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
                _add(archive, f"{name}.npy", buffer.getvalue())


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _MEMBER_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data, compresslevel=1)


def is_forest(path: Path) -> bool:
    """Whether the checkpoint at `path` is that of a forest."""
    try:
        with archives.opened(local_copy(path)) as archive:
            return _META in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),
    # Errors that a damaged file can cause in the arrays and the JSON. zipfile raises a RuntimeError for a password,
    # json for deeply nested lists, and numpy parses the header of an array as Python.
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError, MemoryError, SyntaxError),
    tokenize.TokenError,
)


def load(path: Path) -> Forest:
    """Reads a forest.

    Raises:
        HpalError: the file is no complete forest, is damaged, or its specification is not the one that hpal reads.
    """
    remedy = "give a model made by `hpal train --model forest`"
    try:
        with archives.opened(local_copy(path)) as archive:
            meta: Mapping[str, Any] = json.loads(archive.read(_META))
            check_specification(path, meta.get("spec"), SPEC)
            if meta["spec"] < SPEC:
                raise HpalError(
                    path, f"is written to specification {meta['spec']}, this hpal reads {SPEC}", "train it again"
                )

            def read(name: str) -> NDArray[Any]:
                member = archive.getinfo(f"{name}.npy")
                archives.check_shape(archive, member)
                return np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)

            def trees(name: str) -> Trees:
                return Trees(*(read(f"{name}/{one.name}") for one in fields(Trees)))

            stages = [trees(f"stage{n}") for n in range(int(meta["stages"]))]
            forest = Forest(
                Stages(stages, trees("boosted")),
                Likeness(*(read(f"likeness/{one.name}") for one in fields(Likeness))),
                ClassTable.from_json(meta["classes"], path),
                int(meta["columns"]),
                float(meta["scale"]),
                str(meta["appearance"]),
                str(meta["scenes"]),
                str(meta["labels"]),
                int(meta["labelled"]),
                int(meta["seed"]),
                {str(name): read(f"answered/{n}") for n, name in enumerate(meta["answered"])},
                bool(meta["all_labelled"]),
                history.from_json(meta["history"]),
            )
    except HpalError:
        raise
    except _UNREADABLE as error:
        raise HpalError(path, f"is not a whole hpal forest ({first_line(error)})", remedy) from error
    width, classes = forest.columns, len(forest.classes)
    if not stages:
        raise HpalError(path, "holds no trees", remedy)
    if not (
        forest.likeness.fits(width)
        and 0 < forest.scale < np.inf
        and all(rows.dtype == np.int64 and rows.ndim == 1 for rows in forest.answered.values())
    ):
        raise HpalError(path, "its tables do not fit together", remedy)
    seen = [width if n == 0 else width + 11 * classes for n in range(len(stages))]
    for columns, one in zip(seen, stages, strict=True):
        one.check(columns, classes, path)
    boosting.check(forest.stages.boosted, seen[-1], classes, path)
    return forest
