"""The demo's campaign: the loop of the README on made rooms, through the commands that a person types."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpal_cli.commands.console import Console
from hpal_cli.errors import HpalError

OFFICE, SCENES, LABELS, RESULT, FIGURES = "office", "scenes.zarr", "labels.zarr", "result", "figures"
ROOM = "room.png"

PIXEL = 0.02
"""Of the room's picture, metres: about as fine as it is shown."""

BUDGET = "0.1%"

BROKEN_PIPE = 141

Words = Sequence[str]


@dataclass(frozen=True)
class Round:
    """What a round came to."""

    labelled: int
    share: float
    miou: float


class Campaign:
    """A campaign in a folder of its own; every command runs there, so that it can be typed again there."""

    def __init__(
        self, console: Console, folder: Path, *, rooms: int, points: int, rounds: int, steps: int, seed: int
    ) -> None:
        self._console = console
        self._folder = folder
        self._rooms, self._points, self._rounds, self._steps, self._seed = rooms, points, rounds, steps, seed

    def run(self, *, overwrite: bool) -> list[Round]:
        """Makes the rooms, runs the rounds, prints and draws what came of them.

        Raises:
            HpalError: the folder is in use, or a command failed.
        """
        self._clear(overwrite)
        self._make_office()
        seed = str(self._seed)
        self._call(["hpal", "prep", OFFICE, "-o", SCENES, "--val", "Area_2/*", "--grid", "6cm"])
        self._call(
            ["hpal", "score", SCENES, "--strategy", "random", "--seed", seed],
            ["hpal", "select", "--budget", BUDGET],
            ["hpal", "label", "--oracle", SCENES, "-o", LABELS],
        )
        done = []
        for n in range(1, self._rounds + 1):
            self._console.say(f"\n--- round {n} of {self._rounds}")
            done.append(self._round(n, seed))
            self._console.say(f"mIoU {100 * done[-1].miou:.1f} % on the validation rooms")
        self._report(done)
        return done

    def _round(self, n: int, seed: str) -> Round:
        last = n == self._rounds
        model, preds = f"model-{n}.pt", f"preds-{n}.zarr"
        before = ["--init", f"model-{n - 1}.pt"] if n > 1 else []
        train = ["--voxel", "8cm", "--steps", str(self._steps), "--seed", seed]
        self._call(["hpal", "train", SCENES, "--labels", LABELS, "-o", model, *train, *before])
        self._call(["hpal", "predict", model, SCENES, "-o", preds, *(["--ply", RESULT] if last else [])])
        figures = ["--figures", FIGURES] if last else []
        self._call(["hpal", "eval", preds, "--truth", SCENES, "--json", *figures], into=f"eval-{n}.json")
        if not last:
            self._call(
                ["hpal", "score", preds, "--levels", "10,50,100"],
                ["hpal", "select", "--budget", BUDGET, "--fds-r", "0.2", "--context", f"picks-{n}"],
                ["tee", f"round-{n}.ply"],
                ["hpal", "label", "--oracle", SCENES, "-o", LABELS],
            )
        result = json.loads((self._folder / f"eval-{n}.json").read_text(encoding="utf-8"))
        labelled = result["labelled"]
        return Round(labelled["points"], labelled["percent_of_train"], result["grid"]["miou"])

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
            f"made an office of {self._rooms} rooms in {self._folder / OFFICE}, as a scanner would see it"
        )

    def _call(self, *pipeline: Words, into: str | None = None) -> None:
        """Runs the commands of a pipeline, as typed, in the campaign's folder."""
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
                    # Only the reader may hold the pipe, or a writer would never learn that it is gone.
                    processes[-1].stdout.close()
                processes.append(process)
            ends = [(process.wait(), words) for words, process in zip(pipeline, processes, strict=True)]
        # A broken pipe is the fault of whoever stopped reading.
        failed = [words for status, words in sorted(ends, key=lambda end: end[0] == BROKEN_PIPE) if status]
        if failed:
            raise HpalError(
                "demo", f"`{shlex.join(failed[0])}` failed", f"see its message above; the files are in {self._folder}"
            )

    def _clear(self, overwrite: bool) -> None:
        folder = self._folder
        if folder.exists() and any(folder.iterdir()):
            if not overwrite:
                raise HpalError(
                    folder, "exists already", "give --overwrite to run the demo anew, or another folder with -o"
                )
            if not (folder / OFFICE / "Area_1").is_dir():
                raise HpalError(folder, "is not a folder that the demo made", "give another folder with -o")
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def _draw_room(self, last: int) -> None:
        """The first validation room: as scanned, the truth, and the first and the last prediction."""
        from hpal_cli.export.clouds import class_colors
        from hpal_cli.export.top_view import side_by_side, top_view
        from hpal_cli.predictions.store import PredictionStore
        from hpal_cli.scenes.store import SceneStore

        store = SceneStore(self._folder / SCENES)
        scene = store.table.choose("val")[0]
        points = store.points(scene, label=True)
        assert points.label is not None
        assert points.rgb is not None
        colors = [("as scanned", points.rgb), ("truth", class_colors(store.classes, points.label))]
        for n in sorted({1, last}):
            pred = PredictionStore(self._folder / f"preds-{n}.zarr").predicted(scene)
            colors.append((f"predicted, round {n}", class_colors(store.classes, pred)))
        step = store.grid or PIXEL
        views = [(title, top_view(points.xyz, rgb, pixel=PIXEL, step=step)) for title, rgb in colors]
        side_by_side(views, self._folder / ROOM, [(c.name, c.color) for c in store.classes])

    def _report(self, rounds: Sequence[Round]) -> None:
        from hpal_cli.evaluate.figures import learning_curve

        curve = self._folder / "learning-curve.png"
        learning_curve(
            [(r.labelled, r.share, r.miou) for r in rounds], curve, f"hpal demo: {self._rooms} made rooms, HMMU + FDS"
        )
        self._draw_room(len(rounds))
        rows = [(str(n), f"{r.labelled:,}", f"{r.share:.3f}", f"{100 * r.miou:.1f}") for n, r in enumerate(rounds, 1)]
        print()
        self._console.table(("round", "labelled points", "% of train", "mIoU %"), rows, data=True)
        last = len(rounds)
        look = [
            (curve.name, "the learning curve"),
            (ROOM, "a validation room from above: scan, truth, what each end of the campaign made of it"),
            (f"{FIGURES}/confusion.png", f"which classes are taken for which after round {last}"),
            (f"{RESULT}/*/*.ply", "every original point in the colour of its predicted class"),
            *(
                [("picks-1/*/*.png", "the points that round 1 asked about, in their rooms; as clouds beside")]
                if last > 1
                else []
            ),
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
            f"hpal score preds-{last}.zarr | hpal select --budget {BUDGET} | hpal label --oracle {SCENES} -o {LABELS}",
            f"hpal train {SCENES} --labels {LABELS} -o model-{n}.pt --init model-{last}.pt "
            f"--voxel 8cm --steps {self._steps}",
            f"hpal predict model-{n}.pt {SCENES} -o preds-{n}.zarr && hpal eval preds-{n}.zarr --truth {SCENES}",
        ):
            self._console.say(f"  {line}")
