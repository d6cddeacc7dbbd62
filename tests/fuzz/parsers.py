"""Coverage-guided fuzzing of what is Python: `python tests/fuzz/parsers.py TARGET [-runs=N ...]`, which takes atheris.

Whatever a file holds, it is read or refused with an HpalError. Anything else that is raised, a hang (-timeout) and too
much memory (-rss_limit_mb) end the run, and the input is written to a file. Without arguments: the targets. What this
finds becomes a case of tests/test_fuzz.py or tests/test_hostile.py.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hpal_cli", "plyfile", "laspy", "zarr.core.metadata", "zarr.core.group"]):
    from hpal_cli import readers
    from hpal_cli.classes import ClassTable
    from hpal_cli.errors import HpalError
    from hpal_cli.info import describe
    from hpal_cli.label.labelcloud import read_folder
    from hpal_cli.label.spreadsheet import read_table
    from hpal_cli.scenes.prepare import prepare
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.stream.points import PointReader

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import GRID, VAL, fake_predictions, run_hpal
from test_fuzz import CLOUDS

from hpal_cli.demo.office import make_office

Target = tuple[Callable[[bytes], object], list[bytes]]
"""What reads an input, and whole inputs to begin with."""


def reader(name: str, folder: Path) -> Target:
    path = folder / name

    def read(data: bytes) -> None:
        path.write_bytes(data)
        kind, sources = readers.find(path)
        for source in sources:
            readers.read(kind, source)

    return read, [CLOUDS[name]]


def office(folder: Path) -> Path:
    """A scenes store, small."""
    make_office(folder / "office", rooms=3, seed=0, points=300)
    prepare(folder / "office", folder / "scenes.zarr", val=[VAL], grid=GRID)
    return folder / "scenes.zarr"


def stream(folder: Path) -> Target:
    predictions = fake_predictions(office(folder), folder / "preds.zarr")
    scores = run_hpal("score", predictions, "-q", "--scenes", "Area_1/office_1").out
    some = [run_hpal("select", "-q", "--no-fds", "--budget", budget, stdin=scores).out for budget in (2, 20)]
    return lambda data: PointReader(io.BytesIO(data), "s").read(), some


def store(folder: Path, kind: str) -> Target:
    """The first byte says which file of the store the others are."""
    path = office(folder)
    if kind == "predictions":
        path = fake_predictions(path, folder / "preds.zarr")
    whole = Path(shutil.copytree(path, folder / "whole"))
    files = sorted(one.relative_to(path) for one in path.rglob("*") if one.is_file())[:256]

    def read(data: bytes) -> None:
        if not data:
            return
        file = files[data[0] % len(files)]
        (path / file).write_bytes(data[1:])
        try:
            describe(path, check=True)
        finally:
            shutil.copyfile(whole / file, path / file)

    return read, [bytes([n]) + (path / file).read_bytes() for n, file in enumerate(files)]


def model(folder: Path) -> Target:
    path = folder / "model.pt"
    done = run_hpal("train", office(folder), "--labels", "all", "--model", "forest", "-o", path, "-q")
    assert done.rc == 0, done.err

    def read(data: bytes) -> None:
        path.write_bytes(data)
        describe(path, check=True)

    return read, [path.read_bytes()]


def classes(folder: Path, name: str, whole: str) -> Target:
    path = folder / name

    def read(data: bytes) -> None:
        path.write_bytes(data)
        ClassTable.from_file(path)

    return read, [whole.encode()]


def answers(folder: Path) -> Target:
    made = SceneStore(office(folder))
    path, name = folder / "answers.csv", made.table[0].name
    lines = ["scene,index,x,y,z,rank,score,predicted,second,confidence,label"]
    lines += [f"{name},{n},0,0,0,{n},0.5,wall,floor,0.5,{'wall' if n % 2 else 'unsure'}" for n in range(6)]

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_table(path, made.classes, made.table)

    return read, ["\n".join(lines).encode(), "\n".join(lines).replace(",", ";").encode()]


def labelcloud(folder: Path) -> Target:
    made = SceneStore(office(folder))
    labels = folder / "labels"
    (labels / "segmentation").mkdir(parents=True)
    scene = made.table[0]
    (labels / "segmentation" / f"{Path(scene.name).name}.bin").write_bytes(bytes(scene.original))

    def read(data: bytes) -> None:
        (labels / "_classes.json").write_bytes(data)
        read_folder(labels, made.classes, made.table)

    named = [{"name": one.name, "id": one.id, "color": "#ffffff"} for one in made.classes]
    return read, [json.dumps({"classes": named}).encode()]


JSON = json.dumps(
    [{"id": n, "name": name, "color": [n, n, n], "code": n + 5} for n, name in enumerate(("wall", "floor"))]
)
TOML = '[[classes]]\nid = 0\nname = "wall"\ncolor = [1, 2, 3]\n[[classes]]\nid = 1\nname = "floor"\n'

TARGETS: dict[str, Callable[[Path], Target]] = {
    **{name: lambda folder, name=name: reader(name, folder) for name in CLOUDS},
    "stream": stream,
    "scenes": lambda folder: store(folder, "scenes"),
    "predictions": lambda folder: store(folder, "predictions"),
    "model": model,
    "classes.json": lambda folder: classes(folder, "classes.json", JSON),
    "classes.toml": lambda folder: classes(folder, "classes.toml", TOML),
    "answers": answers,
    "labelcloud": labelcloud,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        print("\n".join(TARGETS))
        return
    folder = Path(tempfile.mkdtemp(prefix="hpal-fuzz-"))
    read, seeds = TARGETS[sys.argv[1]](folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for n, seed in enumerate(seeds):
        (corpus / str(n)).write_bytes(seed)
        read(seed)

    def once(data: bytes) -> None:
        with contextlib.suppress(HpalError):
            read(data)

    limits = ["-timeout=20", "-rss_limit_mb=3000", f"-artifact_prefix={sys.argv[1]}-"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[2:], str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
