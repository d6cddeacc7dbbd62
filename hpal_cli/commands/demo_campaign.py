"""The demo's campaign: the short loop of the README on synthetic rooms, through the commands that a person types."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpal_cli.commands.console import Console
from hpal_cli.errors import HpalError
from hpal_cli.store.remote import RemotePath

OFFICE, SCENES, LABELS, PREDS, RESULT, FIGURES = (
    "office", "scenes.zarr", "labels.zarr", "preds.zarr", "result", "figures",
)  # fmt: skip
MODEL = "forest.pt"
ROOM, ANSWERED_ROOM = "new-room.png", "answered-room.png"

PER_ANSWER, MIN_ANSWERS = 1000, 100
"""The default number of answers: one for each PER_ANSWER points of the train rooms, but at least MIN_ANSWERS."""

BROKEN_PIPE = 141

Words = Sequence[str]


@dataclass(frozen=True)
class Round:
    """The result of a round. answers: all answers so far; percent: their percentage of the train points;
    answered_rooms: mIoU, 0 to 1, of the other points of the rooms with answers; new_rooms: mIoU of the other rooms."""

    answers: int
    percent: float
    answered_rooms: float
    new_rooms: float


class Campaign:
    """A campaign in a folder of its own. Every command runs in this folder, so that a person can repeat it there."""

    def __init__(
        self,
        console: Console,
        folder: Path,
        *,
        rooms: int,
        points: int,
        answers: int | None,
        rounds: int,
        seed: int,
    ) -> None:
        self._console = console
        self._folder = folder
        self._rooms, self._points, self._answers, self._rounds = rooms, points, answers, rounds
        self._seed = seed

    def run(self, *, overwrite: bool) -> None:
        """Makes the rooms, runs the rounds, trains a model, and prints and draws the results.

        Raises:
            HpalError: the folder is in use, or a command failed.
        """
        self._clear(overwrite)
        self._make_office()
        self._call(["hpal", "prep", OFFICE, "-o", SCENES, "--val", "Area_2/*", "--grid", "6cm"])
        first, later = self._budgets()
        done = []
        for n, budget in enumerate([first, *later]):
            self._console.say(f"\n--- round {n} of {self._rounds}")
            done.append(self._round(n, str(budget)))
            self._console.say(
                f"mIoU {100 * done[-1].answered_rooms:.1f} % in the answered rooms, "
                f"{100 * done[-1].new_rooms:.1f} % in the others"
            )
        self._console.say("\n--- a model that learns from the spread answers")
        self._report(done, self._model(spread_of(self._rounds)))

    @property
    def _seed_option(self) -> Words:
        return ["--seed", str(self._seed)]

    def _budgets(self) -> tuple[int, list[int]]:
        """The number of first answers, and the number of answers in each round after that."""
        from hpal_cli.scenes.store import SceneStore

        points = sum(scene.points for scene in SceneStore(self._folder / SCENES).table if scene.split == "train")
        answers = self._answers or max(MIN_ANSWERS, round(points / PER_ANSWER))
        first = -(-answers // 2) if self._rounds else answers
        shares = [(answers - first) * n // max(1, self._rounds) for n in range(self._rounds + 1)]
        return first, [max(1, after - before) for before, after in pairwise(shares)]

    def _round(self, n: int, budget: str) -> Round:
        """Chooses `budget` points, lets the oracle answer, spreads the answers, and measures the result."""
        if n == 0:
            how = ["hpal", "score", SCENES, "--strategy", "diverse", "--budget", budget, *self._seed_option]
        else:
            how = ["hpal", "score", spread_of(n - 1), "--per", "superpoint"]
        self._call(
            how,
            ["hpal", "select", "--budget", budget, "--context", f"picks-{n}"],
            ["tee", f"round-{n}.ply"],
            ["hpal", "label", "--oracle", SCENES, "-o", LABELS],
        )
        self._call(["hpal", "spread", LABELS, SCENES, "--alike", *self._seed_option, "-o", spread_of(n)])
        evaluation = ["hpal", "eval", spread_of(n), "--truth", SCENES, "--json"]
        answered = self._json([*evaluation, "--split", "train", "--without-answers"], f"answered-rooms-{n}.json")
        new = self._json(evaluation, f"new-rooms-{n}.json")
        labelled = answered["labelled"]
        return Round(labelled["points"], labelled["percent_of_train"], answered["grid"]["miou"], new["grid"]["miou"])

    def _model(self, spread: str) -> float:
        """Trains the forest and writes the results. Returns its mIoU, 0 to 1, in the rooms without any answer."""
        learned = ["--labels", LABELS, "--spread", spread, "--model", "forest"]
        self._call(["hpal", "train", SCENES, *learned, *self._seed_option, "-o", MODEL])
        self._call(["hpal", "predict", MODEL, SCENES, "-o", PREDS])
        new = self._json(
            ["hpal", "eval", PREDS, "--truth", SCENES, "--json", "--figures", FIGURES], "new-rooms-forest.json"
        )
        # In the rooms with answers, the spread answers are more often right than the model.
        for store, split in ((spread, "train"), (PREDS, "val")):
            self._call(["hpal", "export", store, "--original", SCENES, "--split", split, "-o", RESULT])
        miou: float = new["grid"]["miou"]
        return miou

    def _make_office(self) -> None:
        from hpal_cli.demo.office import make_office

        with self._console.task("making rooms", self._rooms) as task:
            make_office(
                self._folder / OFFICE,
                rooms=self._rooms,
                seed=self._seed,
                points=self._points,
                on_room=lambda name: task.advance(1, name),
            )
        self._console.say(
            f"{self._folder / OFFICE}: {self._rooms} synthetic rooms of an office, as a scanner would see them"
        )

    def _json(self, words: Words, into: str) -> Any:
        """Runs a command, keeps the JSON that it prints in the file `into`, and returns it."""
        self._call(words, into=into)
        return json.loads((self._folder / into).read_text(encoding="utf-8"))

    def _call(self, *pipeline: Words, into: str | None = None) -> None:
        """Prints the commands of a pipeline as a person would type them, and runs them in the campaign's folder.

        into: the file that the last command writes its stdout to.

        Raises:
            HpalError: a command failed.
        """
        line = " | ".join(shlex.join(words) for words in pipeline) + (f" > {into}" if into else "")
        self._console.say(f"\n$ {line}")
        quiet = ["-q"] if self._console.quiet else []
        processes: list[subprocess.Popen[bytes]] = []
        with contextlib.ExitStack() as files:
            sink = files.enter_context((self._folder / into).open("wb")) if into else None
            for n, words in enumerate(pipeline):
                ours = [sys.executable, "-m", "hpal_cli", *words[1:], *quiet] if words[0] == "hpal" else list(words)
                last = n == len(pipeline) - 1
                upstream = processes[-1].stdout if processes else subprocess.DEVNULL
                process = subprocess.Popen(
                    ours,
                    cwd=self._folder,
                    stdin=upstream,
                    stdout=sink if last else subprocess.PIPE,
                )
                if processes and processes[-1].stdout:
                    # Otherwise the pipe would stay open when its reader ends, and the writer would wait for ever.
                    processes[-1].stdout.close()
                processes.append(process)
            ends = [(process.wait(), words) for words, process in zip(pipeline, processes, strict=True)]
        # Commands that ended by a broken pipe come last, since the command that stopped reading is the cause.
        failed = [words for status, words in sorted(ends, key=lambda end: end[0] == BROKEN_PIPE) if status]
        if failed:
            raise HpalError(
                "demo", f"`{shlex.join(failed[0])}` failed", f"see its message above; the files are in {self._folder}"
            )

    def _clear(self, overwrite: bool) -> None:
        folder = self._folder
        if isinstance(folder, RemotePath):
            raise HpalError(folder, "is on object storage, and the demo needs a disk", "name a local folder with -o")
        if folder.exists() and any(folder.iterdir()):
            if not overwrite:
                raise HpalError(
                    folder, "exists already", "give --overwrite to run the demo anew, or another folder with -o"
                )
            if not (folder / OFFICE / "Area_1").is_dir():
                raise HpalError(folder, "is not a folder that the demo made", "give another folder with -o")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def _draw_room(self, split: str, name: str, stores: Sequence[tuple[str, str]]) -> None:
        """Draws the first room of a split: as scanned, by true class, and by the classes in each of the stores.

        stores: (title, predictions store).
        """
        from hpal_cli.export.pictures import class_layer, draw_scene
        from hpal_cli.predictions.store import PredictionStore
        from hpal_cli.scenes.store import SceneStore

        truth = SceneStore(self._folder / SCENES)
        info = truth.table.choose(split)[0]
        label = truth.labels(info)
        assert label is not None
        predicted = [(title, PredictionStore(self._folder / store)) for title, store in stores]
        layers = [class_layer("truth", truth.classes, label)]
        layers += [class_layer(title, store.classes, store.predicted(info)) for title, store in predicted]
        draw_scene(predicted[0][1], info, layers, self._folder / name, overwrite=True)

    def _report(self, rounds: Sequence[Round], model: float) -> None:
        from hpal_cli.evaluation.figures import learning_curve

        last, end = len(rounds) - 1, rounds[-1]
        curve = self._folder / "learning-curve.png"
        learning_curve(
            {
                "rooms with answers": [(r.answers, r.percent, r.answered_rooms) for r in rounds],
                "other rooms": [(r.answers, r.percent, r.new_rooms) for r in rounds],
                "other rooms, forest": [(end.answers, end.percent, model)],
            },
            curve,
            f"hpal demo: {self._rooms} synthetic rooms",
        )
        first = ("round 0", spread_of(0))
        self._draw_room("train", ANSWERED_ROOM, [first, (f"round {last}", spread_of(last))] if last else [first])
        self._draw_room("val", ROOM, [first, ("forest", PREDS)])
        rows = [
            (str(n), f"{r.answers:,}", f"{r.percent:.3f}", f"{100 * r.answered_rooms:.1f}", f"{100 * r.new_rooms:.1f}")
            for n, r in enumerate(rounds)
        ]
        rows.append(("forest", f"{end.answers:,}", f"{end.percent:.3f}", "", f"{100 * model:.1f}"))
        print()
        headers = ("round", "answers", "% of train", "mIoU % answered rooms", "mIoU % other rooms")
        self._console.table(headers, rows, data=True)
        look = [
            (curve.name, "the learning curve"),
            (
                ANSWERED_ROOM,
                "a room with answers: scan, truth, and its labels after the first and last round",
            ),
            (ROOM, "a room without any: scan, truth, its labels by the first answers and by the forest"),
            (f"{FIGURES}/confusion.png", "which classes the forest confuses in the rooms without answers"),
            (f"{RESULT}/*/*.ply", "every original point in the colour of its class"),
            ("picks-0/*/*.png", "the points that were asked about first, in their rooms; as clouds beside"),
        ]
        self._console.say(f"\nTo look at, in {self._folder}/ (PLY: CloudCompare, MeshLab):")
        for name, what in look:
            self._console.say(f"  {name:<22} {what}")
        n = last + 1
        self._console.say("\nNext, one more round by hand:")
        if shutil.which("hpal") is None:
            self._console.say(f"  export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
        self._console.say(f"  cd {shlex.quote(str(self._folder))}")
        for line in (
            f"hpal score {spread_of(last)} --per superpoint | hpal select --budget 25 "
            f"| hpal label --oracle {SCENES} -o {LABELS}",
            f"hpal spread {LABELS} {SCENES} --alike -o {spread_of(n)}",
            f"hpal eval {spread_of(n)} --truth {SCENES} --split train --without-answers",
        ):
            self._console.say(f"  {line}")


def spread_of(n: int) -> str:
    """The name of the store with the answers up to round `n`, spread to all points."""
    return f"spread-{n}.zarr"
