from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.extract.naming import describe_objects, name_colour
from spatialboost.scenes.extract.segments import propose_objects
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms.render import render_rooms


@pytest.fixture(scope="module")
def views():
    return render_rooms(range(400, 420), size=96)


def iou(a, b) -> float:
    return (a.mask_HW & b.mask_HW).sum() / (a.mask_HW | b.mask_HW).sum()


def test_most_things_of_rooms_are_found_and_most_proposals_are_things(views):
    found, right, colours = [], [], []
    for view in views:
        proposals = propose_objects(view).objects
        large = [thing for thing in view.objects if thing.mask_HW.mean() > 0.015]
        found += [any(iou(thing, proposal) > 0.5 for proposal in proposals) for thing in large]
        for proposal in proposals:
            match = max(range(len(view.objects)), key=lambda i: iou(view.objects[i], proposal))
            right.append(iou(view.objects[match], proposal) > 0.5)
            if right[-1]:
                colours.append(view.facts["objects"][match]["colour"] in proposal.description.split())
    assert len(found) > 50
    assert np.mean(found) > 0.6
    assert np.mean(right) > 0.8
    assert np.mean(colours) > 0.75


def test_proposals_keep_what_is_promised(views):
    for view in views:
        proposed = propose_objects(view, max_objects=3)
        assert len(proposed.objects) <= 3
        assert proposed.image_HW3 is view.image_HW3
        names = [thing.description for thing in proposed.objects]
        assert len(set(names)) == len(names)
        if names:
            assert np.stack([thing.mask_HW for thing in proposed.objects]).sum(0).max() == 1
        for thing in proposed.objects:
            assert 0.008 <= thing.mask_HW.mean() < 0.42
            assert view.valid_HW[thing.mask_HW].mean() > 0.5


def test_the_same_view_gives_the_same_proposals(views):
    first, second = propose_objects(views[0]).objects, propose_objects(replace(views[0], objects=())).objects
    assert [thing.description for thing in first] == [thing.description for thing in second]
    assert all(np.array_equal(a.mask_HW, b.mask_HW) for a, b in zip(first, second, strict=True))


def box_before_a_wall(column: int, colour=(200, 30, 30)) -> Cues:
    depth = np.full((90, 120), 3.0, np.float32)
    image = np.full((90, 120, 3), 150, np.uint8)
    depth[30:60, column : column + 30] = 2.0
    image[30:60, column : column + 30] = colour
    return Cues(image, depth, np.array([[100.0, 0, 59.5], [0, 100.0, 44.5], [0, 0, 1]]), "hand-made")


@pytest.mark.parametrize(("column", "place"), [(6, "on the left"), (45, "in the middle"), (84, "on the right")])
def test_one_box_is_found_where_it_is(column, place):
    view = box_before_a_wall(column)
    (thing,) = propose_objects(view).objects
    assert thing.description == f"red object {place}"
    truth = view.depth_HW == 2.0
    assert (thing.mask_HW & truth).sum() > 0.85 * (thing.mask_HW | truth).sum()


def test_a_thing_without_depth_is_not_proposed():
    view = box_before_a_wall(45)
    depth = np.where(view.depth_HW == 2.0, 0.0, view.depth_HW)
    assert propose_objects(replace(view, depth_HW=depth, valid_HW=None)).objects == ()


def test_large_views_get_masks_of_their_own_size():
    view = box_before_a_wall(45)
    large = Cues(
        view.image_HW3.repeat(5, 0).repeat(5, 1),
        view.depth_HW.repeat(5, 0).repeat(5, 1),
        np.array([[500.0, 0, 299.5], [0, 500.0, 224.5], [0, 0, 1]]),
        "hand-made",
    )
    (thing,) = propose_objects(large).objects
    truth = large.depth_HW == 2.0
    assert thing.mask_HW.shape == (450, 600)
    assert (thing.mask_HW & truth).sum() > 0.9 * (thing.mask_HW | truth).sum()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 10_000))
def test_no_view_is_too_strange(height, width, hole_share, seed):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.2, 9, (height, width)).astype(np.float32)
    depth[rng.random((height, width)) < hole_share] = 0
    depth[0, 0] = 1.0
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    view = Cues(image, depth, np.array([[20.0, 0, width / 2], [0, 20.0, height / 2], [0, 0, 1]]), "noise")
    assert len(propose_objects(view).objects) <= 8


def test_things_that_sound_alike_get_finer_places_or_no_name():
    view = box_before_a_wall(45)
    masks = []
    for row in (2, 60, 64):
        mask = np.zeros(view.size, bool)
        mask[row : row + 20, 90:110] = True
        masks.append(mask)
    first, second, third = describe_objects(view, masks)
    assert (first[0], second[0], third) == ("grey object at the top right", "grey object at the bottom right", ())


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 30, 30), "red"),
        ((90, 20, 22), "red"),
        ((240, 130, 25), "orange"),
        ((115, 70, 35), "brown"),
        ((200, 180, 140), "beige"),
        ((235, 210, 40), "yellow"),
        ((40, 150, 50), "green"),
        ((40, 180, 195), "cyan"),
        ((40, 80, 190), "blue"),
        ((125, 40, 165), "purple"),
        ((240, 135, 180), "pink"),
        ((240, 240, 235), "white"),
        ((130, 130, 133), "grey"),
        ((20, 20, 22), "black"),
    ],
)
def test_colours_have_their_names(rgb, name):
    assert name_colour(np.array([rgb] * 3, np.uint8)) == name


def test_max_objects_must_be_positive(views):
    with pytest.raises(SpatialBoostError, match="max_objects is 0, expected at least one"):
        propose_objects(views[0], max_objects=0)


def test_real_frames_get_proposals(assets):
    frames = RGBDFolder(assets / "rgbd_room")
    proposals = [propose_objects(frames[i]).objects for i in (0, 34, 203, 338)]
    assert all(proposals)
    assert "beige" in " ".join(thing.description for thing in proposals[2] + proposals[3])  # the sofa
