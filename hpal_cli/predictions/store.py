"""The predictions store (docs/formats.md section 3). It has no true labels, so that no later command can use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hpal_cli.errors import HpalError
from hpal_cli.predictions.probabilities import bad_rows
from hpal_cli.scene_table import SceneInfo
from hpal_cli.scenes.metadata import length_of, read_metadata
from hpal_cli.scenes.scale import stored_scale
from hpal_cli.scenes.store import BLOCK, Points, offset_of
from hpal_cli.store import envelope
from hpal_cli.store.envelope import RowReader
from hpal_cli.store.remote import for_each


class PredictionStore:
    """An opened predictions store: class probabilities, classes and features of grid points, from a model or from
    spread answers. It holds no true labels.

    Its `table`, `classes`, `unit`, `grid` and `history` are those of a scenes store. Columns are read when a method is
    called that returns them. In the methods, `scene` is a row of `table`, N is its number of grid points, and C the
    number of classes.
    """

    def __init__(self, path: Path) -> None:
        """Raises:
        HpalError: there is no complete predictions store at `path`, or only a newer version can read it.
        """
        self.path = path
        self._root, attributes = envelope.open_store(path, "predictions")
        self.classes, self.table, self.unit, self.history = read_metadata(attributes, path)
        self.grid = length_of(attributes, "grid", path)
        self.scale = stored_scale(attributes, path)
        self.spread_from = _spread_from(attributes.get("spread"))

    def __reduce__(self) -> tuple[Any, ...]:
        # The table of all scenes would otherwise be sent with each of them.
        return envelope.reopened, (PredictionStore, self.path, self.table.id)

    def check(self) -> None:
        """Reads every chunk of every array.

        Raises:
            HpalError: a chunk is damaged or missing.
        """
        envelope.check_store(self._root, self.path)

    def has(self, scene: SceneInfo) -> bool:
        """Whether this scene was predicted."""
        return self._has(scene, "prob")

    def choose(self, split: str | None, globs: Sequence[str] = ()) -> list[SceneInfo]:
        """The predicted scenes of a split, or of all splits for None or `"all"`, whose names match one of the patterns
        `globs`, if there are any.

        Raises:
            HpalError: there is no such scene.
        """
        chosen = self.table.choose(split, globs)
        scenes = [s for s, has in zip(chosen, for_each(self.path, self.has, chosen), strict=True) if has]
        if not scenes:
            raise HpalError(self.path, f"holds no predictions of split {split or 'all'}", "predict these scenes first")
        return scenes

    def read_ahead(self, scene: SceneInfo, *names: str) -> None:
        """Begins to read arrays of a scene that are needed soon, if the store is on object storage; with `xyz` all that
        `points` needs."""
        group = f"scenes/{scene.name}"
        if "xyz" in names:
            envelope.read_ahead(self._root, group, self.path)
        for name in names:
            dims = 1 if name in ("pred", "labelled") else 2
            # Answers are few.
            rows = 1 if name == "labelled" else scene.points
            envelope.read_ahead(self._root, f"{group}/{name}", self.path, dims=dims, rows=rows)

    def points(self, scene: SceneInfo) -> Points:
        """The N grid points: positions, and colours if the scans have any.

        Raises:
            HpalError: the scene was not predicted, or does not have one position for each point.
        """
        if not self._has(scene, ""):
            raise HpalError(self.path, f"scene {scene.name} was not predicted", "run `hpal predict` on it")
        attributes = envelope.read_attributes(self._root, f"scenes/{scene.name}", self.path)
        offset = offset_of({"offset": (0.0, 0.0, 0.0), **attributes}, scene, self.path)
        names = ["xyz", "rgb"] if self.has_color(scene) else ["xyz"]
        read = envelope.read_arrays(self._root, [f"scenes/{scene.name}/{name}" for name in names], self.path)
        self._require_positions(scene, read[0].shape)
        return Points(read[0], offset, rgb=read[1] if len(read) > 1 else None)

    def xyz_rows(self, scene: SceneInfo) -> RowReader:
        """A function that is given rows (K,) and returns the positions (K, 3) of these points in float32, relative to
        the offset of the scene. It reads only the chunks of the store that hold the rows.

        Raises:
            HpalError: the scene was not predicted, or does not have one position for each point.
        """
        if not self._has(scene, "xyz"):
            raise HpalError(self.path, f"scene {scene.name} was not predicted", "run `hpal predict` on it")
        reader = RowReader(self._root, f"scenes/{scene.name}/xyz", self.path)
        self._require_positions(scene, reader.shape)
        return reader

    def xyz_blocks(self, scene: SceneInfo) -> Iterator[NDArray[np.float32]]:
        """The positions of all points, as `xyz_rows` returns them, `BLOCK` points at a time. A scene may thus be larger
        than the memory.

        Raises:
            HpalError: as `xyz_rows`.
        """
        reader = self.xyz_rows(scene)
        for start in range(0, scene.points, BLOCK):
            yield reader.block(start, min(start + BLOCK, scene.points))

    def _require_positions(self, scene: SceneInfo, shape: tuple[int, ...]) -> None:
        if shape != (scene.points, 3):
            found = " x ".join(map(str, shape))
            raise HpalError(
                self.path, f"scene {scene.name}: xyz is {found}, expected {scene.points} x 3", "write it again"
            )

    def color_rows(self, scene: SceneInfo) -> RowReader:
        """A function that is given rows (K,) and returns the colours (K, 3) of these points, as uint8. Only for a scene
        that has colours."""
        return RowReader(self._root, f"scenes/{scene.name}/rgb", self.path)

    def has_color(self, scene: SceneInfo) -> bool:
        """Whether the scene has colours."""
        return self._has(scene, "rgb")

    def probabilities(self, scene: SceneInfo) -> NDArray[np.float16]:
        """(N, C) the class probabilities of each point.

        Raises:
            HpalError: the values are no probabilities: NaN, negative, or rows that do not sum to 1.
        """
        prob = self._array(scene, "prob")
        if prob.shape != (scene.points, len(self.classes)):
            expected = f"{scene.points} x {len(self.classes)}"
            raise HpalError(
                self.path,
                f"scene {scene.name}: prob is {' x '.join(map(str, prob.shape))}, expected {expected}",
                "write it again",
            )
        bad, first = bad_rows(prob)
        if bad:
            raise HpalError(
                self.path,
                f"scene {scene.name}: {bad} rows of prob are no probabilities (first: row {first})",
                "each row must be >= 0 and sum to 1: write the softmax",
            )
        return prob

    def probability_type(self, scene: SceneInfo) -> np.dtype[Any] | None:
        """The data type in which the probabilities are stored; None if there are none."""
        node = self._find(scene, "prob")
        return node.dtype if isinstance(node, zarr.Array) else None

    def features(self, scene: SceneInfo) -> Features:
        """A function that is given rows (K,) and returns the features (K, F) of these points: the output of the last
        decoder block of the network; for a forest, the description of the superpoint. `hpal.select` takes it.

        Raises:
            HpalError: the store was written without features.
        """
        if not self.feature_count(scene):
            raise HpalError(
                self.path,
                f"scene {scene.name} has no features (feat)",
                "add --no-fds, or predict with features",
            )
        return Features(RowReader(self._root, f"scenes/{scene.name}/feat", self.path), scene, self.path)

    def feature_count(self, scene: SceneInfo) -> int:
        """The number F of features of a point; 0 if the store was written without features."""
        if not self._has(scene, "feat"):
            return 0
        shape = RowReader(self._root, f"scenes/{scene.name}/feat", self.path).shape
        return shape[1] if len(shape) == 2 else 0

    def predicted(self, scene: SceneInfo) -> NDArray[np.integer]:
        """(N,) the predicted class id of each point; -1 for a point that no answer was spread to.

        Raises:
            HpalError: there is not one class id for each point, or one is not in the class table.
        """
        pred = self._array(scene, "pred")
        inside = not pred.size or (pred.dtype.kind in "iu" and pred.min() >= -1 and pred.max() < len(self.classes))
        if pred.shape != (scene.points,) or not inside:
            raise HpalError(self.path, f"scene {scene.name}: pred is not one class id a point", "write it again")
        return pred

    def superpoints(self, scene: SceneInfo) -> NDArray[np.int32] | None:
        """(N,) the number of the superpoint that each point belongs to, from 0 to S - 1; None if the store was written
        without superpoints.

        Raises:
            HpalError: there is not one number for each point, or a number below S does not occur.
        """
        if not self._has(scene, "superpoint"):
            return None
        superpoint = self._array(scene, "superpoint")
        if (
            superpoint.shape != (scene.points,)
            or superpoint.dtype.kind not in "iu"
            or superpoint.min() < 0
            or not np.bincount(superpoint).all()
        ):
            raise HpalError(
                self.path, f"scene {scene.name}: superpoint is not one number a point, from 0 on", "write it again"
            )
        return superpoint.astype(np.int32)

    def labelled(self, scene: SceneInfo) -> NDArray[np.int64]:
        """The rows of the points that have an answer already, ascending. They are never asked about again.

        Raises:
            HpalError: the store names a row that the scene does not have.
        """
        if not self._has(scene, "labelled"):
            return np.zeros(0, np.int64)
        rows = np.unique(self._array(scene, "labelled"))
        if len(rows) and (rows[0] < 0 or rows[-1] >= scene.points):
            raise HpalError(
                self.path, f"scene {scene.name}: labelled names a row that does not exist", "write it again"
            )
        return rows

    def _has(self, scene: SceneInfo, name: str) -> bool:
        return envelope.has(self._root, f"scenes/{scene.name}/{name}".rstrip("/"), self.path)

    def _find(self, scene: SceneInfo, name: str) -> zarr.Array | zarr.Group | None:
        return envelope.find(self._root, f"scenes/{scene.name}/{name}".rstrip("/"), self.path)

    def _array(self, scene: SceneInfo, name: str) -> NDArray[Any]:
        return envelope.read_array(self._root, f"scenes/{scene.name}/{name}", self.path)


def _spread_from(attribute: object) -> dict[str, Any] | None:
    """The attribute in which `hpal spread` records what it has spread (docs/formats.md section 3.1); None for other
    predictions."""
    if not isinstance(attribute, dict) or not isinstance(attribute.get("answers"), str):
        return None
    labels, models = attribute.get("labels"), attribute.get("predictions")
    return {
        "labels": None if labels is None else str(labels),
        "answers": attribute["answers"],
        "predictions": [str(path) for path in models] if isinstance(models, list) else [],
        "alike": attribute.get("alike") is True,
    }


class Features:
    """A function from rows of a scene (K,) to their features (K, F). It reads only the chunks that have the rows."""

    def __init__(self, read: RowReader, scene: SceneInfo, path: Path) -> None:
        """Raises:
        HpalError: the array does not have one row for each point.
        """
        self._read, self._scene, self._path = read, scene, path
        if len(read.shape) != 2 or read.shape[0] != scene.points:
            raise HpalError(
                path, f"scene {scene.name}: feat has {read.shape[0]} rows, expected {scene.points}", "write it again"
            )

    def __call__(self, rows: NDArray[np.integer]) -> NDArray[np.floating]:
        """Raises:
        HpalError: a feature is NaN or infinite, so that there is no cosine.
        """
        found = self._read(rows)
        if not np.isfinite(found).all():
            bad = int((~np.isfinite(found)).any(axis=1).sum())
            raise HpalError(
                self._path,
                f"scene {self._scene.name}: {bad} of {len(rows)} rows of feat hold NaN or infinity",
                "add --no-fds, or predict again",
            )
        return found

    def check(self) -> None:
        """Reads and checks every row.

        Raises:
            HpalError: as a call.
        """
        for start in range(0, self._scene.points, envelope.CHUNK_ROWS):
            self(np.arange(start, min(start + envelope.CHUNK_ROWS, self._scene.points)))


def write_scene(
    root: zarr.Group,
    scene: SceneInfo,
    points: Points,
    prob: NDArray[np.floating],
    feat: NDArray[np.floating] | None,
    labelled: NDArray[np.int64],
    *,
    superpoint: NDArray[np.int32] | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> NDArray[np.integer]:
    """Writes a scene of a predictions store. Returns `pred` (N,), the class of the largest stored probability.

    prob: (N, C); feat: (N, F) or None; labelled: (L,) rows with an answer; superpoint: (N,) of each point, if they are
    known; unknown: (N,) whether nothing is known of a point, whose `pred` is then -1.
    """
    rows = [slice(start, start + envelope.CHUNK_ROWS) for start in range(0, max(1, len(prob)), envelope.CHUNK_ROWS)]
    blocks = ((prob[r], None if feat is None else feat[r]) for r in rows)
    return write_scene_blocks(root, scene, points, blocks, labelled, superpoint=superpoint, unknown=unknown)


def write_scene_blocks(
    root: zarr.Group,
    scene: SceneInfo,
    points: Points,
    blocks: Iterable[tuple[NDArray[np.floating], NDArray[np.floating] | None]],
    labelled: NDArray[np.int64],
    *,
    superpoint: NDArray[np.int32] | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> NDArray[np.integer]:
    """As `write_scene`, for a scene whose features do not fit into memory. blocks: yields (prob, feat) of
    `envelope.CHUNK_ROWS` points at a time; the last block may be shorter."""
    group = root.require_group(f"scenes/{scene.name}")
    envelope.write_attributes(group, {"offset": points.offset.tolist()})
    envelope.write_array(group, "xyz", np.asarray(points.xyz, np.float32))
    if points.rgb is not None:
        envelope.write_array(group, "rgb", points.rgb)
    arrays: dict[str, zarr.Array] = {}

    def write(name: str, start: int, values: NDArray[np.generic]) -> None:
        if name not in arrays:
            shape = (len(points.xyz), *values.shape[1:])
            arrays[name] = envelope.create_array(group, name, shape, values.dtype)
        arrays[name][start : start + len(values)] = values

    preds, done = [], 0
    for prob, feat in blocks:
        prob = prob.astype(np.float16)
        write("prob", done, prob)
        if feat is not None:
            # A feature beyond the range of float16 would become infinite, and cosines with it NaN.
            write("feat", done, np.clip(feat, -65504, 65504).astype(np.float16))
        preds.append(prob.argmax(axis=1).astype(np.uint8 if prob.shape[1] <= 256 else np.uint16))
        done += len(prob)
    pred: NDArray[np.integer] = np.concatenate(preds)
    if unknown is not None and unknown.any():
        pred = np.where(unknown, -1, pred.astype(np.int16))
    envelope.write_array(group, "pred", pred)
    envelope.write_array(group, "labelled", labelled.astype(np.int64))
    if superpoint is not None:
        envelope.write_array(group, "superpoint", superpoint)
    return pred
