"""Writes the page with all its queries as one file, for a person who does not have hpal. The page saves a table that
`hpal label --from` reads."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpal_cli.page.api import local_position, query_json, query_view, scene_json
from hpal_cli.page.cloud import DrawnCloud
from hpal_cli.page.label import Asked
from hpal_cli.page.server import FILES, import_map, read_file
from hpal_cli.progress import Monitor, Silent
from hpal_cli.store.files import atomic_write

MAX_TEXT_BYTES = 22_000_000
"""Bytes of points, as text, in a page, at most. The whole page is then smaller than about 25 MB."""

POINT_BYTES = 12
"""Bytes of a point as text: three numbers of 16 bits and three bytes of colour, which base64 makes a third longer."""


def write_page(
    asked: Asked, path: Path, *, title: str = "", overwrite: bool = False, monitor: Monitor | None = None
) -> int:
    """Writes the page and returns its size in bytes. It has all points around each query, if they fit, and some of the
    other points of the scenes. Positions are rounded to a 65,535th of the scene's size.

    Raises:
        HpalError: the file exists and may not be replaced, or a scene cannot be read.
    """
    monitor = monitor or Silent()
    numbers = list(dict.fromkeys(query.scene for query in asked.found))
    scenes, queries = [], []
    budget = MAX_TEXT_BYTES // POINT_BYTES // len(numbers)
    with monitor.task("packing", len(numbers)) as task:
        for number in numbers:
            name = asked.store.table[number].name
            # One scene at a time is in memory, beside the packed points of the others.
            cloud = DrawnCloud(asked.source(number))
            mine = [(n, query) for n, query in enumerate(asked.found) if query.scene == number]
            places = np.array([local_position(cloud, query.position) for _, query in mine])
            for n, query in mine:
                region = cloud.xyz[cloud.place_of[query.points]] if len(query.points) > 1 else None
                queries.append(
                    {
                        **query_json(n, query, cloud, name, asked.store.classes.names, query_view(cloud, query)),
                        "position": query.position.tolist(),
                        "region": None if region is None else _text(region.astype("<f4")),
                    }
                )
            scenes.append({**scene_json(number, name, cloud), "marks": [], **_packed(cloud, places, budget)})
            task.advance(1, name)
    classes = asked.store.classes
    data: dict[str, Any] = {
        "title": title,
        "id": hashlib.sha256(
            json.dumps([asked.store.table.id, [[q.scene, q.index] for q in asked.found]]).encode()
        ).hexdigest()[:16],
        "file": path.with_suffix(".csv").name,
        "classes": [{"name": c.name, "color": list(c.color)} for c in classes],
        "scenes": scenes,
        "queries": sorted(queries, key=lambda query: query["id"]),
    }
    page = _page(json.dumps(data, separators=(",", ":")))
    with atomic_write(path, overwrite=overwrite) as partial:
        partial.write_bytes(page)
    return len(page)


def _packed(cloud: DrawnCloud, queries: NDArray[np.float64], budget: int) -> dict[str, Any]:
    """As many points of a scene as fit, with their tiles. queries: (Q, 3) positions of the queries in metres; budget:
    number of points."""
    keep = np.zeros(len(cloud), bool)
    for tile in cloud.tiles:
        whole = slice(tile.first, tile.first + tile.count)
        for place in queries:
            if tile.is_near(place, cloud.reach):
                keep[whole] |= (np.abs(cloud.xyz[whole] - place) <= cloud.reach).all(axis=1)
    near = int(keep.sum())
    # The points of a tile are shuffled, so that its first points are an even sample.
    share = min(1.0, 0.5 * budget / len(cloud)) if near > 0.5 * budget else (budget - near) / len(cloud)
    full = min(1.0, 0.5 * budget / max(near, 1)) if near > 0.5 * budget else 1.0
    tiles, kept = [], []
    for tile in cloud.tiles:
        mine = keep[tile.first : tile.first + tile.count].copy()
        mine[int(np.ceil(full * tile.count)) :] = False
        mine[: max(1, int(min(1.0, share) * tile.count))] = True
        kept.append(tile.first + np.flatnonzero(mine))
        tiles.append([int(mine.sum()), *map(float, tile.low), *map(float, tile.high)])
    rows = np.concatenate(kept)
    low, high = cloud.xyz.min(axis=0).astype(np.float64), cloud.xyz.max(axis=0).astype(np.float64)
    step = np.maximum(high - low, 1e-6) / 65535
    packed: dict[str, Any] = {
        "points": len(rows),
        "tiles": tiles,
        "low": low.tolist(),
        "size": step.tolist(),
        "xyz": _text(np.rint((cloud.xyz[rows] - low) / step).astype("<u2")),
        "columns": [],
    }
    if "rgb" in cloud.columns:
        packed |= {"columns": [{"name": "rgb", "kind": "rgb"}], "rgb": _text(cloud.column("rgb")[rows])}
    elif "intensity" in cloud.columns:
        values = cloud.column("intensity")[rows].astype(np.float64)
        least, most = np.percentile(values, [1, 99])
        bytes_of = np.rint(255 * np.clip((values - least) / max(most - least, 1e-9), 0, 1)).astype(np.uint8)
        column = {"name": "intensity", "kind": "number", "low": 0, "high": 255}
        packed |= {"columns": [column], "intensity": _text(bytes_of)}
    return packed


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _page(data: str) -> bytes:
    # All modules are in the file, so the tags that load them early are removed.
    preload = re.compile(r'<link rel="modulepreload" [^>]*>\n|<script type="module" src="/files/remote.js"></script>\n')
    page = preload.sub("", read_file("index.html").decode())
    modules = {name: read_file(name) for name in (*FILES, "offline.js") if name.endswith(".js")}
    where = json.loads(import_map(page))["imports"]
    where = {**where, "hpal/remote": "/files/offline.js", "hpal/page": "/files/page.js"}
    inside = json.dumps(
        {
            "imports": {
                name: "data:text/javascript;base64," + base64.b64encode(modules[file.rpartition("/")[2]]).decode()
                for name, file in where.items()
            }
        }
    )
    begin, style = 'import "hpal/page";', read_file("page.css").decode()
    # The page can send nothing, and runs no other script than its own.
    policy = (
        f"default-src 'none'; script-src data: {_digest(inside)} {_digest(begin)}; style-src {_digest(style)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    # Without a `<`, no name in the data can end the element that holds it.
    data = data.replace("<", "\\u003c")
    replaced = {
        '<link rel="stylesheet" href="/files/page.css">': f"<style>{style}</style>",
        import_map(page): inside,
        '<script type="module" src="/files/page.js"></script>': f'<script type="module">{begin}</script>',
        '<meta charset="utf-8">': f'<meta charset="utf-8">\n{meta}',
        "</body>": f'<script type="application/json" id="data">{data}</script>\n</body>',
    }
    for old, new in replaced.items():
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    return page.encode()


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
