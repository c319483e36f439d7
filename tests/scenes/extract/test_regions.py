from __future__ import annotations

import numpy as np
import pytest

from spatialboost.scenes.extract.naming import name_objects
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.extract.regions import Region, objects_of, settle_regions

SIZE = (40, 60)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


BODY, SHIRT = rectangle(5, 10, 35, 30), rectangle(10, 12, 20, 28)


def depth(shirt: float, body: float = 3.0) -> np.ndarray:
    found = np.full(SIZE, 6.0)
    found[BODY], found[SHIRT] = body, shirt
    return found


def test_without_depth_the_smaller_one_is_in_front():
    body, shirt = settle_regions([Region(BODY, 0.8), Region(SHIRT, 0.9)])
    assert np.array_equal(body.mask_HW, BODY & ~SHIRT)
    assert np.array_equal(shirt.mask_HW, SHIRT)


def test_with_depth_a_part_is_dropped_and_a_thing_in_front_is_cut_out():
    (whole,) = settle_regions([Region(SHIRT, 0.9), Region(BODY, 0.8)], depth(shirt=3.0))
    assert np.array_equal(whole.mask_HW, BODY)
    body, box = settle_regions([Region(SHIRT, 0.9), Region(BODY, 0.8)], depth(shirt=2.0))
    assert np.array_equal(body.mask_HW, BODY & ~SHIRT)
    assert np.array_equal(box.mask_HW, SHIRT)


@pytest.mark.parametrize(("shared", "winner"), [(2.0, "large"), (4.0, "small")])
def test_a_shared_strip_goes_to_the_one_whose_depth_it_has(shared, winner):
    large, small = rectangle(5, 5, 35, 30), rectangle(10, 25, 30, 45)
    metres = np.full(SIZE, 9.0)
    metres[large], metres[small] = 2.0, 4.0
    metres[large & small] = shared
    masks = [region.mask_HW for region in settle_regions([Region(large, 0.9), Region(small, 0.9)], metres)]
    strip = large & small
    assert (masks[0] & strip).any() == (winner == "large")
    assert (masks[1] & strip).any() == (winner == "small")
    assert not (masks[0] & masks[1]).any()


def test_what_is_empty_tiny_huge_or_without_a_score_is_dropped():
    bad = [
        Region(np.zeros(SIZE, bool), 0.9),
        Region(rectangle(0, 0, 2, 2), 0.9),
        Region(np.ones(SIZE, bool), 0.9),
        Region(rectangle(0, 40, 10, 50), float("nan")),
    ]
    assert settle_regions(bad) == []
    assert len(settle_regions([*bad, Region(BODY, 0.5)])) == 1


def test_two_masks_of_one_thing_are_one_and_the_better_stays():
    almost = rectangle(6, 10, 35, 30)
    (only,) = settle_regions([Region(BODY, 0.6, "man"), Region(almost, 0.7, "person")])
    assert only.name == "person"


def test_at_most_so_many_and_the_large_and_sure_ones_first():
    tiles = [Region(rectangle(0, 10 * i, 10 + 4 * i, 10 * i + 8), 0.9) for i in range(5)]
    found = settle_regions(tiles, max_objects=3)
    assert [int(region.mask_HW.sum()) for region in found] == [26 * 8, 22 * 8, 18 * 8]


def test_depth_of_a_view_without_readings_changes_nothing():
    image = np.full((*SIZE, 3), 200, np.uint8)
    view = PartialCues(image, "x", depth_HW=np.zeros(SIZE, np.float32))
    regions = [Region(BODY, 0.8, "person"), Region(SHIRT, 0.9, "shirt")]
    assert [thing.description for thing in objects_of(view, regions)] == ["person", "shirt"]


def test_names_are_unique_and_things_that_cannot_be_told_apart_have_none():
    image = np.full((*SIZE, 3), 120, np.uint8)
    image[:, 50:] = 200, 20, 30
    regions = [
        (rectangle(0, 0, 10, 10), "chair"),
        (rectangle(0, 50, 10, 60), "chair"),
        (rectangle(15, 0, 25, 8), "table"),
        (rectangle(30, 22, 34, 30), "cup"),
        (rectangle(35, 22, 39, 30), "cup"),
        (rectangle(15, 50, 25, 60), ""),
    ]
    found = name_objects(image, regions)
    assert [thing.description for thing in found] == ["grey chair", "red chair", "table", "red object"]


def test_a_named_thing_at_the_same_depth_is_no_part():
    regions = [Region(BODY, 0.8, "person"), Region(SHIRT, 0.9, "phone")]
    assert [region.name for region in settle_regions(regions, depth(shirt=3.0))] == ["person", "phone"]
    assert len(settle_regions([regions[0], Region(SHIRT, 0.9, "person")], depth(shirt=3.0))) == 1
