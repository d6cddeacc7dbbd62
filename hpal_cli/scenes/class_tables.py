"""Class tables that are known by name: those of well-known data sets, and that of ASPRS for LAS files."""

from __future__ import annotations

from hpal_cli.classes import ClassTable, Numbers, SemanticClass, palette
from hpal_cli.errors import HpalError
from hpal_cli.readers import nuscenes, s3dis, scannet, scannet200, semantickitti
from hpal_cli.store.remote import located

_ASPRS = {
    2: ("ground", (170, 120, 60)),
    3: ("low vegetation", (190, 225, 120)),
    4: ("medium vegetation", (120, 190, 70)),
    5: ("high vegetation", (30, 130, 40)),
    6: ("building", (215, 70, 60)),
    7: ("low noise", (255, 0, 255)),
    8: ("model key-point", (240, 240, 160)),
    9: ("water", (60, 120, 220)),
    10: ("rail", (120, 70, 140)),
    11: ("road surface", (110, 110, 110)),
    12: ("overlap", (220, 220, 220)),
    13: ("wire - guard", (255, 200, 60)),
    14: ("wire - conductor", (255, 150, 20)),
    15: ("transmission tower", (160, 60, 20)),
    16: ("wire-structure connector", (230, 110, 90)),
    17: ("bridge deck", (90, 150, 170)),
    18: ("high noise", (200, 0, 200)),
    19: ("overhead structure", (150, 130, 200)),
    20: ("ignored ground", (200, 180, 150)),
    21: ("snow", (240, 250, 255)),
    22: ("temporal exclusion", (80, 80, 80)),
}
ASPRS = ClassTable(
    SemanticClass(n, name, colour, (code,), (code,)) for n, (code, (name, colour)) in enumerate(_ASPRS.items())
)
"""The classes of the LAS 1.4 specification (R15), with 8 and 12 as in earlier versions. 0 and 1 are no classes here:
they mean "not classified"."""

_NYU40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture", "counter",
    "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes", "ceiling", "books",
    "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard", "person", "night stand",
    "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture", "otherprop",
)  # fmt: skip


def _table(table: ClassTable | None) -> ClassTable:
    assert table is not None
    return table


SCANNET20 = _table(scannet.CLASSES)
"""Classes by their NYU numbers. The number 0 is refused, because where it occurs, classes are numbered otherwise: 0 to
19, as in the folders that Pointcept prepares."""

_COLOURS = {c.code: c.color for c in SCANNET20}
NYU40 = ClassTable(SemanticClass(n, name, _COLOURS.get(n + 1, palette(n)), (n + 1,)) for n, name in enumerate(_NYU40))

_POSS = {
    "people": ((255, 30, 30), (4, 5)),
    "rider": ((255, 40, 200), (6,)),
    "car": ((100, 150, 245), (7,)),
    "trunk": ((135, 60, 0), (8,)),
    "plants": ((0, 175, 0), (9,)),
    "traffic sign": ((255, 0, 0), (10, 11, 12)),
    "pole": ((255, 240, 150), (13,)),
    "trashcan": ((125, 255, 0), (14,)),
    "building": ((255, 200, 0), (15,)),
    "cone/stone": ((50, 255, 255), (16,)),
    "fence": ((255, 120, 50), (17,)),
    "bike": ((100, 230, 245), (21,)),
    "ground": ((128, 128, 128), (22,)),
}
SEMANTICPOSS = ClassTable(
    (SemanticClass(n, name, colour, codes) for n, (name, (colour, codes)) in enumerate(_POSS.items())),
    ignored=Numbers((0, 1, 2, 3, 18, 19, 20)),
)
"""The classes as the papers on SemanticPOSS count them: all people are one class, and so are all traffic signs."""

TABLES = {
    "asprs": ASPRS,
    "s3dis": _table(s3dis.CLASSES),
    "scannet20": SCANNET20,
    "nyu40": NYU40,
    "scannet200": scannet200.CLASSES,
    "semantickitti": _table(semantickitti.CLASSES),
    "semanticposs": SEMANTICPOSS,
    "nuscenes": _table(nuscenes.CLASSES),
}
_ALSO = {"aspras": "asprs", "scannet": "scannet20"}


def class_table(text: str) -> ClassTable:
    """The class table of this name (in upper or lower case), or in this file.

    Raises:
        HpalError: there is no such table and no such file, or the file is no class table.
    """
    path, name = located(text), text.casefold()
    if not path.is_file():
        if (found := TABLES.get(_ALSO.get(name, name))) is not None:
            return found
        if not path.suffix:
            problem = f"is neither a file nor a class table that is known by name ({', '.join(TABLES)})"
            raise HpalError(text, problem, "check the name")
    return ClassTable.from_file(path)
