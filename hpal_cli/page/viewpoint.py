"""Chooses the viewpoint from which a query is shown, in a scene of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpal_cli.export.views import two_views
from hpal_cli.page.cloud import DrawnCloud

MAX_POINTS = 6_000
"""Points around a query with which its view is chosen, at most. More would take too long for a person who waits."""


def best_view(cloud: DrawnCloud, place: NDArray[np.floating]) -> NDArray[np.float64]:
    """(3,) unit vector from a place (3,), in metres, towards the camera that sees it best (`export.views.two_views`).

    All lengths are divided by the scene's reach, since the views are designed for rooms, in which the reach is 1 m.
    """
    near = cloud.around(place, 1.5 * cloud.reach)
    every = 1 + len(near) // MAX_POINTS
    local = (near[::every] - place) / cloud.reach
    if not len(local):
        return np.array([0.0, -0.8, 0.6])
    floor, top = (cloud.floor - place[2]) / cloud.reach, (cloud.top - place[2]) / cloud.reach
    # If only every k-th point of a surface is taken, neighbours are sqrt(k) times as far apart.
    step = cloud.step * np.sqrt(every) / cloud.reach
    return two_views(local, step=step, reach=1.0, floor=floor, top=top, roof=cloud.roof)[0].toward
