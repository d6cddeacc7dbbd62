"""Options that have the same meaning in every command, defined once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpal_cli.commands import completion
from hpal_cli.errors import UsageError
from hpal_cli.parallel import workers as _workers

if TYPE_CHECKING:
    from hpal_cli.parallel import Cluster
    from hpal_cli.progress import Monitor

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace the output if it exists already. Without it, hpal stops and changes nothing."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print more details, such as a line for every scene or step.")
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        metavar="N",
        help="Seed of all random draws. The same seed and inputs give the same output; give another seed for other "
        "draws.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result on stdout as JSON, for programs that call hpal.")]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Number of processes that work on scenes in parallel. More of them take less time and more memory; the "
        "output is the same.",
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Scheduler of a Dask cluster, whose workers then do the work: tcp://HOST:8786; the file that it has "
        "written, file:scheduler.json; or local:N, which starts N workers on this computer. The output does not "
        "depend on it.",
        show_default=False,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Library that computes the sparse convolutions: torch, minkowski (MinkowskiEngine), or auto, the "
        "fastest one installed.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Number format of the convolutions: fp32; bf16, which rounds the factors of each product and adds up "
        "in fp32; or tf32 or fp16, for GPUs only. All but fp32 are quicker where the hardware supports them, and less "
        "precise.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where the network is computed: cpu, cuda, cuda:N for the GPU of that number, or auto (CUDA if there "
        "is any).",
    ),
]
Color = Annotated[
    str,
    typer.Option(
        "--color",
        metavar="NAME",
        help="Colours of the points in the files: rgb, as scanned; class, those of the class table; or auto. auto "
        "is rgb for scenes and for LAS and CSV files of original points, and class for all other files.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only part I of N equal parts of the scenes, to share the work among computers. Each call writes "
        "its part beside the output, and the call that ends last puts the parts together.  [all scenes]",
        show_default=False,
    ),
]
Uncompressed = Annotated[
    bool,
    typer.Option(
        "--uncompressed", help="Write uncompressed LAS for input files that were LAZ. Without it, LAZ files stay LAZ."
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also draw each scene as a PNG in this folder: seen from above and from a corner, as scanned and by "
        "class.",
    ),
]
PictureJobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        min=1,
        metavar="N",
        help="Number of processes that draw pictures in parallel. More of them take less time and more memory; the "
        "output is the same.",
    ),
]
Scenes = Annotated[
    list[str] | None,
    typer.Option(
        "--scenes",
        metavar="GLOB",
        help="Use only the scenes whose names match these patterns, such as 'Area_1/*'.  [all scenes]",
        autocompletion=completion.scenes,
    ),
]
Split = Annotated[
    str,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Use only the scenes of this split: train, val, test or all.",
        autocompletion=completion.splits,
    ),
]
Answered = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="STORE",
        help='Labels store. Points that have an answer in it are left out, even if the answer is "unsure".',
    ),
]
NoHistory = Annotated[
    bool,
    typer.Option(
        "--no-history", help="Do not record this call in the output. Tests that compare files byte by byte need this."
    ),
]
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="NAME",
        help="Address at which the page is served. The default can be reached from this computer only; give this "
        "computer's network name to let others open the page too.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        "--port",
        metavar="N",
        min=1,
        max=65535,
        help="TCP port of the page. If it is in use, the next free port is taken.  [8042]",
    ),
]
NoBrowser = Annotated[
    bool, typer.Option("--no-browser", help="Only print the address of the page, and do not open a browser.")
]


def workers(
    context: typer.Context, jobs: int, scheduler: str | None, monitor: Monitor
) -> AbstractContextManager[int | Cluster]:
    """The processes of `--jobs`, or the cluster of `--scheduler`, for the length of a block.

    Raises:
        UsageError: both options were given, or there is no such scheduler.
    """
    given = context.get_parameter_source("jobs")
    if scheduler is not None and given is not None and given.name != "DEFAULT":
        raise UsageError("--scheduler", "takes the place of --jobs", "leave one of them out")
    return _workers(jobs, scheduler, monitor)


def not_for_a_shard(option: str) -> UsageError:
    """The error of an option that makes pictures or clouds, if `--shard` was given too."""
    remedy = "run `hpal export` when all parts are there"
    if option == "--pictures":
        remedy = "look at the whole store with `hpal view` or `hpal eval --pictures` when all parts are there"
    return UsageError(option, "is for all scenes at once, not for a shard", remedy)


def as_list(values: Sequence[str] | None) -> list[str]:
    """The values of an option that may be repeated, and may hold several values as in `a,b`."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def as_numbers(values: Sequence[str] | None, option: str) -> list[float]:
    """The numbers in the values of an option, read as `as_list` reads them.

    Raises:
        UsageError: one of the values is no number.
    """
    try:
        return [float(value) for value in as_list(values)]
    except ValueError as error:
        raise UsageError(
            option, f"{','.join(as_list(values))!r} holds something that is no number", "give 0.1,0.01,0.001"
        ) from error
