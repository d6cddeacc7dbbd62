"""hpal score: how much each point's label would teach."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands import words
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
    predictions: Annotated[
        Path, typer.Argument(metavar="STORE", help="Predictions store (or scenes store, for `random` and `diverse`).")
    ],
    strategy: Annotated[
        str, typer.Option(help=f"{', '.join(STRATEGIES)}.", autocompletion=lambda: list(STRATEGIES))
    ] = "hmmu",
    levels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LENGTHS",
            help="Voxel edges of HMMU (bare: centimetres).  [10,50,100, times the scale of the scenes]",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None, typer.Option(metavar="NUMBERS", help="One weight a level.  [0.1,0.01,0.001]")
    ] = None,
    hierarchy: Annotated[
        str,
        typer.Option(
            help="flat: voxels of points, as in the paper; nested: voxels of voxels, as in its code.",
            autocompletion=lambda: list(HIERARCHIES),
        ),
    ] = "flat",
    per: Annotated[
        str,
        typer.Option(
            help="What one answer is for. point: the paper's way. superpoint: a whole piece of surface, asked about at "
            "the point in its middle; `diverse` always does so.",
            autocompletion=lambda: list(UNITS),
        ),
    ] = "point",
    budget: Annotated[
        str | None,
        typer.Option(help="What select will take; it matters to `diverse` and `ssdr`.  [0.02%]", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where the points go.  [stdout; scores.ply at a terminal]"),
    ] = None,
    ply: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write each scene, coloured by score, with every level's share, as PLY."),
    ] = None,
    split: Annotated[
        str, typer.Option(help="The pool: train, val, test or all.", autocompletion=words.splits)
    ] = "train",
    scenes: opt.Scenes = None,
    labels: opt.Answered = None,
    seed: opt.Seed = 0,
    jobs: opt.Jobs = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only the I-th of N parts of the scenes; select merges them.  [the task of a Slurm array, else 1/1]",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="cpu, auto, cuda or cuda:N: where hmmu is computed.")] = "cpu",
    no_history: opt.NoHistory = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Score every unlabelled point. The higher the score, the more the point's label would teach."""
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
    from hpal_cli.label.store import LabelStore
    from hpal_cli.lengths import format_length, parse_length
    from hpal_cli.score.hmmu import Hierarchy, default_weights, missing
    from hpal_cli.score.scorer import Plan, Strategy, default_levels, score
    from hpal_cli.score.shard import Shard

    console = Console(NAME, quiet=quiet, verbose=verbose)
    edges = tuple(parse_length(text, "--levels", bare="cm") for text in opt.as_list(levels))
    edges = edges or default_levels(predictions, per_superpoint=per == "superpoint")
    factors = tuple(opt.as_numbers(weights, "--weights")) or default_weights(edges)
    plan = Plan(
        Strategy(strategy),
        Hierarchy(edges, factors, nested=hierarchy == "nested"),
        seed,
        _device(device),
        Budget.parse(budget or DEFAULT),
        per_superpoint=per == "superpoint" or strategy == "diverse",
    )
    part = Shard.of_array_task() if shard is None else Shard.parse(shard)
    alone = part.parts == 1
    usual = "scores.ply" if alone else f"scores-{part.part}-of-{part.parts}.ply"
    out = Output(output, usual, overwrite=overwrite, fixed=not alone)
    nested = "nested hmmu" if hierarchy == "nested" else "hmmu"
    how = f"{nested} at {', '.join(map(format_length, edges))}" if strategy == "hmmu" else strategy
    what = "superpoint" if plan.per_superpoint else "point"
    if strategy == "hmmu" and plan.device == "cpu" and missing():
        console.say(f"{missing()}: hmmu by NumPy alone, which takes some fifteen times as long")

    def begin(header: Header) -> IO[bytes]:
        # Before the first byte: whoever reads from the pipe draws its bar from then on.
        to = f" -> {out.path}" if out.path else ""
        of = f" (part {part.part} of {part.parts})" if part.parts > 1 else ""
        console.say(f"scoring {counted(header.count, what)} of {counted(len(header.pool), 'scene')}{of} ({how}){to}")
        return stream()

    with out.open() as stream:
        header = score(
            predictions,
            begin,
            plan,
            split=split,
            scenes=opt.as_list(scenes),
            shard=part,
            labels=None if labels is None else LabelStore(labels),
            jobs=jobs,
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
