"""Options that mean the same in every command, spelled once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpal_cli.commands import words
from hpal_cli.errors import UsageError

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more: every scene, every step.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Repeat the same random draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print a report for programs as JSON.")]
Jobs = Annotated[
    int,
    typer.Option("--jobs", min=1, metavar="N", help="Processes to share the scenes; the output is the same."),
]
Backend = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="torch, minkowski, or auto: the fastest of what is installed.")
]
Precision = Annotated[
    str, typer.Option("--precision", metavar="NAME", help="fp32; bf16: factors rounded, sums in fp32; tf32: on a GPU.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Color = Annotated[str, typer.Option("--color", metavar="HOW", help="rgb as scanned, class, or auto.")]
Uncompressed = Annotated[
    bool, typer.Option("--uncompressed", help="Write LAS for files that were LAZ, which else stay LAZ.")
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Also draw each scene from above and from a corner, as scanned and by class, as PNG."
    ),
]
PictureJobs = Annotated[
    int, typer.Option("--jobs", min=1, metavar="N", help="Processes that draw pictures; the output is the same.")
]
Scenes = Annotated[
    list[str] | None,
    typer.Option("--scenes", metavar="GLOB", help="Only scenes of these names.", autocompletion=words.scenes),
]
Answered = Annotated[
    Path | None, typer.Option("--labels", metavar="STORE", help="Leave out what this store has an answer for.")
]
NoHistory = Annotated[bool, typer.Option("--no-history", help="Write no history, for bytes that tests can compare.")]
Host = Annotated[
    str,
    typer.Option("--host", metavar="NAME", help="Whose address the page has; others can reach it if not this one's."),
]
Port = Annotated[
    int | None,
    typer.Option("--port", metavar="N", min=1, max=65535, help="Where the page is, or the next free one.  [8042]"),
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the address and open no browser.")]


def as_list(values: Sequence[str] | None) -> list[str]:
    """`a,b` and repeated options alike."""
    return [part.strip() for value in values or () for part in value.split(",") if part.strip()]


def as_numbers(values: Sequence[str] | None, option: str) -> list[float]:
    """A list of numbers.

    Raises:
        UsageError: something else.
    """
    try:
        return [float(value) for value in as_list(values)]
    except ValueError as error:
        raise UsageError(
            option, f"{','.join(as_list(values))!r} holds something that is no number", "give 0.1,0.01,0.001"
        ) from error
