"""hpal score: estimate how much a model would learn from the label of each point."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import completion
from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console, Output, typed
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError
from hpal_cli.wording import counted

if TYPE_CHECKING:
    from hpal_cli.stream.header import Header

NAME = "score"

STRATEGIES = ("hmmu", "mmu", "lc", "entropy", "random", "diverse", "redal", "ssdr")

UNITS = ("point", "superpoint")

HIERARCHIES = ("flat", "nested")


def command(
    context: typer.Context,
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="STORE",
            help="Predictions store from `hpal predict` or `hpal spread`. The strategies `random` and `diverse` "
            "also take a scenes store.",
        ),
    ],
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How points are scored: hmmu, by the uncertainty of the point and its surroundings; mmu (minimum "
            "margin), lc (least confidence) or entropy, by that of the point alone; random; diverse, for first "
            "answers without a model; redal or ssdr, two methods that ask about regions.",
            autocompletion=lambda: list(STRATEGIES),
        ),
    ] = "hmmu",
    levels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTHS",
            help="Edges of the voxels over which hmmu averages, in centimetres or with a unit. Other options take "
            "lengths in metres.  [10,50,100, times the scale of the scenes]",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBERS",
            help="Weight of each level of --levels in the score of hmmu; the point itself has the weight 1.  "
            "[0.1,0.01,0.001]",
        ),
    ] = None,
    hierarchy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How hmmu builds its voxels. flat: each level averages over points, as the paper says. nested: "
            "each level averages over the voxels of the finer one, as the paper's released code does.",
            autocompletion=lambda: list(HIERARCHIES),
        ),
    ] = "flat",
    per: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What one answer will label. point: a single point, as in the paper. superpoint: a whole piece of "
            "surface, which is asked about at the point nearest to its middle. `diverse` always scores "
            "superpoints.",
            autocompletion=lambda: list(UNITS),
        ),
    ] = "point",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET",
            help="Budget that `hpal select` will be given. Only `diverse` and `ssdr` need it, since they plan for "
            "a number of picks.  [0.02%]",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="File for the scored points.  [stdout; scores.ply at a terminal]"
        ),
    ] = None,
    ply: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write each scene as a PLY file in this folder, coloured by score. With hmmu, fields of the "
            "file say how much each level adds to the score of a point.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Split whose points may be chosen (the pool): train, val, test or all.",
            autocompletion=completion.splits,
        ),
    ] = "train",
    scenes: opt.Scenes = None,
    labels: opt.Answered = None,
    seed: opt.Seed = 0,
    jobs: opt.Jobs = 1,
    scheduler: opt.Scheduler = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Score only part I of N equal parts of the scenes, to share the work among computers; `hpal "
            "select` merges the N files.  [the task of a Slurm array, else 1/1]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Where hmmu is computed: cpu, cuda, cuda:N for the GPU of that number, or auto (CUDA if there is "
            "any). The scores are the same.",
        ),
    ] = "cpu",
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Score every unlabelled point of the train split. The higher the score of a point, from 0 to 1, the more a model
    would learn from the point's label."""
    for option, value, known in (
        ("--strategy", strategy, STRATEGIES),
        ("--hierarchy", hierarchy, HIERARCHIES),
        ("--per", per, UNITS),
    ):
        if value not in known:
            raise UsageError(option, f"{value!r} is unknown", f"choose from {', '.join(known)}")
    if strategy != "hmmu" and (levels or weights or hierarchy != "flat" or device != "cpu"):
        raise UsageError(
            "--strategy", f"{strategy} has no voxels", "leave out --levels, --weights, --hierarchy and --device"
        )
    if budget is not None and strategy not in ("ssdr", "diverse"):
        raise UsageError("--budget", f"has no meaning for {strategy}", "give it to `hpal select`")
    from hpal_cli.budget import DEFAULT, Budget
    from hpal_cli.labels.store import LabelStore
    from hpal_cli.lengths import format_length, parse_length
    from hpal_cli.score.hmmu import Hierarchy, default_weights, missing
    from hpal_cli.score.scorer import ScoreSettings, Strategy, default_levels, score
    from hpal_cli.shard import Shard

    console = Console(NAME, quiet=quiet, verbose=verbose)
    edges = tuple(parse_length(text, "--levels", bare="cm") for text in opt.as_list(levels))
    edges = edges or default_levels(predictions, per_superpoint=per == "superpoint")
    factors = tuple(opt.as_numbers(weights, "--weights")) or default_weights(edges)
    settings = ScoreSettings(
        Strategy(strategy),
        Hierarchy(edges, factors, nested=hierarchy == "nested"),
        seed,
        _device(device),
        Budget.parse(budget or DEFAULT),
        per_superpoint=per == "superpoint",
    )
    part = Shard.from_array_task() if shard is None else Shard.parse(shard)
    alone = part.parts == 1
    usual = "scores.ply" if alone else f"scores-{part.part}-of-{part.parts}.ply"
    out = Output(output, usual, overwrite=overwrite, fixed=not alone)
    nested = "nested hmmu" if hierarchy == "nested" else "hmmu"
    how = f"{nested} at {', '.join(map(format_length, edges))}" if strategy == "hmmu" else strategy
    what = "superpoint" if settings.per_superpoint else "point"
    if strategy == "hmmu" and settings.device == "cpu" and missing():
        console.say(f"{missing()}: hmmu by NumPy alone, which takes some twelve times as long")

    def begin(header: Header) -> IO[bytes]:
        # Before the first byte, since from then on the next command of the pipeline draws its progress bar.
        to = f" -> {out.path}" if out.path else ""
        of = f" (part {part.part} of {part.parts})" if part.parts > 1 else ""
        console.say(f"scoring {counted(header.count, what)} of {counted(len(header.pool), 'scene')}{of} ({how}){to}")
        return stream()

    with opt.workers(context, jobs, scheduler, console) as workers, out.open() as stream:
        header = score(
            predictions,
            begin,
            settings,
            split=split,
            scenes=opt.as_list(scenes),
            shard=part,
            labels=None if labels is None else LabelStore(labels),
            jobs=workers,
            ply=ply,
            overwrite=overwrite,
            history=None
            if no_history
            else this_call(NAME, seed=seed if strategy in ("random", "redal", "diverse") else None),
            monitor=console,
        )
    if ply is not None:
        console.say(f"{ply}/: {len(header.pool)} PLY files, coloured by score")
    if out.path and out.guessed:
        console.say(
            f"next: hpal select {typed(out.path) if alone else f'scores-*-of-{part.parts}.ply  (when all are there)'}"
        )


def _device(name: str) -> str:
    if name == "cpu":
        return name
    from hpal_cli.network.device import choose

    return str(choose(name))
