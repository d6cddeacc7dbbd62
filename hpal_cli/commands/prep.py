"""hpal prep: read raw clouds and write a scenes store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import completion
from hpal_cli.commands import options as opt
from hpal_cli.commands.console import Console
from hpal_cli.commands.history import this_call
from hpal_cli.errors import UsageError

NAME = "prep"


def command(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="Folder or file with the scans: S3DIS, ScanNet, nuScenes, SemanticKITTI, PLY, PCD, "
            "LAS/LAZ/COPC/EPT, E57, PTX, text or NumPy.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="STORE", help="Scenes store (a Zarr folder) to write.")
    ],
    grid: Annotated[
        str,
        typer.Option(
            metavar="LENGTH",
            help="Edge of the grid cells in metres, or with a unit (4cm). All points of a cell become one grid "
            "point. `none` keeps every point.  [set by --scale; none for ScanNet]",
            show_default=False,
        ),
    ] = "default",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="Kind of scan, from which this and all later commands derive their default lengths: room (grid of "
            "4cm), street (10cm), airborne (50cm), or a length, which becomes the grid. Set it if the lengths "
            "that prep prints do not suit your scans.  [room for S3DIS and ScanNet, else measured from the "
            "distances of points]",
        ),
    ] = None,
    val: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Scenes kept for validation: nobody is asked about them and nothing is trained on them. Give their "
            "names, patterns such as 'Area_5/*', or @FILE, a file with one pattern a line.  [none]",
        ),
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Scenes kept for a final test, given like --val.  [none]")
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Class table: a JSON or TOML file, or the name of a table that hpal knows: "
            f"{', '.join(completion.CLASS_TABLES)}. A file gives for each class its name, and if need be id, color, "
            "code (its number in your files) and las (its number in LAS files).  [the classes of the format; if it "
            "has none, each label in the files becomes a class]",
            autocompletion=lambda: list(completion.CLASS_TABLES),
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            metavar="UNIT",
            help="Unit of the coordinates in the files: m, ft, mm and so on.  [what the file says, else m]",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"File format, if hpal recognises it wrongly or not at all: {', '.join(completion.FORMATS)}.  "
            "[recognised from the data]",
            autocompletion=lambda: list(completion.FORMATS),
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Names of the columns of a text file, from left to right, such as x,y,z,r,g,b,label. `-` ignores "
            "a column.  [the names in the file, else guessed from the number of columns]",
        ),
    ] = None,
    scene_per: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What becomes one scene: file, each file; folder, all files of a folder; or square tiles of a "
            "given edge, as seen from above, such as tile:50m. Choose tiles for large files.",
        ),
    ] = "file",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop at points whose coordinates are NaN or infinite. Without it, such points are dropped.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue an interrupted call. Only scenes that are still missing are read."),
    ] = False,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Leave out scenes that cannot be read instead of stopping. The exit status is 1 if any is left out.",
        ),
    ] = False,
    overwrite: opt.Overwrite = False,
    jobs: opt.Jobs = 1,
    scheduler: opt.Scheduler = None,
    shard: opt.Shard = None,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = False,
) -> None:
    """Read raw scans and thin them to a grid. All other commands start from the scenes store that it writes."""
    from hpal_cli.lengths import format_length, parse_length, parse_unit
    from hpal_cli.scenes.class_tables import class_table
    from hpal_cli.scenes.prepare import prepare
    from hpal_cli.scenes.scale import NAMED
    from hpal_cli.shard import Shard

    console = Console(NAME, quiet=quiet, verbose=verbose)
    part = None if shard is None else Shard.parse(shard)
    edge: str | float | None = grid
    if grid == "none":
        edge = None
    elif grid != "default":
        edge = parse_length(grid, "--grid", bare="m")
    with opt.workers(context, jobs, scheduler, console) as workers:
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
            jobs=workers,
            shard=part,
            history=this_call(NAME),
            monitor=console,
        )
    if part is not None:
        return
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
    """A line that tells the default lengths of later commands. scale: of the scenes, None for rooms."""
    from hpal_cli.export.clips import COLORED_RADIUS
    from hpal_cli.lengths import format_length
    from hpal_cli.score.hmmu import LEVELS
    from hpal_cli.selection.fds import RADIUS
    from hpal_cli.training.presets import PRESETS

    times = scale or 1.0
    voxel, radius, near = (format_length(times * length) for length in (PRESETS["s3dis"].voxel, RADIUS, COLORED_RADIUS))
    levels = ",".join(format_length(times * level) for level in LEVELS)
    kind = "a room" if scale is None else f"scale {times:g}"
    return f"lengths of {kind}: voxel {voxel}, levels {levels}, FDS radius {radius}, pictures of {near} around a point"


def _scene_per(text: str) -> str | float:
    """`file`, `folder`, or a tile's edge in metres.

    Raises:
        UsageError: the text is none of these.
    """
    from hpal_cli.lengths import parse_length

    if text in ("file", "folder"):
        return text
    what, _, edge = text.partition(":")
    if what != "tile":
        raise UsageError("--scene-per", f"{text!r} is unknown", "choose file, folder, or tile:50m")
    return parse_length(edge, "--scene-per", bare="m")
