from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.rooms.render import look, render_rooms, render_views, sample_room

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SEEDS = range(20)
APPEARANCE = [
    [118.639, 98.812, 102.323],
    [101.139, 93.626, 96.069],
    [144.806, 146.578, 131.894],
    [91.142, 81.418, 79.802],
]  # mean red, green, blue of the first rooms


@pytest.fixture(scope="module")
def views():
    return render_rooms(SEEDS, size=64)


def same(a, b) -> bool:
    return (
        np.array_equal(a.image_HW3, b.image_HW3)
        and np.array_equal(a.depth_HW, b.depth_HW)
        and [thing.description for thing in a.objects] == [thing.description for thing in b.objects]
        and all(np.array_equal(x.mask_HW, y.mask_HW) for x, y in zip(a.objects, b.objects, strict=True))
        and a.facts == b.facts
    )


def in_the_world(view):
    points = unproject(view.depth_HW.astype(np.float64), view.intrinsics_33)
    return points @ view.pose_44[:3, :3].T + view.pose_44[:3, 3]


@pytest.mark.parametrize("size", [32, (21, 37)])
@pytest.mark.parametrize("device", DEVICES)
def test_a_seed_is_a_room_whatever_the_batch(size, device):
    together = render_rooms(range(9), size=size, device=device)
    again = render_rooms([7, 3, 3], size=size, device=device)
    assert same(together[7], again[0])
    assert same(together[3], again[1])
    assert same(again[1], again[2])
    assert same(together[8], render_rooms([8], size=size, device=device)[0])
    assert not np.array_equal(together[7].image_HW3, together[3].image_HW3)


