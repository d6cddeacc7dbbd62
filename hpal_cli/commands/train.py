"""hpal train: a network from scenes and a few labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, name_for_predictions, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError
from hpal_cli.lengths import format_length
from hpal_cli.training.presets import PRESETS
from hpal_cli.wording import counted

NAME = "train"

MODELS = ("network", "forest")


def _value(metavar: str, text: str, *, least: float | None = None, most: float | None = None) -> Any:
    """An option for a value of the preset."""
    return typer.Option(metavar=metavar, help=text, min=least, max=most, show_default=False)


def _presets(key: str) -> str:
    """What each preset has, as help shows a default."""
    values = {name: getattr(preset, key) for name, preset in PRESETS.items()}
    texts = [
        f"{name} {format_length(value) if key == 'voxel' else format(value, ',')}" for name, value in values.items()
    ]
    return f"  [{', '.join(texts)}]"


def command(
    scenes_store: Annotated[
        Path | None, typer.Argument(metavar="SCENES", help="Scenes store.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Labels store, or `all` for every label of the scenes."),
    ] = None,
    spread: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="What `hpal spread` made of the labels: all its points teach, and there is no teacher.",
        ),
    ] = None,
    old_spread: Annotated[
        bool, typer.Option("--old-spread", help="Take a --spread that was made from other answers all the same.")
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            help="network; or forest: trees on superpoints, trained in a minute. Options of the network do not apply "
            "to it.",
            autocompletion=lambda: list(MODELS),
        ),
    ] = "network",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="The checkpoint to write; metrics go beside it."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Continue from the student of this checkpoint, with its preset, --size, --voxel and --inputs.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run of the same -o that was interrupted.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="s3dis, scannet, small or few.  [that of --init; else s3dis with CUDA; on a CPU few with --spread, "
            "else small]",
        ),
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="NAME", help="Network: full (the paper's) or small.")] = None,
    inputs: Annotated[
        str | None,
        _value(
            "NAMES",
            "points (colour and position), superpoints (also the likeness of a point's superpoint), or columns: "
            "x,y,z,rgb,intensity,height, any other column of the scans; height is above ground.",
        ),
    ] = None,
    voxel: Annotated[
        str | None,
        _value(
            "LENGTH", f"Edge of the network's voxels (bare: metres).{_presets('voxel')}, times the scale of the scenes"
        ),
    ] = None,
    steps: Annotated[int | None, _value("N", f"Optimiser steps.{_presets('steps')}", least=1)] = None,
    minutes: Annotated[
        float | None,
        _value("M", "Train for so long, however many steps that are; it does not repeat to the bit.", least=0),
    ] = None,
    batch: Annotated[int | None, _value("N", "Scenes in a step.", least=1)] = None,
    max_voxels: Annotated[
        int | None, _value("N", "Voxels of a step at most, each scene's share a crop; 0: whole scenes.", least=0)
    ] = None,
    even_crops: Annotated[
        float | None, _value("SHARE", "Of the crops, around a point of a class that is drawn evenly.", least=0, most=1)
    ] = None,
    optimizer: Annotated[str | None, _value("NAME", "sgd or adamw.")] = None,
    lr: Annotated[float | None, _value("RATE", f"Learning rate.{_presets('lr')}", least=0)] = None,
    momentum: Annotated[float | None, _value("SHARE", "Of sgd.", least=0)] = None,
    dampening: Annotated[float | None, _value("SHARE", "Of sgd's momentum.", least=0)] = None,
    weight_decay: Annotated[float | None, _value("RATE", "Of sgd or adamw.", least=0)] = None,
    schedule: Annotated[str | None, _value("NAME", "cosine or polynomial.")] = None,
    period: Annotated[int | None, _value("N", "Steps between restarts of the cosine; 0: none.", least=0)] = None,
    power: Annotated[float | None, _value("X", "Exponent of the polynomial.", least=0)] = None,
    class_weights: Annotated[
        str | None, _value("P", "A class weighs share^-P: none (0), sqrt (0.5) or a number.")
    ] = None,
    dropout: Annotated[float | None, _value("SHARE", "Of the last features, left out.", least=0, most=0.99)] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Labelled points only, no teacher.")
    ] = False,
    keep: Annotated[float | None, _value("SHARE", "Of the teacher, at each step.", least=0, most=1)] = None,
    teacher_after: Annotated[
        float | None,
        _value("SHARE", "Of the training, after which the teacher guesses, with --spread too.", least=0, most=1),
    ] = None,
    confidence: Annotated[float | None, _value("P", "From which the teacher's guess teaches.", least=0, most=1)] = None,
    consistency: Annotated[str | None, _value("KIND", "none, or kl as in the paper's released code.")] = None,
    average: Annotated[
        bool | None,
        typer.Option("--average/--no-average", help="Save an average of the steps' weights.", show_default=False),
    ] = None,
    elastic: Annotated[
        bool | None, typer.Option("--elastic/--no-elastic", help="Distort the student's rooms.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            show_default=False,
            help="Processes that make batches; the model is the same.  [0; with CUDA 8, or the cores but one]",
        ),
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
    """Train the network on the labelled points. Its own average, the teacher, teaches it about the others: `sure` in
    the progress is the share of them for which the teacher's best class has at least --confidence."""
    if model not in MODELS:
        raise UsageError("--model", f"{model!r} is unknown", f"choose from {', '.join(MODELS)}")
    if old_spread and spread is None:
        raise UsageError("--old-spread", "is for --spread", "give that too, or leave it out")
    if model == "forest":
        network_only = {
            "--init": init,
            "--resume": resume or None,
            "--preset": preset,
            "--size": size,
            "--inputs": inputs,
            "--voxel": voxel,
            "--steps": steps,
            "--minutes": minutes,
            "--batch": batch,
            "--max-voxels": max_voxels,
            "--even-crops": even_crops,
            "--optimizer": optimizer,
            "--lr": lr,
            "--momentum": momentum,
            "--dampening": dampening,
            "--weight-decay": weight_decay,
            "--schedule": schedule,
            "--period": period,
            "--power": power,
            "--class-weights": class_weights,
            "--dropout": dropout,
            "--supervised-only": supervised_only or None,
            "--keep": keep,
            "--teacher-after": teacher_after,
            "--confidence": confidence,
            "--consistency": consistency,
            "--average": average,
            "--elastic": elastic,
            "--show": show or None,
            "--workers": workers,
            "--backend": None if backend == "auto" else backend,
            "--precision": None if precision == "fp32" else precision,
        }
        given_here = [option for option, value in network_only.items() if value is not None]
        if given_here:
            raise UsageError(given_here[0], "is for the network", "leave it out with --model forest")
        _train_forest(
            Console(NAME, quiet=quiet, verbose=verbose),
            *_required(scenes_store, labels, output),
            spread,
            old_spread=old_spread,
            seed=seed,
            overwrite=overwrite,
        )
        return
    from hpal_cli.forest.model import is_forest
    from hpal_cli.lengths import parse_length
    from hpal_cli.network.backend import choose as choose_backend
    from hpal_cli.network.device import choose
    from hpal_cli.network.point_inputs import Wanted
    from hpal_cli.scenes.scale import scale_at
    from hpal_cli.training.checkpoint import load
    from hpal_cli.training.presets import described, settings_of, usual_preset
    from hpal_cli.training.processes import own_device, rank_and_world

    rank, _ = rank_and_world()
    console = Console(NAME, quiet=quiet or rank > 0, verbose=verbose)
    chosen_device = own_device(choose(device))
    if init is not None and is_forest(init):
        raise UsageError(
            "--init", f"{init} is a forest, and a network starts from a network", "give one, or leave it out"
        )
    start = None if init is None else load(init)
    begun = None if start is None else start.settings
    name = preset or usual_preset(cuda=chosen_device.type == "cuda", spread=spread is not None, init=begun)
    if supervised_only and teacher_after is not None:
        raise UsageError("--teacher-after", "is for the teacher, whom --supervised-only drops", "leave one of them out")
    if steps is not None and minutes:
        raise UsageError("--minutes", "ends a run by the clock, and --steps by its steps", "leave one of them out")
    given = {
        "size": size,
        "inputs": inputs,
        "voxel": None if voxel is None else parse_length(voxel, "--voxel", bare="m"),
        "steps": steps,
        "minutes": minutes,
        "batch": batch,
        "max_voxels": max_voxels,
        "even_crops": even_crops,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "period": period,
        "power": power,
        "class_weights": None if class_weights is None else _power(class_weights),
        "dropout": dropout,
        "teacher": _teacher(supervised_only, teacher_after, spread),
        "teacher_after": teacher_after,
        "keep": keep,
        "confidence": confidence,
        "consistency": consistency,
        "average": average,
        "elastic": elastic,
    }
    scale = None if scenes_store is None or start is not None else scale_at(scenes_store)
    settings = settings_of(name, given, init=begun, scale=scale)
    if inputs is not None:
        Wanted.parse(inputs)
    if show:
        for key, text in described(settings):
            print(f"{key:<14} {text}")
        return
    chosen_backend = choose_backend(backend, chosen_device, precision)
    scenes_store, labels, output = _required(scenes_store, labels, output)
    if name == "few" and spread is None and labels != "all":
        remedy = f"make it first: hpal spread {labels} {scenes_store} -o spread.zarr"
        raise UsageError("--preset few", "learns from what was spread from the labels, and --spread is missing", remedy)

    from hpal_cli.label.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.files import require_free
    from hpal_cli.training.train import train

    require_free(output, overwrite=overwrite)
    store = SceneStore(scenes_store)
    answers = None if labels == "all" else LabelStore(Path(str(labels)))
    length = f"{settings.minutes:g} minutes" if settings.minutes else f"{settings.steps} steps"
    console.say(f"{name} preset, {settings.size} network, {length} on {chosen_device}, {chosen_backend}")
    checkpoint = train(
        store,
        answers,
        settings,
        spread=None if spread is None else PredictionStore(spread),
        old_spread=old_spread,
        init=start,
        device=chosen_device,
        backend=chosen_backend,
        workers=workers,
        seed=seed,
        run=output,
        save_every=save_every,
        resume=resume,
        overwrite=overwrite,
        history=[*(store.history if start is None else start.history), *this_call(NAME, seed=seed)],
        monitor=console,
    )
    count = f"{checkpoint.labelled:,} labelled points"
    if checkpoint.spread:
        count = f"{checkpoint.spread:,} points, spread from {count}"
    console.say(
        f"{output}: {checkpoint.step} steps on {count}; "
        f"next: {typed('hpal', 'predict', output, scenes_store, '-o', name_for_predictions(output))}"
    )


