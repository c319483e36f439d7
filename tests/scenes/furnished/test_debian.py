"""Rooms with the models of Debian's package sweethome3d-furniture; skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation

pytest.importorskip("trimesh")
pytest.importorskip("embreex")

from spatialboost.scenes.furnished.catalogue import DEFAULT_PATH, read_catalogue
from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.place import Place, Thing
from spatialboost.scenes.furnished.source import render_place, sample_place
from spatialboost.scenes.furnished.tracing import Tracer

ONE = DEFAULT_PATH / "KatorLegaz.sh3f"  # 90 models: doors, windows, beds, lamps, vehicles, ...
pytestmark = pytest.mark.skipif(not ONE.is_file(), reason="Debian's package sweethome3d-furniture is not installed")
NUM = 20


@pytest.fixture(scope="module")
def places() -> list[tuple[Place, Cues]]:
    library = Library(read_catalogue(ONE))
    made = [sample_place(seed, library) for seed in range(NUM)]
    return [(place, render_place(place, (96, 96))[0]) for place in made]


def vertices(thing: Thing) -> np.ndarray:
    """The corners of a thing's triangles in the world, computed anew."""
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    local = thing.mesh.vertices_V3.astype(float) * (1, thing.flat, 1)
    return local @ turn.T + thing.position


def test_nothing_is_below_the_floor_or_outside_of_the_room(places):
    for place, _ in places:
        width, height, depth = place.size
        for thing in place.things:
            low, high = vertices(thing).min(0), vertices(thing).max(0)
            assert high[1] < 1e-4, f"{thing.use.noun} of seed {place.seed} is below the floor"
            if place.outdoors or thing.use.role in ("window", "door"):
                continue
            assert low[1] > -height - 1e-4 and max(-low[0], high[0]) < width / 2 + 1e-4
            assert max(-low[2], high[2]) < depth / 2 + 1e-4


def test_things_do_not_stand_in_each_other(places):
    count = 0
    for place, _ in places:
        solid = [t for t in place.things if t.on is None and t.use.role not in ("rug", "window", "door")]
        for k, a in enumerate(solid):
            for b in solid[:k]:
                count += 1
                assert not a.footprint(-0.004).overlaps(b.footprint(-0.004)), (place.seed, a.use.noun, b.use.noun)
    assert count > 100


def test_small_things_stand_on_what_is_below_them(places):
    count = 0
    for place, _ in places:
        for thing in place.things:
            if thing.on is None:
                continue
            below = place.things[thing.on]
            tracer = Tracer(vertices(below), below.mesh.faces_F3)
            corners = thing.footprint(-0.01).corners
            start = np.concatenate([np.insert(corners, 1, thing.position[1] - 0.02, axis=1), [thing.position]])
            start[-1, 1] -= 0.02
            hits = tracer.first(start, np.broadcast_to([0.0, 1.0, 0.0], start.shape))
            np.testing.assert_allclose(hits.t_N, 0.02, atol=0.015, err_msg=f"{place.seed} {thing.use.noun}")
            count += 1
    assert count > 10


def test_every_answer_is_true_and_every_object_has_a_name(places):
    turns = 0
    for place, view in places:
        assert len({thing.description for thing in view.objects}) == len(view.objects)
        assert all(thing.description.strip() for thing in view.objects)
        talk = build_conversation(view, seed=place.seed)
        assert check_conversation(talk.messages, talk.meta) == []
        assert check_against_cues(talk.messages, talk.meta, view) == []
        turns += len(talk.meta["turns"])
    assert turns > 9 * NUM
    assert np.mean([len(view.objects) for _, view in places]) > 3


def test_rooms_and_gardens_are_as_people_see_them(places):
    kinds = {place.kind for place, _ in places}
    assert len(kinds) >= 5 and any(place.outdoors for place, _ in places)
    for place, view in places:
        assert 1.2 <= -view.pose_44[1, 3] <= 1.8 and 50 <= place.fov <= 80
        assert 0.02 < view.image_HW3.mean() / 255 < 0.98 and view.image_HW3.std() > 8
        assert view.valid_HW.mean() > 0.4
        assert np.percentile(view.depth_HW[view.valid_HW], 10) > 0.3
