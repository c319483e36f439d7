from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from spatialboost.scenes.questions.layout import AXES, RELATIONS, compare_objects, measure_distance, measure_layout
from spatialboost.scenes.rooms.render import render_rooms
from tiny_cues import tiny_cues


def test_relations_are_opposite_when_the_objects_are_exchanged():
    layout = measure_layout(tiny_cues())
    for a, b in permutations(layout.objects, 2):
        for kind in RELATIONS:
            there, back = (compare_objects(kind, *pair, layout.box_m, 0.0) for pair in ((a, b), (b, a)))
            assert there == -back
        assert measure_distance(a, b, 0.0) == pytest.approx(measure_distance(b, a, 0.0))


def test_what_is_asked_of_rooms_is_true_of_the_things_in_them():
    """Compare the measured relations with the true centres and sizes of the rooms."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for view in render_rooms(range(100, 130), size=64):
        layout = measure_layout(view)
        made = {thing["description"]: thing for thing in view.facts["objects"]}
        to_camera = np.linalg.inv(view.pose_44)
        for a, b in permutations(layout.objects, 2):
            centre_a, centre_b = (to_camera @ [*made[fact.description]["centre"], 1.0] for fact in (a, b))
            for kind, axis in AXES.items():
                if compare_objects(kind, a, b, layout.box_m, 0.0) == 1:
                    total["place"] += 1
                    right["place"] += centre_a[axis] < centre_b[axis]
            if compare_objects("larger_smaller", a, b, layout.box_m, 0.0) == 1:
                sides_a, sides_b = (sorted(made[fact.description]["extent"]) for fact in (a, b))
                total["size"] += 1  # larger volume or larger largest face: one view cannot show more
                right["size"] += np.prod(sides_a) > np.prod(sides_b) or np.prod(sides_a[1:]) > np.prod(sides_b[1:])
    assert total["place"] > 300
    assert total["size"] > 75
    assert right["place"] / total["place"] > 0.98
    assert right["size"] / total["size"] > 0.93
