"""Assigns scenes to the splits for validation and test, by patterns of their names."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from hpal_cli.errors import UsageError
from hpal_cli.progress import Monitor
from hpal_cli.store.remote import located


def splits(names: Sequence[str], val: Sequence[str], test: Sequence[str], monitor: Monitor) -> dict[str, str]:
    """The split of each name: `train` unless a pattern of `val` or `test` matches it.

    A pattern `@file` stands for the lines of a file. Not all of them need to match, because official lists also name
    scenes that a user may not have.

    Raises:
        UsageError: a pattern, or all lines of a file, match no name; or a name is in both splits.
    """
    split = dict.fromkeys(names, "train")
    for which, patterns in (("val", val), ("test", test)):
        option = f"--{which}"
        for pattern in patterns:
            listed = _listed(pattern[1:], option) if pattern.startswith("@") else [pattern]
            matching = {one: [name for name in names if fnmatch.fnmatchcase(name, one)] for one in listed}
            found = [name for some in matching.values() for name in some]
            absent = [one for one, some in matching.items() if not some]
            if not found:
                some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
                raise UsageError(option, f"{pattern!r} matches no scene", f"the scenes are {some}")
            if absent:
                monitor.note(f"{option} {pattern}: {len(absent):,} of its {len(listed):,} scenes are not here")
            for name in found:
                if split[name] not in ("train", which):
                    raise UsageError(
                        option, f"{name} is in --val and in --test", "give patterns that have no scene in common"
                    )
                split[name] = which
    used = set(split.values())
    if used and "train" not in used:
        # A store for prediction or tests needs no scene to train on, but `--val '*'` may also be a mistake.
        options = " and ".join(f"--{which}" for which in ("val", "test") if which in used)
        monitor.warn(f"no scene is left to train on; let {options} match fewer, unless you only predict or test")
    return split


def _listed(path: str, option: str) -> list[str]:
    try:
        lines = located(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(option, f"{path} cannot be read ({error})", "give a text file of scene names") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
