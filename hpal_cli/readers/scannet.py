"""ScanNet v2: `<scene>_vh_clean_2.ply`, with `<scene>_vh_clean_2.labels.ply` where labels are public."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpal_cli.errors import HpalError
from hpal_cli.readers import columns, ply
from hpal_cli.readers.cloud import Cloud, Options, Source
from hpal_cli.readers.files import in_order, walk
from hpal_cli.scenes.classes import IGNORE, ClassTable, SemanticClass

NAME = "scannet"
_SUFFIX = "_vh_clean_2.ply"
# The benchmark's 20 of the 40 NYU classes, by NYU number.
_NYU = {
    1: ("wall", (174, 199, 232)),
    2: ("floor", (152, 223, 138)),
    3: ("cabinet", (31, 119, 180)),
    4: ("bed", (255, 187, 120)),
    5: ("chair", (188, 189, 34)),
    6: ("sofa", (140, 86, 75)),
    7: ("table", (255, 152, 150)),
    8: ("door", (214, 39, 40)),
    9: ("window", (197, 176, 213)),
    10: ("bookshelf", (148, 103, 189)),
    11: ("picture", (196, 156, 148)),
    12: ("counter", (23, 190, 207)),
    14: ("desk", (247, 182, 210)),
    16: ("curtain", (219, 219, 141)),
    24: ("refrigerator", (255, 127, 14)),
    28: ("shower curtain", (158, 218, 229)),
    33: ("toilet", (44, 160, 44)),
    34: ("sink", (112, 128, 144)),
    36: ("bathtub", (227, 119, 194)),
    39: ("otherfurniture", (82, 84, 163)),
}
CLASSES: ClassTable | None = ClassTable(
    SemanticClass(n, name, colour, code) for n, (code, (name, colour)) in enumerate(_NYU.items())
)


def find(root: Path, options: Options) -> list[Source]:
    """Scenes by their cleaned mesh, at any depth; named without the folders above."""
    paths = [root] if root.is_file() else walk(root)
    return in_order(Source(p.name.removesuffix(_SUFFIX), p) for p in paths if p.name.endswith(_SUFFIX))


def count(source: Source) -> int | None:
    """As the header of the mesh says."""
    return ply.count(source)


def read(source: Source, options: Options) -> Iterator[Cloud]:
    """The mesh's vertices, with NYU numbers as labels: -1 outside the 20 classes, None without a labels file.

    Raises:
        HpalError: either file is no such PLY, or they differ in the number of vertices.
    """
    cloud = columns.cloud(ply.vertices(source.path), source.path)
    cloud.attributes.pop("alpha", None)  # always opaque
    cloud.unit = 1.0
    path = source.path.with_name(source.path.name.removesuffix(".ply") + ".labels.ply")
    if not path.is_file():
        yield cloud
        return
    numbers = ply.vertices(path).get("label")
    if numbers is None:
        raise HpalError(path, "the vertices have no label", "fetch the scene again")
    if len(numbers) != len(cloud.xyz):
        raise HpalError(
            path,
            f"has {len(numbers)} vertices, but {source.path.name} has {len(cloud.xyz)}",
            "fetch both files of the scene again",
        )
    codes = columns.labels(numbers, path)
    cloud.label = np.where(np.isin(codes, list(_NYU)), codes, IGNORE)
    yield cloud
