"""hpal superpoints: find pieces of surface that lie within one object, and store them beside the scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, typed
from hpal_cli.commands.history import this_call
from hpal_cli.wording import counted

NAME = "superpoints"


def command(
    scenes_store: Annotated[Path, typer.Argument(metavar="SCENES", help="Scenes store from `hpal prep`.")],
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            min=1,
            metavar="N",
            help="Number of processes that work on scenes in parallel. More of them take less time and more memory; "
            "the output is the same.  [one for each core]",
            show_default=False,
        ),
    ] = None,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Find the superpoints of every scene. These are pieces of surface that most often lie within one object. Other
    commands find the superpoints themselves when they need them; if you call this command first, they need not wait."""
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.superpoints.store import make_superpoints, open_superpoints, superpoints_path

    console = Console(NAME, quiet=quiet, verbose=verbose)
    store = SceneStore(scenes_store)
    if overwrite:
        found = make_superpoints(
            store, superpoints_path(scenes_store), jobs=jobs, overwrite=True, history=this_call(NAME), monitor=console
        )
    else:
        found = open_superpoints(store, jobs=jobs, history=this_call(NAME), monitor=console)
    count = sum(len(found.read(scene)) for scene in found.table)
    # Only points of the train split are asked about.
    pool = any(scene.split == "train" for scene in store.table)
    score = f"; next: {typed('hpal', 'score', scenes_store, '--strategy', 'diverse')} | hpal select" if pool else ""
    console.say(
        f"{found.path}: {counted(count, 'superpoint')} in {counted(len(found.table), 'scene')}, "
        f"{sum(s.points for s in found.table) / max(1, count):.0f} points each{score}"
    )
