"""hpal prep: raw clouds to a scenes store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import options as opt
from hpal_cli.commands import words
from hpal_cli.commands.console import Console
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

NAME = "prep"


def command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder or file: S3DIS, ScanNet, nuScenes, SemanticKITTI, PLY, PCD, LAS/LAZ/COPC/EPT, E57, PTX, text, "
            "NumPy."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="STORE", help="The scenes store to write.")],
    grid: Annotated[
        str,
        typer.Option(
            help="Cell edge of the grid (bare: metres), or `none`.  [that of --scale; ScanNet: none]",
            show_default=False,
        ),
    ] = "default",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What all lengths of this and later commands fit: room, street, airborne, or how far apart the points "
            "of the grid lie (4cm, 10cm and 50cm).  [room for S3DIS and ScanNet, else as measured]",
        ),
    ] = None,
    val: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Scenes to validate on: names, patterns, @file.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Scenes to test on: names, patterns, @file.")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Class table, JSON or TOML (name, id, color, code, las), or {', '.join(words.CLASS_TABLES)}.",
            autocompletion=lambda: list(words.CLASS_TABLES),
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(metavar="UNIT", help="Unit of the coordinates: m, ft, mm, ...  [from the file, else m]"),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Reader, if not by looking at the data: {', '.join(words.FORMATS)}.",
            autocompletion=lambda: list(words.FORMATS),
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="NAMES", help="What the columns of text are: x,y,z,r,g,b,label; `-` leaves one out."),
    ] = None,
    scene_per: Annotated[
        str, typer.Option(metavar="WHAT", help="file, folder (all files of one), or square tiles: tile:50m.")
    ] = "file",
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse points with NaN or infinite coordinates, instead of dropping them.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted call left: only what is missing is read.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out scenes that cannot be read, and exit with 1 at the end.")
    ] = False,
    overwrite: opt.Overwrite = False,
    jobs: opt.Jobs = 1,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Read raw clouds onto a grid. The store that it writes is what all else starts from."""
    from hpal_cli.lengths import format_length, parse_length, parse_unit
    from hpal_cli.scenes.named import class_table
    from hpal_cli.scenes.prepare import prepare
    from hpal_cli.scenes.scale import NAMED

    console = Console(NAME, quiet=quiet, verbose=verbose)
    edge: str | float | None = grid
    if grid == "none":
        edge = None
    elif grid != "default":
        edge = parse_length(grid, "--grid", bare="m")
    table = prepare(
        source,
        output,
        format=format,
        grid=edge,
        scale=None if scale is None else NAMED.get(scale) or parse_length(scale, "--scale", bare="m"),
        columns=None if columns is None else opt.as_list(columns),
        scene_per=_scene_per(scene_per),
        val=opt.as_list(val),
        test=opt.as_list(test),
        classes=None if classes is None else class_table(str(classes)),
        unit=None if unit is None else parse_unit(unit),
        strict=strict,
        overwrite=overwrite,
        resume=resume,
        keep_going=keep_going,
        jobs=jobs,
        history=this_call(NAME),
        monitor=console,
    )
    from hpal_cli.scenes.store import SceneStore
    from hpal_cli.wording import counted

    store = SceneStore(output)
    splits = ", ".join(
        f"{n} {split}" for split in ("train", "val", "test") if (n := sum(i.split == split for i in table))
    )
    original, points = sum(i.original for i in table), sum(i.points for i in table)
    on = "no grid" if store.grid is None else f"{format_length(store.grid)} grid"
    console.say(
        f"{output}: {counted(len(table), 'scene')} ({splits}), {counted(original, 'point')} -> {points:,} ({on}), "
        f"{counted(len(store.classes), 'class', 'classes')}, read as {store.format}"
    )
    console.say(_lengths(store.scale))


def _lengths(scale: float | None) -> str:
    """What later commands take where nothing else is typed."""
    from hpal_cli.export.clips import NEAR
    from hpal_cli.lengths import format_length
    from hpal_cli.score.hmmu import LEVELS
    from hpal_cli.select.fds import RADIUS
    from hpal_cli.training.presets import PRESETS

    times = scale or 1.0
    voxel, radius, near = (format_length(times * length) for length in (PRESETS["s3dis"].voxel, RADIUS, NEAR))
    levels = ",".join(format_length(times * level) for level in LEVELS)
    kind = "a room" if scale is None else f"scale {times:g}"
    return f"lengths of {kind}: voxel {voxel}, levels {levels}, FDS radius {radius}, pictures of {near} around a point"


def _scene_per(text: str) -> str | float:
    """`file`, `folder`, or a tile's edge in metres.

    Raises:
        UsageError: something else.
    """
    from hpal_cli.lengths import parse_length

    if text in ("file", "folder"):
        return text
    what, _, edge = text.partition(":")
    if what != "tile":
        raise UsageError("--scene-per", f"{text!r} is unknown", "choose file, folder, or tile:50m")
    return parse_length(edge, "--scene-per", bare="m")
