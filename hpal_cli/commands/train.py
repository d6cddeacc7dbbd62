"""hpal train: a network from scenes and a few labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

NAME = "train"


def command(
    scenes_store: Annotated[
        Path | None, typer.Argument(metavar="SCENES", help="Scenes store.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Labels store, or `all` for every label of the scenes."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The checkpoint to write; metrics go beside it."),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Continue from the student of this checkpoint.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of the same -o that was interrupted.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="s3dis, scannet or small.  [s3dis with CUDA, small on a CPU]"),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="NAME", help="Network size: full (the paper's) or small.")] = None,
    voxel: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Edge of the network's voxels (bare: metres).")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Optimiser steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="Scenes in a step.")] = None,
    max_points: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Points a scene gives to a step at most; 0: all.")
    ] = None,
    lr: Annotated[float | None, typer.Option(min=0, metavar="RATE", help="Learning rate.")] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Labelled points only, no teacher.")
    ] = False,
    consistency: Annotated[
        str | None, typer.Option(metavar="KIND", help="none, or kl as in the paper's released code.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print every value that training would use, and stop.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    backend: opt.Backend = "auto",
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train the network on the labelled points. Its own average teaches it about the others."""
    from dataclasses import asdict, replace

    from hpal_cli.lengths import parse_length
    from hpal_cli.network.backend import choose as choose_backend
    from hpal_cli.network.device import choose
    from hpal_cli.network.minkunet import SIZES
    from hpal_cli.training.presets import PRESETS

    console = Console(NAME, quiet=quiet, verbose=verbose)
    chosen_device = choose(device)
    chosen_backend = choose_backend(backend, chosen_device)
    name = preset or ("s3dis" if chosen_device.type == "cuda" else "small")
    for option, value, known in (
        ("--preset", name, PRESETS),
        ("--size", size, SIZES),
        ("--consistency", consistency, ("none", "kl")),
    ):
        if value is not None and value not in known:
            raise UsageError(option, f"{value!r} is unknown", f"choose from {', '.join(known)}")
    given = {
        "size": size,
        "voxel": None if voxel is None else parse_length(voxel, "--voxel", bare="m"),
        "steps": steps,
        "batch": batch,
        "max_points": max_points,
        "lr": lr,
        "consistency": consistency,
        "teacher": False if supervised_only else None,
    }
    settings = replace(PRESETS[name], **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    if show:
        for key, value in asdict(settings).items():
            print(f"{key} {value}")
        return
    for option, missing in (("SCENES", scenes_store), ("--labels", labels), ("-o", output)):
        if missing is None:
            raise UsageError(option, "is missing", "call it as: hpal train SCENES --labels STORE -o MODEL")
    assert scenes_store is not None
    assert output is not None

    from hpal_cli.label.store import LabelStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.files import require_free
    from hpal_cli.training.checkpoint import load
    from hpal_cli.training.train import train

    require_free(output, overwrite=overwrite)
    store = SceneStore(scenes_store)
    answers = None if labels == "all" else LabelStore(Path(str(labels)))
    start = None if init is None else load(init)
    console.say(f"{name} preset, {settings.size} network, {settings.steps} steps on {chosen_device}, {chosen_backend}")
    checkpoint = train(
        store,
        answers,
        settings,
        init=start,
        device=chosen_device,
        backend=chosen_backend,
        seed=seed,
        run=output,
        resume=resume,
        overwrite=overwrite,
        history=[*(store.history if start is None else start.history), *this_call(NAME, seed=seed)],
        monitor=console,
    )
    count = f"{checkpoint.labelled:,}"
    console.say(
        f"{output}: {checkpoint.step} steps on {count} labelled points; "
        f"next: hpal predict {output} {scenes_store} -o preds.zarr"
    )
