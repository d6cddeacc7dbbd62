"""hpal spread: turn the answers for a few points into class probabilities for all points."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, typed
from hpal_cli.commands.history import this_call
from hpal_cli.store.remote import located
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.scene_table import SceneInfo

NAME = "spread"


def command(
    context: typer.Context,
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS",
            help="Labels store with answers for some points, or `none` to combine only the predictions of several "
            "models.",
        ),
    ],
    scenes_store: Annotated[
        Path, typer.Argument(metavar="SCENES", help="Scenes store whose points the answers are for.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="STORE", help="Predictions store (a Zarr folder) to write.")
    ],
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="STORE",
            help="Predictions of a model for these scenes. Where no answer is near, they decide the class. Repeat "
            "the option to multiply the probabilities of several models (geometric mean).",
        ),
    ] = None,
    alike: Annotated[
        bool,
        typer.Option(
            "--alike",
            help="Let answers also count for surfaces in any scene that look like the answered ones. For this, "
            "decision trees are trained on the answered surfaces, which takes a second.",
        ),
    ] = False,
    strength: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Weight of --predictions and --alike against the answers nearby. Raise it if answers spread too "
            "far.  [1; 10 in a scene without an answer]",
            show_default=False,
        ),
    ] = None,
    pictures: opt.Pictures = None,
    split: opt.Split = "all",
    scenes: opt.Scenes = None,
    seed: opt.Seed = 0,
    jobs: opt.Jobs = 1,
    scheduler: opt.Scheduler = None,
    shard: opt.Shard = None,
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    json_output: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Spread answers over the surface around them. Every point that an answer reaches gets class probabilities, in a
    predictions store like that of a model."""
    from hpal_cli.export.pictures import reserve_pictures, write_pictures
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.shard import Shard
    from hpal_cli.spreading.spread import spread

    console = Console(NAME, quiet=quiet, verbose=verbose, as_json=json_output)
    part = None if shard is None else Shard.parse(shard)
    if part is not None and pictures is not None:
        raise opt.not_for_a_shard("--pictures")
    store = SceneStore(scenes_store)
    found: dict[bool, list[SceneInfo]] = {True: [], False: []}
    with contextlib.ExitStack() as room:
        workers = room.enter_context(opt.workers(context, jobs, scheduler, console))
        if pictures is not None:
            chosen = store.table.choose(split, opt.as_list(scenes))
            room.enter_context(reserve_pictures(chosen, pictures, overwrite=overwrite))
        for scene, known in spread(
            None if labels == "none" else LabelStore(located(labels)),
            store,
            output,
            predictions=[PredictionStore(located(path)) for path in opt.as_list([str(p) for p in predictions or ()])],
            alike=alike,
            strength=strength,
            split=split,
            scenes=opt.as_list(scenes),
            seed=seed,
            jobs=workers,
            shard=part,
            overwrite=overwrite,
            history=None if no_history else this_call(NAME, seed=seed if alike else None),
            monitor=console,
        ):
            found[known].append(scene)
        if pictures is not None:
            drawn = write_pictures(
                PredictionStore(output), found[True], pictures, jobs=workers, overwrite=overwrite, monitor=console
            )
            console.say(f"{pictures}/: {counted(len(drawn), 'picture')}")
    if unknown := found[False]:
        console.say(
            f"{counted(len(unknown), 'scene')} without any answer, such as {unknown[0].name}: left out, since nothing "
            "is known of them; add --alike or --predictions to include them"
        )
    if part is None:
        # Only points of the train split are asked about.
        pool = any(scene.split == "train" for scene in found[True])
        score = f"; next: {typed('hpal', 'score', output, '--per', 'superpoint')} | hpal select" if pool else ""
        console.say(f"{output}: {counted(len(found[True]), 'scene')}{score}")
    console.report(
        {
            "output": str(output),
            "scenes": [scene.name for scene in found[True]],
            "left_out": [scene.name for scene in found[False]],
        }
    )
