"""nuScenes: `samples/LIDAR_TOP/*.pcd.bin`, with the labels of nuScenes-lidarseg if its tables are there."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpal_cli.classes import ClassTable, Numbers, SemanticClass
from hpal_cli.errors import HpalError
from hpal_cli.readers import files
from hpal_cli.readers.cloud import Cloud, Options, Source

NAME = "nuscenes"

# The 16 classes of the benchmark, and the numbers of the 32 classes in the files that belong to each.
_CLASSES = {
    "barrier": ((255, 120, 50), (9,)),
    "bicycle": ((255, 192, 203), (14,)),
    "bus": ((255, 255, 0), (15, 16)),
    "car": ((0, 150, 245), (17,)),
    "construction_vehicle": ((0, 255, 255), (18,)),
    "motorcycle": ((200, 180, 0), (21,)),
    "pedestrian": ((255, 0, 0), (2, 3, 4, 6)),
    "traffic_cone": ((255, 240, 150), (12,)),
    "trailer": ((135, 60, 0), (22,)),
    "truck": ((160, 32, 240), (23,)),
    "driveable_surface": ((255, 0, 255), (24,)),
    "other_flat": ((139, 137, 137), (25,)),
    "sidewalk": ((75, 0, 75), (26,)),
    "terrain": ((150, 240, 80), (27,)),
    "manmade": ((230, 230, 250), (28,)),
    "vegetation": ((0, 175, 0), (30,)),
}
_IGNORED = (0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31)
CLASSES: ClassTable | None = ClassTable(
    (SemanticClass(n, name, colour, codes) for n, (name, (colour, codes)) in enumerate(_CLASSES.items())),
    ignored=Numbers(_IGNORED),
)

SUFFIX = ".pcd.bin"
_POINT = 20  # bytes: x y z intensity ring
_REMEDY = "fetch the data set again"
_RECORD = re.compile(rb"\{[^{}]*samples/LIDAR_TOP/[^{}]*\}")


def find(root: Path, options: Options) -> list[Source]:
    """Each `.pcd.bin` file is one scene with the name of the file. The sweeps between the samples, which have no
    labels, are not read."""
    found = []
    labels: dict[Path, dict[str, Path]] = {}
    for source in files.loose_files(root, {".bin"}):
        path = source.path
        if not path.name.endswith(SUFFIX) or "sweeps" in path.relative_to(root).parts:
            continue
        home = path.absolute().parents[2]
        if home not in labels:
            labels[home] = _labels(home)
        beside = labels[home].get(f"samples/LIDAR_TOP/{path.name}")
        found.append(Source(path.name.removesuffix(SUFFIX), path, () if beside is None else (beside,)))
    return files.in_order(found)


def _labels(root: Path) -> dict[str, Path]:
    """The label file of each sample, by the sample's file name in the tables of the data set. root: folder of the data
    set.

    Raises:
        HpalError: a table cannot be read.
    """
    found: dict[str, Path] = {}
    for table in sorted(root.glob("v1.0-*/lidarseg.json")):
        samples = table.with_name("sample_data.json")
        try:
            of_token = {row["sample_data_token"]: root / row["filename"] for row in json.loads(table.read_bytes())}
            # The table also has all images, radar scans and sweeps, and may be a gigabyte: only the records of samples
            # are parsed.
            with samples.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
                for match in _RECORD.finditer(text):
                    row = json.loads(match[0])
                    if row["token"] in of_token:
                        found[row["filename"]] = of_token[row["token"]]
        except (ValueError, KeyError, TypeError) as error:
            raise HpalError(table, f"cannot be read with {samples.name} ({error!r})", _REMEDY) from error
        except OSError as error:
            raise HpalError(samples, f"cannot be read ({error.strerror})", _REMEDY) from error
    return found


def count(source: Source) -> int | None:
    """The number of points, from the size of the file."""
    return files.count_records(source, _POINT)


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The points of one sample in the frame of the scanner, with the class numbers of the label file; without such a
    file the cloud has no labels.

    Raises:
        HpalError: the file does not hold whole points, or there is not one label for each point.
    """
    path = source.path
    size = path.stat().st_size
    if size % _POINT:
        raise HpalError(path, f"has {size} bytes, not {_POINT} for each point", _REMEDY)
    points = np.fromfile(path, "<f4").reshape(-1, 5)
    cloud = Cloud(points[:, :3].astype(np.float64), attributes={"intensity": points[:, 3].astype(np.float32)}, unit=1.0)
    cloud.carried["ring"] = points[:, 4].astype(np.float32)
    for labels in source.beside:
        numbers = np.fromfile(labels, np.uint8)
        if len(numbers) != len(points):
            problem = f"has {len(numbers)} bytes, not one for each of the {len(points)} points of {path.name}"
            raise HpalError(labels, problem, _REMEDY)
        cloud.label = numbers.astype(np.int64)
    yield cloud
