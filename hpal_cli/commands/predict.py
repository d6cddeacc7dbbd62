"""hpal predict: predict the class of every point with a trained model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster
    from hpal_cli.scene_table import SceneInfo
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.shard import Shard

NAME = "predict"


def command(
    context: typer.Context,
    checkpoint: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint from `hpal train`.")],
    scenes_store: Annotated[Path, typer.Argument(metavar="SCENES", help="Scenes store from `hpal prep`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="STORE", help="Predictions store (a Zarr folder) to write.")
    ],
    ply: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the points as they were read, with a class for each, as PLY files in this folder.",
        ),
    ] = None,
    las: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Like --ply, but as LAS files. A file that was LAS or LAZ keeps its header and all its fields; "
            "LAZ stays LAZ and COPC stays COPC.",
        ),
    ] = None,
    pictures: opt.Pictures = None,
    uncompressed: opt.Uncompressed = False,
    color: opt.Color = "auto",
    no_features: Annotated[
        bool,
        typer.Option(
            "--no-features",
            help="Do not store the features, which makes the store much smaller. `hpal select` then needs --no-fds, "
            "and `hpal score` cannot use the strategies redal and ssdr.",
        ),
    ] = False,
    turns: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Predict each scene N times, each time rotated further about z, and take the mean of the "
            "probabilities. 4 takes four times as long as 1, and is often a little more accurate.",
        ),
    ] = 1,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth",
            help="Average the probabilities of each point with the mean probabilities of its superpoint, which "
            "removes single wrong points.",
        ),
    ] = False,
    max_voxels: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Largest number of voxels that the network gets at once. A larger scene is cut into overlapping "
            "tiles; 0 never cuts. Lower it if memory runs out.  [400,000]",
            show_default=False,
        ),
    ] = None,
    split: opt.Split = "all",
    scenes: opt.Scenes = None,
    device: opt.Device = "auto",
    backend: opt.Backend = "auto",
    precision: opt.Precision = "fp32",
    overwrite: opt.Overwrite = False,
    jobs: opt.PictureJobs = 1,
    scheduler: opt.Scheduler = None,
    shard: opt.Shard = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Predict the class of every point, with a trained model. The store that it writes also has the class probabilities
    and the features."""
    from hpal_cli.export.files import COLORS, export_originals, reserve_originals
    from hpal_cli.export.pictures import reserve_pictures, write_pictures
    from hpal_cli.forest.model import is_forest
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.shard import Shard
    from hpal_cli.store.envelope import kind_of
    from hpal_cli.wording import counted

    console = Console(NAME, quiet=quiet, verbose=verbose)
    if color not in COLORS:
        raise UsageError("--color", f"{color!r} is unknown", f"choose from {', '.join(COLORS)}")
    folders = [(folder, suffix) for folder, suffix in ((ply, "ply"), (las, "las")) if folder is not None]
    if color != "auto" and not folders:
        raise UsageError("--color", "has no meaning without --ply or --las", "give one of them too, or leave it out")
    if uncompressed and las is None:
        raise UsageError("--uncompressed", "has no meaning without --las", "give --las too, or leave it out")
    for folder, suffix in [*folders, *([(pictures, "pictures")] if pictures is not None else [])]:
        within = (folder.resolve(), *folder.resolve().parents)
        if output.resolve() in within or kind_of(folder) is not None:
            raise UsageError(f"--{suffix}", f"{folder} is or holds a store", "name another folder for the files")
    part = None if shard is None else Shard.parse(shard)
    if part is not None and (folders or pictures is not None):
        raise opt.not_for_a_shard(f"--{folders[0][1]}" if folders else "--pictures")
    forest = is_forest(checkpoint)
    for option, given in (("--turns", turns > 1), ("--smooth", smooth), ("--max-voxels", max_voxels is not None)):
        if forest and given:
            raise UsageError(option, f"is for the network, and {checkpoint} is a forest", "leave it out")
    store = SceneStore(scenes_store)
    chosen = store.table.choose(split, opt.as_list(scenes))
    with contextlib.ExitStack() as room:
        workers = room.enter_context(opt.workers(context, jobs, scheduler, console))
        for folder, suffix in folders:
            room.enter_context(
                reserve_originals(
                    store, chosen, folder, suffix, color=color, uncompressed=uncompressed, overwrite=overwrite
                )
            )
        if pictures is not None:
            room.enter_context(reserve_pictures(chosen, pictures, overwrite=overwrite))
        if forest:
            from hpal_cli.forest.model import load as load_forest
            from hpal_cli.forest.predict import predict_forest

            model = load_forest(checkpoint)
            done = predict_forest(
                model,
                store,
                output,
                scenes=chosen,
                features=not no_features,
                shard=part,
                jobs=workers if scheduler is not None else None,
                overwrite=overwrite,
                history=[*model.history, *this_call(NAME)],
                monitor=console,
            )
        else:
            done = _by_network(
                console, checkpoint, store, output, chosen, device=device, backend=backend, precision=precision,
                features=not no_features, turns=turns, smooth=smooth, max_voxels=max_voxels, shard=part,
                overwrite=overwrite, workers=workers,
            )  # fmt: skip
        points = [scene.points for scene in done]
        if part is not None:
            return
        console.say(f"{output}: {counted(len(points), 'scene')}, {counted(sum(points), 'point')}")
        for folder, suffix in folders:
            written = export_originals(
                store,
                PredictionStore(output),
                chosen,
                folder,
                suffix,
                color=color,
                uncompressed=uncompressed,
                overwrite=overwrite,
                jobs=workers if scheduler is not None else 1,
                monitor=console,
            )
            files = counted(len(written.paths), f"{suffix.upper()} file")
            console.say(f"{folder}/: {files}, {counted(written.points, 'original point')}")
        if pictures is not None:
            drawn = write_pictures(
                PredictionStore(output), chosen, pictures, jobs=workers, overwrite=overwrite, monitor=console
            )
            console.say(f"{pictures}/: {counted(len(drawn), 'picture')}")


