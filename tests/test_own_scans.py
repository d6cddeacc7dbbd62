"""docs/your-own-scans.md, followed from its first command to its last, with a program in the person's place."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import laspy
import numpy as np
import plyfile
from conftest import run_hpal
from scipy.spatial import cKDTree
from test_docs import DOCS, bash, commands_of, files_of

from hpal_cli.demo.office import CLASSES, make_room
from hpal_cli.labels.store import LabelStore
from hpal_cli.predictions.store import PredictionStore
from hpal_cli.scenes.store import SceneStore

PAGE = DOCS / "your-own-scans.md"

SMALLER = {
    "points=250_000": "points=1500",
    "--minutes 15": "--minutes 0.01",
    "--budget 80": "--budget 16",
    "--budget 20": "--budget 6",
    "--budget 100": "--budget 2",
}
"""The page's own numbers, and those that the test follows it with."""

ROOMS = ("office", "meeting")

SEEN_AS = {
    **{name: name for name in ("ceiling", "floor", "wall", "door", "window", "table", "chair")},
    "beam": "ceiling",
    "column": "wall",
    "sofa": "chair",
}
"""What the page's classes are to somebody who looks at an office; all else is other."""

UNSURE = -1


def smaller(text: str) -> str:
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    return text


def run(block: str, folder: Path) -> str:
    """What the commands of a block print. Lines of nothing but `hpal` and pipes between them run without a shell and
    with the libraries imported already, which for two dozen short commands is most of their time."""
    printed = []
    for line in block.replace("\\\n", " ").splitlines():
        stages = [shlex.split(stage, comments=True) for stage in line.split(" | ")]
        if any(stage[0] != "hpal" for stage in stages):
            printed.append(bash(line, folder).stdout)
            continue
        out = None
        for stage in stages:
            done = run_hpal(*stage[1:], stdin=out, cwd=folder)
            assert done.rc == 0, f"{line}\n{done.err}"
            out = done.out
        printed.append((out or b"").decode())
    return "".join(printed)


class Person:
    """Knows the rooms. `said`: the class id of each (scene, index), by the last that was given to hpal and not undone;
    the mistakes that the page speaks of are made, and corrected when a file is asked for again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [c["name"] for c in json.loads((folder / "classes.json").read_text())]
        self.said: dict[tuple[str, int], int] = {}
        self.mistaken: dict[tuple[str, int], int] = {}
        self.given: list[str] = []
        self._xyz, self._truth, self._tree = {}, {}, {}
        for number, name in enumerate(ROOMS):
            room = make_room(number, points=1500)
            self._xyz[name], self._tree[name] = room.xyz, cKDTree(room.xyz)
            self._truth[name] = [self.names.index(SEEN_AS.get(CLASSES[n], "other")) for n in room.label]

    def sees(self, scene: str, position: object) -> int:
        return self._truth[scene][self._tree[scene].query(np.asarray(position, float))[1]]

    def prepare(self, name: str) -> None:
        """Makes the file that the page gives to hpal next."""
        again = name in self.given
        self.given.append(name)
        if name == "table.ply":
            self._cut_a_piece(name, scene="office", label=self.names.index("table"))
        elif name.endswith(".ply"):
            self._in_cloudcompare("round-2.ply", name, wrong=not again)
        else:
            self._in_a_spreadsheet(name, wrong=name == "queries-1.csv" and not again)

    def _in_a_spreadsheet(self, name: str, *, wrong: bool = False) -> None:
        """The second line is not sure and the last stays blank; if wrong, the first has another class. The spreadsheet
        saves semicolons and line ends of its own."""
        path = self.folder / name
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=";" if ";" in header else ","))
        for n, row in enumerate(rows[:-1]):
            label = self.sees(row["scene"], [row[axis] for axis in "xyz"])
            key = row["scene"], int(row["index"])
            if n == 0 and wrong:
                self.mistaken[key] = label = (label + 1) % len(self.names)
            row["label"] = "unsure" if n == 1 else self.names[label]
            self.said[key] = UNSURE if n == 1 else label
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=";", lineterminator="\r\n")
            writer.writeheader()
            writer.writerows(rows)

    def check(self, name: str) -> int:
        """Answers for the random points, which are never spread; how often their class was right."""
        path = self.folder / name
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["label"] = self.names[self.sees(row["scene"], [row[axis] for axis in "xyz"])]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return sum(row["label"] == row["predicted"] for row in rows)

    def _cut_a_piece(self, name: str, *, scene: str, label: int) -> None:
        """The six points of a class in a scan that lie nearest to one of them, all with the same `label`."""
        of_class = np.flatnonzero(np.array(self._truth[scene]) == label)
        away = np.linalg.norm(self._xyz[scene][of_class] - self._xyz[scene][of_class[0]], axis=1)
        rows = np.sort(of_class[np.argsort(away)[:6]])
        scan = plyfile.PlyData.read(str(self.folder / "scans" / f"{scene}.ply"))["vertex"].data[rows]
        save_ply(self.folder / name, scan, scalar_label=np.full(len(rows), label, np.float32))
        store = SceneStore(self.folder / "scenes.zarr")
        for cell in store.original(store.table.by_name[scene])[1][rows].tolist():
            self.said[scene, cell] = label

    def _in_cloudcompare(self, picks: str, name: str, *, wrong: bool) -> None:
        """The picks class by class, as merging leaves them; the last of them has no answer. If wrong, the first class
        has got the next one's number."""
        points = plyfile.PlyData.read(str(self.folder / picks))["vertex"].data
        table = SceneStore(self.folder / "scenes.zarr").table
        scenes = [table[int(number)].name for number in points["scalar_scene"]]
        label = np.array([self.sees(s, [p[a] for a in "xyz"]) for s, p in zip(scenes, points, strict=True)], np.float32)
        if wrong:
            label[label == label[0]] = (label[0] + 1) % len(self.names)
        label[-1] = np.nan
        for scene, index, value in zip(scenes[:-1], points["scalar_index"].tolist(), label.tolist()):
            (self.mistaken if wrong else self.said)[scene, index] = int(value)
        order = np.argsort(label, kind="stable")
        save_ply(self.folder / name, points[order], scalar_label=label[order])


