"""Where in the images of a conversation one of its questions points: its points, and the objects that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spatialboost.scenes.dataset.drawing import COLOURS, draw_box
from spatialboost.scenes.questions.meta import facts_of_views


def asked_marks(meta: Mapping[str, Any], turn: int) -> dict[int, dict[str, Any]]:
    """What a question asks about, by the number of the view.

    Example:
        >>> meta = {"size": [40, 60], "turns": [{"kind": "depth", "points": [[0.5, 0.25]], "depths": [1.234]}]}
        >>> asked_marks(meta, 0)
        {0: {'size': (60, 40), 'points': [{'name': '1', 'x': 30.0, 'y': 10.0, 'depth': 1.234}], 'objects': []}}

    Returns:
        View -> its ``size`` (width, height), ``points`` and ``objects`` in pixels. Views without a mark are left out.

    Raises:
        KeyError: the meta has no such facts, as that of other software; IndexError and TypeError likewise.
    """
    asked = meta["turns"][turn]
    views = facts_of_views(dict(meta))
    found: dict[int, dict[str, Any]] = {}

    def marks(view: int) -> dict[str, Any]:
        height, width = views[view]["size"]
        return found.setdefault(view, {"size": (width, height), "points": [], "objects": []})

    own = int(asked.get("view", 0))
    for number, (x, y) in enumerate(asked.get("points", ())):
        here = marks(own)
        width, height = here["size"]
        depth = asked["depths"][number] if number < len(asked.get("depths", ())) else None
        here["points"].append({"name": str(number + 1), "x": x * width, "y": y * height, "depth": depth})
    for place, number in enumerate(asked.get("objects", ())):
        view = asked["images"][place] if len(asked.get("images", ())) == len(asked["objects"]) else own
        facts = views[view]["objects"][number]
        here = marks(view)
        width, height = here["size"]
        here["objects"].append(
            {
                "name": facts["description"],
                "colour": COLOURS[place % len(COLOURS)],
                "x": facts["centre_xy"][0] * width,
                "y": facts["centre_xy"][1] * height,
                "box": draw_box(facts["extent_m"], np.asarray(views[view]["intrinsics"], np.float64)),
            }
        )
    return found