def test_what_rooms_look_like_has_not_changed():
    """The encoder in this package was pretrained on these images, so they must not change."""
    pictures = np.stack([view.image_HW3 for view in render_rooms(range(4), size=32)]).astype(float)
    np.testing.assert_allclose(pictures.mean((1, 2)), APPEARANCE, atol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_the_same_rooms(views):
    for here, there in zip(views, render_rooms(SEEDS, size=64, device="cuda"), strict=True):
        assert here.facts == there.facts
        apart = np.abs(here.depth_HW - there.depth_HW) > 1e-3
        assert apart.mean() < 0.002  # pixels at silhouettes
        difference = np.abs(here.image_HW3.astype(int) - there.image_HW3)
        assert np.percentile(difference, 99) <= 1


def test_every_pixel_lies_on_the_surface_that_it_shows(views):
    for seed, view in zip(SEEDS, views, strict=True):
        room, world = sample_room(seed), in_the_world(view)
        half = np.array(room.size) / 2
        off_the_sides = np.abs(half - np.abs(world + np.array([0, half[1], 0]))).min(-1)
        off = {thing.description: _off(thing, world) for thing in room.things}
        for thing in view.objects:
            assert off[thing.description][thing.mask_HW].max() < 1e-4
        nearest = np.minimum.reduce([off_the_sides, *off.values()])
        assert nearest.max() < 1e-4


def _off(thing, world):
    """Distance in metres from points to the surface of a thing; only valid for points close to it."""
    local = world - np.array(thing.centre)
    cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
    own = np.stack(
        [cos * local[..., 0] - sin * local[..., 2], local[..., 1], sin * local[..., 0] + cos * local[..., 2]], -1
    )
    radius, height, _ = thing.half
    if thing.shape == "sphere":
        return np.abs(np.linalg.norm(own, axis=-1) - radius)
    if thing.shape == "cylinder":
        return np.abs(np.maximum(np.hypot(own[..., 0], own[..., 2]) - radius, np.abs(own[..., 1]) - height))
    return np.abs((np.abs(own) - thing.half).max(-1))


def test_flat_surfaces_are_planes(views):
    """On a plane the inverse depth is linear in the pixel's coordinates."""
    for view in views:
        inverse = 1.0 / view.depth_HW.astype(np.float64)
        bend = np.abs(inverse[:, 2:] - 2 * inverse[:, 1:-1] + inverse[:, :-2])
        round_ = np.zeros(view.size, bool)
        for thing, fact in zip(view.objects, view.facts["objects"], strict=True):
            round_ |= thing.mask_HW & (fact["shape"] in ("sphere", "cylinder"))
        flat = ~(round_[:, 2:] | round_[:, 1:-1] | round_[:, :-2])
        assert (bend[flat] < 1e-6).mean() > 0.75  # the other pixels are on edges


def test_masks_are_disjoint_and_described_uniquely(views):
    for view in views:
        names = [thing.description for thing in view.objects]
        assert len(set(names)) == len(names)
        stacked = np.stack([thing.mask_HW for thing in view.objects])
        assert stacked.sum(0).max() <= 1
        assert stacked.mean((1, 2)).min() >= 0.003
        facts = {fact["description"]: fact for fact in view.facts["objects"]}
        assert list(facts) == names
        for name, fact in facts.items():
            assert fact["colour"] in name.split()
            assert fact["shape"] in name.split()


def test_facts_are_plain_json_and_true(views):
    for view in views:
        facts = json.loads(json.dumps(view.facts))
        assert facts == view.facts
        assert facts["number_of_objects"] == len(view.objects)
        world = in_the_world(view)
        extent = facts["room_size"]
        assert np.ptp(world[..., 1]) <= extent["height"] + 1e-3
        assert np.ptp(world[..., 0]) <= extent["width"] + 1e-3
        assert facts["camera_height"] == pytest.approx(-view.pose_44[1, 3], abs=1e-3)


def test_rooms_have_things_to_ask_about(views):
    assert np.mean([len(view.objects) for view in views]) > 3
    assert all(view.valid_HW.all() and view.depth_noise == 0.0 for view in views)


def test_things_stand_apart_in_the_room():
    for seed in range(60):
        room = sample_room(seed)
        floor = [thing for thing in room.things if thing.place == "floor"]
        for i, a in enumerate(floor):
            assert a.centre[1] == pytest.approx(-a.half[1])
            assert abs(a.centre[0]) < room.size[0] / 2
            for b in floor[:i]:
                assert np.hypot(a.centre[0] - b.centre[0], a.centre[2] - b.centre[2]) > max(a.half[0], b.half[0])


def test_views_of_one_room_agree():
    room = sample_room(3)
    x, y, z = room.pose_44[:3, 3]
    views = render_views(room, [room.pose_44, look((x + 0.2, y, z), yaw=0.1, pitch=0.15)], size=48)
    assert [view.source for view in views] == ["synthetic:3/view0", "synthetic:3/view1"]
    assert same(views[0], render_rooms([3], size=48)[0])
    for view in views:
        world = in_the_world(view)
        for thing in view.objects:
            model = next(t for t in room.things if t.description == thing.description)
            assert _off(model, world)[thing.mask_HW].max() < 1e-4


def test_a_level_camera_reads_the_distance_of_the_wall():
    room = sample_room(1)
    back = room.size[2] / 2
    view = render_views(room, [look((0, -room.size[1] + 0.3, back - 1.25), 0, 0)], size=33)[0]
    assert view.depth_HW[16, 16] == pytest.approx(1.25, abs=1e-5)


def test_mistakes():
    with pytest.raises(SpatialBoostError, match="seed is -1, expected"):
        render_rooms([-1])
    with pytest.raises(SpatialBoostError, match="size is 0, expected a positive edge"):
        render_rooms([1], size=0)
    with pytest.raises(
        SpatialBoostError, match=r"camera 0 is at \(0.00, -99.00, 0.00\), outside of the room of seed 2"
    ):
        render_views(sample_room(2), [look((0, -99, 0), 0, 0)])
    assert render_rooms([], size=8) == []


def test_rooms_by_number_are_the_rooms_of_the_seeds():
    rooms = Rooms(40, first=5, size=16)
    assert same(rooms[33], render_rooms([38], size=16)[0])