def save_ply(path: Path, points: np.ndarray, **fields: np.ndarray) -> None:
    """As CloudCompare does: coordinates and fields of 32 bits, no comments."""
    columns = {n: points[n] if n in ("red", "green", "blue") else points[n].astype("f4") for n in points.dtype.names}
    rows = np.rec.fromarrays([*columns.values(), *fields.values()], names=[*columns, *fields])
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(str(path))


def survey(folder: Path) -> None:
    """A LAS file for the page's section on LAS: the office, on a map."""
    folder.mkdir()
    room = make_room(0, points=1500)
    header = laspy.LasHeader(version="1.2", point_format=2)
    header.scales, header.offsets = np.full(3, 0.001), np.array([650_000.0, 6_860_000.0, 0.0])
    las = laspy.LasData(header)
    las.xyz = room.xyz + header.offsets
    las.red, las.green, las.blue = room.rgb.T.astype(np.uint16) * 257
    las.write(str(folder / "office.las"))


def test_the_page_leads_from_scans_without_labels_to_a_label_for_every_point(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for number in SMALLER:
        assert number in page
    for name, text in files_of(PAGE).items():
        (tmp_path / name).write_text(smaller(text), encoding="utf-8")
    person = Person(tmp_path)
    survey(tmp_path / "survey")

    outputs, right = [], -1
    for block in commands_of(PAGE):
        for name in re.findall(r"--from (\S+)", block):
            if name == "check.csv":
                right = person.check(name)
            else:
                person.prepare(name)
        outputs.append(run(smaller(block), tmp_path))

    assert person.given == [
        "queries.csv", "table.ply", "queries-1.csv", "annotated.ply", "queries-1.csv", "annotated.ply",
    ]  # fmt: skip
    labels_are_what_the_person_said(tmp_path, person)
    results_are_the_scans_with_a_class(tmp_path)
    las_is_the_survey_with_a_class(tmp_path)
    (checked,) = (out for out in outputs if "if these were drawn at random" in out)
    assert re.search(r"^all: 2 answers in [12] of 2 scenes$", checked, re.MULTILINE)
    assert f"accuracy  {50 * right:.2f} %: of all points " in checked
    for name in set(re.findall(r"[\w./-]+(?:\.(?:ply|csv|zarr|pt|json|las)\b|(?<=\w)/(?=[ `\n]))", code_of(page))):
        assert (tmp_path / name).exists(), f"the page speaks of {name}"


def code_of(page: str) -> str:
    blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE))
    return "\n".join([*blocks, *inline])


def labels_are_what_the_person_said(folder: Path, person: Person) -> None:
    store = LabelStore(folder / "labels.zarr")
    counts = {(store.table[a["scene"]].name, int(a["index"])): int(a["label"]) for a in store.latest()}
    assert counts == person.said
    # One in each of the two tables.
    assert sum(label == UNSURE for label in counts.values()) == 2
    assert len(set(counts.values())) > 3
    # The mistakes can still be read.
    log = run("hpal label --log -v labels.zarr", folder)
    assert person.mistaken
    for (scene, index), label in person.mistaken.items():
        counted = "no" if label != counts[scene, index] else r"\w+"
        assert re.search(rf"^\d+\t{scene}\t{index}\t{person.names[label]}\t{counted}$", log, re.MULTILINE)


def results_are_the_scans_with_a_class(folder: Path) -> None:
    scenes = SceneStore(folder / "scenes.zarr")
    for number in (1, 2):
        predictions = PredictionStore(folder / f"spread-{number}.zarr")
        for name in ROOMS:
            scan = plyfile.PlyData.read(str(folder / "scans" / f"{name}.ply"))["vertex"]
            result = plyfile.PlyData.read(str(folder / f"result-{number}" / f"{name}.ply"))["vertex"]
            assert len(result) == len(scan)
            for axis in "xyz":
                np.testing.assert_allclose(result[axis], scan[axis], atol=1e-6, rtol=0)
            assert (result["scalar_scan_r"] == scan["red"]).all()
            scene = scenes.table.by_name[name]
            said = predictions.predicted(scene)[scenes.original(scene)[1]]
            assert (result["scalar_class"] == said).all()
            color = scenes.classes.colors[said]
            assert (np.column_stack([result[c] for c in ("red", "green", "blue")]) == color).all()


def las_is_the_survey_with_a_class(folder: Path) -> None:
    before, after = laspy.read(folder / "survey/office.las"), laspy.read(folder / "survey-result/office.las")
    for axis in "XYZ":
        assert (after[axis] == before[axis]).all()
    assert (after.classification == np.asarray(after["class"]) + 64).all()
    assert np.asarray(after["class"]).max() < 8


def test_the_pictures_of_the_pages_are_small() -> None:
    shown = {
        (page.parent / picture).resolve()
        for page in (*DOCS.glob("*.md"), DOCS.parent / "README.md")
        for picture in re.findall(r"\[[^\]]+\]\(([^)]*pictures/[^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert len(shown) >= 3
    assert set((DOCS / "pictures").iterdir()) == shown
    for picture in shown:
        data = picture.read_bytes()
        assert data.startswith(b"<svg " if picture.suffix == ".svg" else b"\x89PNG\r\n\x1a\n")
        assert len(data) < 500_000
