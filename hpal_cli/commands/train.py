"""hpal train: train a network or a forest on scenes of which a few points have labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, name_for_predictions, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError
from hpal_cli.lengths import format_length
from hpal_cli.store.remote import located
from hpal_cli.training.presets import PRESETS
from hpal_cli.wording import counted

NAME = "train"

MODELS = ("network", "forest")


def _value(metavar: str, text: str, *, least: float | None = None, most: float | None = None) -> Any:
    """An option that replaces one value of the preset. least, most: the bounds of a number."""
    return typer.Option(metavar=metavar, help=text, min=least, max=most, show_default=False)


def _presets(key: str) -> str:
    """The value of this setting in each preset, in the form in which help shows a default."""
    values = {name: getattr(preset, key) for name, preset in PRESETS.items()}
    texts = {name: _text(key, value) for name, value in values.items()}
    if len(set(texts.values())) == 1:
        return f"  [{texts['s3dis']}]"
    return f"  [{', '.join(f'{name} {text}' for name, text in texts.items())}]"


def _text(key: str, value: float | str) -> str:
    if isinstance(value, str):
        return value
    return format_length(value) if key == "voxel" else format(value, ",").removesuffix(".0")


def command(
    scenes_store: Annotated[
        Path | None, typer.Argument(metavar="SCENES", help="Scenes store from `hpal prep`.", show_default=False)
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Labels store with the answers, or `all` to learn from every label that the scenes came with.",
        ),
    ] = None,
    spread: Annotated[
        Path | None,
        typer.Option(
            metavar="STORE",
            help="Predictions store that `hpal spread` made from the answers of --labels. The model then learns from "
            "all points that an answer was spread to, and the teacher is off.",
        ),
    ] = None,
    old_spread: Annotated[
        bool,
        typer.Option(
            "--old-spread",
            help="Use the --spread store even if it was made from other answers than those of --labels. Without it, "
            "hpal stops in this case.",
        ),
    ] = False,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Kind of model: network, or forest, decision trees that predict the class of a superpoint and are "
            "trained in a minute. A forest takes none of the options that are about the network.",
            autocompletion=lambda: list(MODELS),
        ),
    ] = "network",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Checkpoint file to write. Metrics are written beside it."),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Start from the weights of the student in this checkpoint instead of random weights. Its preset, "
            "--size, --voxel and --inputs are used too, unless you give others.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run that had the same -o.")] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Named set of values for the options from --size to --elastic: s3dis and scannet are the paper's, "
            "small takes minutes on a CPU, few is small with settings for spread answers.  [that of --init; else "
            "s3dis with CUDA; on a CPU few with --spread, else small]",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Size of the network: full, the paper's, or small, which has half as many channels and residual "
            "blocks and is quicker on a CPU.  [that of the preset]",
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        _value(
            "NAMES",
            "Input features of each voxel: points (position and colour), superpoints (position, colour and 32 "
            "numbers that describe the superpoint), or a list of columns such as x,y,z,rgb,intensity,height. Any "
            f"column of the scans may be listed; height is computed, in metres above ground.{_presets('inputs')}",
        ),
    ] = None,
    voxel: Annotated[
        str | None,
        _value(
            "LENGTH",
            "Edge of the network's voxels, in metres or with a unit. Smaller voxels show finer shapes and take "
            f"more memory and time.{_presets('voxel')}, times the scale of the scenes",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _value(
            "N",
            "Number of steps of the optimiser. More steps take longer, and often give a better model."
            f"{_presets('steps')}",
            least=1,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        _value(
            "MINUTES",
            "Train for this many minutes instead of a number of steps. The number of steps then depends on the speed "
            "of the computer, so a second run gives another model.",
            least=0,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        _value(
            "N",
            "Number of scenes in a step. With more scenes, the gradients vary less from step to step, and each scene "
            f"is cropped to a smaller share of --max-voxels.{_presets('batch')}",
            least=1,
        ),
    ] = None,
    max_voxels: Annotated[
        int | None,
        _value(
            "N",
            "Largest number of voxels in a step, which bounds the memory. Larger scenes are cropped to their "
            f"share; 0 takes whole scenes.{_presets('max_voxels')}",
            least=0,
        ),
    ] = None,
    even_crops: Annotated[
        float | None,
        _value(
            "SHARE",
            "Share of the crops, 0 to 1, whose centre is chosen by drawing a class first, each class being equally "
            f"likely. A larger share shows rare classes more often.{_presets('even_crops')}",
            least=0,
            most=1,
        ),
    ] = None,
    optimizer: Annotated[str | None, _value("NAME", f"Optimiser: sgd or adamw.{_presets('optimizer')}")] = None,
    lr: Annotated[
        float | None,
        _value(
            "RATE",
            f"Learning rate at the beginning. Lower it if the loss rises or becomes NaN.{_presets('lr')}",
            least=0,
        ),
    ] = None,
    momentum: Annotated[
        float | None,
        _value(
            "SHARE",
            "Momentum of sgd: the share of the previous step's direction that each step keeps. adamw ignores "
            f"it.{_presets('momentum')}",
            least=0,
        ),
    ] = None,
    dampening: Annotated[
        float | None,
        _value(
            "SHARE",
            "Dampening of the momentum of sgd: the share of each new gradient that is left out. adamw ignores "
            f"it.{_presets('dampening')}",
            least=0,
        ),
    ] = None,
    weight_decay: Annotated[
        float | None,
        _value(
            "RATE",
            "Weight decay of the optimiser. Raise it if the network learns the labels by heart "
            f"(overfitting).{_presets('weight_decay')}",
            least=0,
        ),
    ] = None,
    schedule: Annotated[
        str | None, _value("NAME", f"How the learning rate falls: cosine or polynomial.{_presets('schedule')}")
    ] = None,
    period: Annotated[
        int | None,
        _value(
            "N", f"Steps between two restarts of the cosine schedule; 0 means no restarts.{_presets('period')}", least=0
        ),
    ] = None,
    power: Annotated[
        float | None,
        _value(
            "X",
            f"Exponent of the polynomial schedule; a larger one lowers the rate faster.{_presets('power')}",
            least=0,
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        _value(
            "X",
            "Give each class the weight share^-X in the loss, where share is its part of the labels. X is none (0), "
            f"sqrt (0.5) or a number from 0 to 2. Raise it if rare classes are not found.{_presets('class_weights')}",
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        _value(
            "SHARE",
            "Dropout before the classifier: the share of the last features that each step drops at random, against "
            f"overfitting.{_presets('dropout')}",
            least=0,
            most=0.99,
        ),
    ] = None,
    supervised_only: Annotated[
        bool, typer.Option("--supervised-only", help="Learn from the labelled points alone, without a teacher.")
    ] = False,
    keep: Annotated[
        float | None,
        _value(
            "SHARE",
            "Decay of the exponential moving average (EMA) by which the teacher is updated: the share of its own "
            "weights that the teacher keeps at each step, 0 to 1. The rest comes from the student (Eq. 7 of the "
            f"paper).{_presets('keep')}",
            least=0,
            most=1,
        ),
    ] = None,
    teacher_after: Annotated[
        float | None,
        _value(
            "SHARE",
            "Share of the training, 0 to 1, after which the teacher starts to give pseudo-labels. With --spread, "
            f"this option turns the teacher on.{_presets('teacher_after')}",
            least=0,
            most=1,
        ),
    ] = None,
    confidence: Annotated[
        float | None,
        _value(
            "PROBABILITY",
            "Least probability, 0 to 1, at which the teacher's best class for a point is used as its pseudo-label. "
            f"A lower value gives more pseudo-labels, of which more are wrong.{_presets('confidence')}",
            least=0,
            most=1,
        ),
    ] = None,
    consistency: Annotated[
        str | None,
        _value(
            "NAME",
            "Further loss between student and teacher at all points: none, or kl (Kullback-Leibler), as in the "
            f"paper's released code.{_presets('consistency')}",
        ),
    ] = None,
    average: Annotated[
        bool | None,
        typer.Option(
            "--average/--no-average",
            help="Save a running average of the weights instead of the last ones, since the average varies less "
            "from step to step.  [--no-average; few --average]",
            show_default=False,
        ),
    ] = None,
    elastic: Annotated[
        bool | None,
        typer.Option(
            "--elastic/--no-elastic",
            help="Apply elastic distortion, an augmentation, to the scenes that the student sees. Short trainings do "
            "better without.  [s3dis and scannet --elastic; small and few --no-elastic]",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            show_default=False,
            help="Number of processes that prepare batches. Raise it if a GPU waits for batches; the model is the "
            "same.  [0; with CUDA the number of cores less one, at most 8]",
        ),
    ] = None,
    save_every: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Number of steps between two saves of the state that --resume continues from."
        ),
    ] = 200,
    show: Annotated[
        bool, typer.Option("--show", help="Print the value of every option that training would use, and stop.")
    ] = False,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    backend: opt.Backend = "auto",
    precision: opt.Precision = "fp32",
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Train a model on the labelled points. For points without a label, the network learns from the classes that its
    teacher predicts (the teacher is a running average of the network). `sure` in the progress line is the share of
    these points for which the teacher's best class has at least the probability --confidence."""
    if model not in MODELS:
        raise UsageError("--model", f"{model!r} is unknown", f"choose from {', '.join(MODELS)}")
    if old_spread and spread is None:
        raise UsageError("--old-spread", "has no meaning without --spread", "give --spread too, or leave it out")
    given: dict[str, Any] = {
        "size": size,
        "inputs": inputs,
        "voxel": voxel,
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
        "class_weights": class_weights,
        "dropout": dropout,
        "teacher_after": teacher_after,
        "keep": keep,
        "confidence": confidence,
        "consistency": consistency,
        "average": average,
        "elastic": elastic,
    }
    if model == "forest":
        network_only = {
            "--init": init,
            "--resume": resume or None,
            "--preset": preset,
            **{f"--{key.replace('_', '-')}": value for key, value in given.items()},
            "--supervised-only": supervised_only or None,
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
    from hpal_cli.scenes.scale import scale_at
    from hpal_cli.training.checkpoint import load
    from hpal_cli.training.distributed import local_device, rank_and_world_size
    from hpal_cli.training.presets import default_preset, describe_settings, settings_of, teacher_of

    rank, _ = rank_and_world_size()
    console = Console(NAME, quiet=quiet or rank > 0, verbose=verbose)
    chosen_device = local_device(choose(device))
    if init is not None and is_forest(init):
        raise UsageError(
            "--init",
            f"{init} is a forest, and a network can only start from a network",
            "give the checkpoint of a network, or leave it out",
        )
    start = None if init is None else load(init)
    init_settings = None if start is None else start.settings
    name = preset or default_preset(cuda=chosen_device.type == "cuda", spread=spread is not None, init=init_settings)
    if supervised_only and teacher_after is not None:
        problem = "is for the teacher, and --supervised-only trains without one"
        raise UsageError("--teacher-after", problem, "leave one of them out")
    if steps is not None and minutes:
        problem = "ends the training after a time, and --steps after a number of steps"
        raise UsageError("--minutes", problem, "leave one of them out")
    given["voxel"] = None if voxel is None else parse_length(voxel, "--voxel", bare="m")
    given["class_weights"] = None if class_weights is None else _power(class_weights)
    given["teacher"] = False if supervised_only else teacher_of(teacher_after, spread=spread is not None)
    scale = None if scenes_store is None or start is not None else scale_at(scenes_store)
    settings = settings_of(name, given, init=init_settings, scale=scale)
    if show:
        for key, text in describe_settings(settings):
            print(f"{key:<14} {text}")
        return
    chosen_backend = choose_backend(backend, chosen_device, precision)
    scenes_store, labels, output = _required(scenes_store, labels, output)
    if name == "few" and spread is None and labels != "all":
        remedy = f"make it first: hpal spread {labels} {scenes_store} -o spread.zarr"
        raise UsageError("--preset few", "learns from spread answers, and --spread is missing", remedy)

    from hpal_cli.labels.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.files import require_absent
    from hpal_cli.training.train import train

    require_absent(output, overwrite=overwrite)
    store = SceneStore(scenes_store)
    answers = None if labels == "all" else LabelStore(located(str(labels)))
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
    """The three arguments that every training needs and that --show does not need.

    Raises:
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
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.predictions.store import PredictionStore
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.store.files import require_absent

    require_absent(output, overwrite=overwrite)
    store = SceneStore(scenes)
    forest = train_forest(
        store,
        None if labels == "all" else LabelStore(located(labels)),
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
    """The exponent that --class-weights stands for.

    Raises:
        UsageError: it is neither a known name nor a number from 0 to 2.
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
