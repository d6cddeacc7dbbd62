"""Merges several streams of scores: the parts of a job array, or scenes that were scored separately."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hpal_cli.errors import HpalError
from hpal_cli.stream.header import Header
from hpal_cli.stream.points import PointReader
from hpal_cli.stream.rows import Rows


def merged_header(readers: Sequence[PointReader]) -> Header:
    """The header of the merged streams, which has the scenes of all pools and each entry of the histories once.

    Raises:
        HpalError: the streams do not belong together, two have the same scene, or a part of a job array is missing.
    """
    first, others = readers[0], readers[1:]
    for reader in others:
        for what in ("kind", "scenes", "source", "strategy", "features", "unit", "dtype"):
            mine, theirs = getattr(first.header, what), getattr(reader.header, what)
            if mine != theirs:
                what = {"dtype": "columns"}.get(what, what)
                remedy = "score both in the same way" if what == "strategy" else "give scores of one store"
                raise HpalError(reader.subject, f"its {what} differs from that of {first.subject}", remedy)
    _require_all_parts(readers)
    pool = [scene for reader in readers for scene in reader.header.pool]
    numbers = Counter(scene.number for scene in pool)
    twice = {scene.name for scene in pool if numbers[scene.number] > 1}
    if others and twice:
        raise HpalError(
            readers[-1].subject, f"scene {min(twice)} comes in two streams", "give the points of each scene once"
        )
    history = list(first.header.history)
    for reader in others:
        history += [entry for entry in reader.header.history if entry not in history]
    return replace(
        first.header,
        pool=tuple(sorted(pool, key=lambda s: s.number)),
        history=tuple(history),
        count=sum(reader.header.count for reader in readers),
        shard=None,
    )


def scenes_of(readers: Sequence[PointReader]) -> Iterator[tuple[int, Rows, str]]:
    """Yields, scene by scene, the scene's number, its rows, and the name of the stream that they are from.

    Raises:
        HpalError: a scene comes twice, or a stream ends early.
    """
    seen: set[int] = set()
    for reader in readers:
        for number, rows in reader.by_scene():
            if number in seen:
                raise HpalError(
                    reader.subject,
                    f"scene {number} came in another stream already",
                    "give the points of each scene once",
                )
            seen.add(number)
            yield number, rows, str(reader.subject)


def _require_all_parts(readers: Sequence[PointReader]) -> None:
    parts = [reader.header.shard for reader in readers]
    if all(part is None for part in parts):
        return
    total = next(part[1] for part in parts if part is not None)
    have = sorted(part[0] for part in parts if part is not None and part[1] == total)
    if len(have) == len(parts) and have == list(range(1, total + 1)):
        sizes = [len(r.header.pool) for r in sorted(readers, key=lambda r: r.header.shard or (0, 0))]
        # Scenes are assigned to the parts in turn, so that the first parts may have one more than the last.
        if sizes != sorted(sizes, reverse=True) or sizes[0] - sizes[-1] > 1:
            counts = " and ".join(map(str, sizes))
            raise HpalError(
                readers[0].subject, f"these parts of {counts} scenes are not of one pool", "score all with one --split"
            )
        return
    subject = next(r.subject for r, part in zip(readers, parts, strict=True) if part is not None)
    raise HpalError(
        subject,
        f"is one of {total} parts; here {'is' if len(have) == 1 else 'are'} {', '.join(map(str, have))}",
        f"give the scores of all {total} parts once, or score everything in one run with --shard 1/1",
    )
