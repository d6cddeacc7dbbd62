"""Checks the version of the specification that a store or a checkpoint was written to (docs/formats.md, section 8)."""

from __future__ import annotations

from pathlib import Path

from hpal_cli.errors import HpalError


def check_specification(path: Path, spec: object, newest: int) -> None:
    """Checks that hpal can read the file at `path`, which says that it is written to the version `spec`. `newest` is
    the newest version that hpal knows.

    Raises:
        HpalError: the version is no whole number from 1, or newer than `newest`.
    """
    if isinstance(spec, bool) or not isinstance(spec, int) or spec < 1:
        raise HpalError(path, f"says that its specification is {spec!r}, which is no version", "make it again")
    if spec > newest:
        raise HpalError(
            path, f"is written to specification {spec}, this hpal reads up to {newest}", "install a newer hpal"
        )