def _by_network(
    console: Console,
    checkpoint: Path,
    store: SceneStore,
    output: Path,
    chosen: Sequence[SceneInfo],
    *,
    device: str,
    backend: str,
    precision: str,
    features: bool,
    turns: int,
    smooth: bool,
    max_voxels: int | None,
    shard: Shard | None,
    overwrite: bool,
    workers: int | Cluster,
) -> Iterator[SceneInfo]:
    from hpal_cli.inference.predict import predict, predict_on
    from hpal_cli.inference.tiles import MAX_VOXELS
    from hpal_cli.network.backend import choose as choose_backend
    from hpal_cli.network.device import choose
    from hpal_cli.training.checkpoint import load

    most = MAX_VOXELS if max_voxels is None else max_voxels
    if not isinstance(workers, int):
        model = load(checkpoint)
        history = [*model.history, *this_call(NAME)]
        yield from predict_on(
            workers, model, store, output, scenes=chosen, device=device, backend=backend, precision=precision,
            features=features, turns=turns, smooth=smooth, max_voxels=most, shard=shard, overwrite=overwrite,
            history=history, monitor=console,
        )  # fmt: skip
        return
    chosen_device = choose(device)
    chosen_backend = choose_backend(backend, chosen_device, precision)
    console.debug(f"on {chosen_device}, {chosen_backend}")
    model = load(checkpoint)
    history = [*model.history, *this_call(NAME)]
    for scene, _, _ in predict(
        model,
        store,
        output,
        scenes=chosen,
        device=chosen_device,
        backend=chosen_backend,
        features=features,
        turns=turns,
        smooth=smooth,
        max_voxels=most,
        shard=shard,
        overwrite=overwrite,
        history=history,
        monitor=console,
    ):
        yield scene