def _required(scenes: Path | None, labels: str | None, output: Path | None) -> tuple[Path, str, Path]:
    """Raises:
    UsageError: one of them is missing.
    """
    if scenes is None or labels is None or output is None:
        option = "SCENES" if scenes is None else "--labels" if labels is None else "-o"
        raise UsageError(option, "is missing", "call it as: hpal train SCENES --labels STORE -o MODEL")
    return scenes, labels, output


def _train_forest(
    console: Console,
    scenes: Path,
    labels: str,
    output: Path,
    spread: Path | None,
    *,
    old_spread: bool,
    seed: int,
    overwrite: bool,
) -> None:
    from hpal_cli.forest.train import train_forest
    from hpal_cli.label.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.files import require_free

    require_free(output, overwrite=overwrite)
    store = SceneStore(scenes)
    forest = train_forest(
        store,
        None if labels == "all" else LabelStore(Path(labels)),
        spread=None if spread is None else PredictionStore(spread),
        old_spread=old_spread,
        seed=seed,
        history=[*store.history, *this_call(NAME, seed=seed)],
        monitor=console,
    )
    forest.save(output, overwrite=overwrite)
    console.say(
        f"{output}: a forest of {len(forest.stages.trees)} stages, from {counted(forest.labelled, 'labelled point')}; "
        f"next: {typed('hpal', 'predict', output, scenes, '-o', name_for_predictions(output))}"
    )


def _power(text: str) -> float:
    """Raises:
    UsageError: no power.
    """
    named = {"none": 0.0, "sqrt": 0.5}
    if text in named:
        return named[text]
    try:
        power = float(text)
    except ValueError:
        power = -1.0
    if not 0 <= power <= 2:
        raise UsageError("--class-weights", f"{text!r} is unknown", "choose from none, sqrt, or a number from 0 to 2")
    return power


def _teacher(supervised_only: bool, after: float | None, spread: Path | None) -> bool | None:
    """Whether there is a teacher; None: as the preset says."""
    if after is not None:
        return True
    return False if supervised_only or spread is not None else None
