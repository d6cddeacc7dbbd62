"""hpal train: a network from scenes and a few labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, name_for_predictions, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

NAME = "train"


def _value(metavar: str, text: str, *, least: float | None = None, most: float | None = None) -> Any:
    """An option for a value of the preset."""
    return typer.Option(metavar=metavar, help=text, min=least, max=most, show_default=False)


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
    size: Annotated[str | None, typer.Option(metavar="NAME", help="Network: full (the paper's) or small.")] = None,
    voxel: Annotated[str | None, _value("LENGTH", "Edge of the network's voxels (bare: metres).")] = None,
    steps: Annotated[int | None, _value("N", "Optimiser steps.", least=1)] = None,
    batch: Annotated[int | None, _value("N", "Scenes in a step.", least=1)] = None,
    max_voxels: Annotated[
        int | None, _value("N", "Voxels of a step at most, each scene's share a crop; 0: whole scenes.", least=0)
    ] = None,
    optimizer: Annotated[str | None, _value("NAME", "sgd or adamw.")] = None,
    lr: Annotated[float | None, _value("RATE", "Learning rate.", least=0)] = None,
    momentum: Annotated[float | None, _value("SHARE", "Of sgd.", least=0)] = None,
    dampening: Annotated[float | None, _value("SHARE", "Of sgd's momentum.", least=0)] = None,
    weight_decay: Annotated[float | None, _value("RATE", "Of sgd or adamw.", least=0)] = None,
    schedule: Annotated[str | None, _value("NAME", "cosine or polynomial.")] = None,
    period: Annotated[int | None, _value("N", "Steps between restarts of the cosine; 0: none.", least=0)] = None,
    power: Annotated[float | None, _value("X", "Exponent of the polynomial.", least=0)] = None,
    class_weights: Annotated[str | None, _value("KIND", "none, or sqrt: rare classes weigh more.")] = None,
    dropout: Annotated[float | None, _value("SHARE", "Of the last features, left out.", least=0, most=0.99)] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Labelled points only, no teacher.")
    ] = False,
    keep: Annotated[float | None, _value("SHARE", "Of the teacher, at each step.", least=0, most=1)] = None,
    confidence: Annotated[float | None, _value("P", "From which the teacher's guess teaches.", least=0, most=1)] = None,
    consistency: Annotated[str | None, _value("KIND", "none, or kl as in the paper's released code.")] = None,
    elastic: Annotated[
        bool | None, typer.Option("--elastic/--no-elastic", help="Distort the student's rooms.", show_default=False)
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, metavar="N", help="Steps between saved states.")] = 200,
    show: Annotated[bool, typer.Option("--show", help="Print every value that training would use, and stop.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    backend: opt.Backend = "auto",
    precision: opt.Precision = "fp32",
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train the network on the labelled points. Its own average teaches it about the others."""
    from dataclasses import replace

    from hpal_cli.lengths import parse_length
    from hpal_cli.network.backend import choose as choose_backend
    from hpal_cli.network.device import choose
    from hpal_cli.network.minkunet import SIZES
    from hpal_cli.training.presets import PRESETS, Settings, described
    from hpal_cli.training.processes import own_device, rank_and_world

    rank, _ = rank_and_world()
    console = Console(NAME, quiet=quiet or rank > 0, verbose=verbose)
    chosen_device = own_device(choose(device))
    name = preset or ("s3dis" if chosen_device.type == "cuda" else "small")
    kinds = get_type_hints(Settings)
    given = {
        "size": size,
        "voxel": None if voxel is None else parse_length(voxel, "--voxel", bare="m"),
        "steps": steps,
        "batch": batch,
        "max_voxels": max_voxels,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "period": period,
        "power": power,
        "class_weights": class_weights,
        "dropout": dropout,
        "teacher": False if supervised_only else None,
        "keep": keep,
        "confidence": confidence,
        "consistency": consistency,
        "elastic": elastic,
    }
    choices = {key: get_args(kind) for key, kind in kinds.items()} | {"preset": tuple(PRESETS), "size": tuple(SIZES)}
    for key, value in {"preset": name, **given}.items():
        if value is not None and choices[key] and value not in choices[key]:
            raise UsageError(
                f"--{key.replace('_', '-')}", f"{value!r} is unknown", f"choose from {', '.join(choices[key])}"
            )
    settings = replace(PRESETS[name], **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    if show:
        for key, text in described(settings):
            print(f"{key:<14} {text}")
        return
    chosen_backend = choose_backend(backend, chosen_device, precision)
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
        save_every=save_every,
        resume=resume,
        overwrite=overwrite,
        history=[*(store.history if start is None else start.history), *this_call(NAME, seed=seed)],
        monitor=console,
    )
    count = f"{checkpoint.labelled:,}"
    console.say(
        f"{output}: {checkpoint.step} steps on {count} labelled points; "
        f"next: {typed('hpal', 'predict', output, scenes_store, '-o', name_for_predictions(output))}"
    )
