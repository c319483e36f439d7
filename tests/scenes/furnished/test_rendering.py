from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.rooms.room import look
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.source_registry import SourceOptions, open_source
from tiny_furniture import TABLE, box_depth, entry, write_catalogue

pytest.importorskip("trimesh")
pytest.importorskip("embreex")

from spatialboost.scenes.furnished import Furnished
from spatialboost.scenes.furnished.catalogue import read_catalogue
from spatialboost.scenes.furnished.library import Library
from spatialboost.scenes.furnished.patterns import sample_surface
from spatialboost.scenes.furnished.place import Footprint, Lamp, Opening, Place, Thing
from spatialboost.scenes.furnished.placing import Plan
from spatialboost.scenes.furnished.source import render_place, sample_place
from spatialboost.scenes.questions.conversation import build_conversation

SIZE = (72, 96)


@pytest.fixture(scope="module")
def catalogue_file(tmp_path_factory):
    return write_catalogue(tmp_path_factory.mktemp("furniture") / "mine.sh3f")


@pytest.fixture(scope="module")
def library(catalogue_file):
    return Library(read_catalogue(catalogue_file))


def thing(library: Library, role: str, position, yaw: float = 0.0, **more) -> Thing:
    use = library.uses[role][0]
    return Thing(use, library.mesh(use), position, yaw, **more)


def room(*things: Thing, pose=None, openings=()) -> Place:
    rng = np.random.default_rng(0)
    return Place(
        seed=0,
        kind="room",
        size=(5.0, 2.5, 6.0),
        surfaces=(sample_surface(rng, ("paint",)),) * 6,
        things=things,
        openings=openings,
        lamps=(Lamp((0.0, -2.4, 0.0), (0.2, 0.0, 0.2), (1.5, 1.5, 1.5)),),
        ambient=0.4,
        sky=((0.5, 0.7, 1.0), (0.9, 0.9, 1.0)),
        poses=(look((0.2, -1.5, -2.5), 0.1, 0.3) if pose is None else pose,),
        fov=70.0,
    )


def rays_of(view) -> tuple[np.ndarray, np.ndarray]:
    """The camera's position, and the world direction of each pixel with z = 1 in the camera's frame."""
    v, u = np.mgrid[: view.size[0], : view.size[1]]
    local = np.stack([u, v, np.ones(view.size)], -1) @ np.linalg.inv(view.intrinsics_33).T
    return view.pose_44[:3, 3], local @ view.pose_44[:3, :3].T


def test_depth_and_masks_are_those_of_the_true_boxes(library):
    """Two boxes of known size in a room, one of them turned by a right angle, against a slab test of our own."""
    chair = thing(library, "chair", (-0.7, 0.0, 0.4))  # 0.45 x 0.90 x 0.45
    sofa = thing(library, "sofa", (1.0, 0.0, 1.5), np.pi / 2)  # 1.80 x 0.80 x 0.90
    [view] = render_place(room(chair, sofa), SIZE)
    eye, rays = rays_of(view)
    depths = [
        box_depth(eye, rays, np.array([-2.5, -2.5, -3.0]), np.array([2.5, 0.0, 3.0]), inner=True),
        box_depth(eye, rays, np.array([-0.925, -0.9, 0.175]), np.array([-0.475, 0.0, 0.625]), inner=False),
        box_depth(eye, rays, np.array([0.55, -0.8, 0.6]), np.array([1.45, 0.0, 2.4]), inner=False),
    ]
    nearest = np.argmin(depths, 0)
    np.testing.assert_allclose(view.depth_HW, np.min(depths, 0), rtol=2e-5)
    masks = {found.description: found.mask_HW for found in view.objects}
    assert masks.keys() == {"chair", "sofa"}
    assert (masks["chair"] == (nearest == 1)).all() and masks["chair"].sum() > 100
    assert (masks["sofa"] == (nearest == 2)).all() and masks["sofa"].sum() > 100
    assert view.valid_HW.all()


def test_textures_and_shadows_are_where_they_belong(library):
    """The front of the box is red on its left half and blue on its right half; what a lamp cannot reach is darker."""
    sofa = thing(library, "sofa", (0.0, 0.0, 1.0))
    [view] = render_place(room(sofa, pose=look((0.0, -0.9, -2.5), 0.0, 0.1)), SIZE)
    front = view.objects[0].mask_HW & (np.abs(view.depth_HW - 3.05) < 0.25)
    left, right = (view.image_HW3[front & (np.arange(SIZE[1]) // (SIZE[1] // 2) == half)].mean(0) for half in (0, 1))
    assert left[0] > 3 * left[2] and right[2] > 3 * right[0]
    above = look((0.0, -2.3, 0.0), 0.0, np.pi / 2 - 0.01)
    aside = (Lamp((2.0, -1.8, 0.0), (0.05, 0.0, 0.05), (1.5, 1.5, 1.5)),)
    [empty] = render_place(replace(room(pose=above), lamps=aside), SIZE)
    [full] = render_place(replace(room(thing(library, "table", (0, 0, 0)), pose=above), lamps=aside), SIZE)
    eye, rays = rays_of(full)
    floor = full.depth_HW > 2.2
    change = full.image_HW3.mean(-1) / empty.image_HW3.mean(-1)
    at_x = eye[0] + full.depth_HW * rays[..., 0]
    shadow = floor & (at_x < -0.75) & (at_x > -0.95) & (np.abs(eye[2] + full.depth_HW * rays[..., 2]) < 0.35)
    assert shadow.sum() > 15 and change[shadow].mean() < 0.8
    assert change[floor & (at_x > 0.9)].mean() > 0.97


def test_a_hole_in_a_wall_shows_the_sky_without_a_reading(library):
    window = Opening(5, (-0.5, 0.5), (0.8, 1.8))
    [view] = render_place(room(thing(library, "chair", (1.5, 0, 0)), openings=(window,)), SIZE)
    eye, rays = rays_of(view)
    wall = (3.0 - eye[2]) / rays[..., 2]
    at = eye + wall[..., None] * rays
    hole = (np.abs(at[..., 0]) < 0.5) & (at[..., 1] < -0.8) & (at[..., 1] > -1.8) & (wall > 0)
    assert hole.sum() > 50
    assert (~view.valid_HW == hole).mean() > 0.999
    assert np.isnan(view.depth_HW[hole]).mean() > 0.98


def test_small_things_stand_on_the_true_top(library):
    """The table's plate is at 75 cm and has legs on two corners: nothing stands on its legs or in the air."""
    plan = Plan(library, np.random.default_rng(1), (5.0, 2.5, 6.0))
    table = plan.stand((library.uses["table"][0], library.mesh(library.uses["table"][0])), 0.5, 0.2, 0.7)
    vase = library.uses["clutter"][0]
    taken: dict = {}
    placed = [plan.put_on((vase, library.mesh(vase)), table, taken) for _ in range(6)]
    spots = [plan.things[number] for number in placed if number is not None]
    assert len(spots) >= 3
    for spot in spots:
        assert spot.position[1] == pytest.approx(-0.75, abs=1e-5)
        assert plan.things[spot.on].use.noun == "table"
        inner = Footprint(0.5, 0.2, 0.6, 0.4, 0.7)
        local = (spot.footprint().corners - (0.5, 0.2)) @ np.array(
            [[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]]
        )
        assert (np.abs(local) < (inner.half_x, inner.half_z)).all()
    for a in spots:
        assert not any(a is not b and a.footprint().overlaps(b.footprint()) for b in spots)


def test_the_same_seed_gives_the_same_pixels_in_any_order(catalogue_file):
    first, second = Furnished(4, catalogue_file, size=48), Furnished(2, catalogue_file, first=2, size=48)
    third = pickle.loads(pickle.dumps(Furnished(4, catalogue_file, size=48)))
    third[0], second[1]
    for view, again in ((first[2], second[0]), (first[3], third[3])):
        np.testing.assert_array_equal(view.image_HW3, again.image_HW3)
        np.testing.assert_array_equal(view.depth_HW, again.depth_HW)
        assert [found.description for found in view.objects] == [found.description for found in again.objects]
    assert first[2].image_HW3.std() > 10
    assert (first[2].image_HW3 != first[3].image_HW3).any()


def test_several_views_are_a_path_with_the_same_names(catalogue_file):
    scene = Furnished(2, catalogue_file, size=48, views=4)[1]
    assert isinstance(scene, Scene)
    steps = np.diff([view.pose_44[:3, 3] for view in scene.views], axis=0)
    assert (np.linalg.norm(steps, axis=1) < 0.7).all() and np.linalg.norm(steps, axis=1).max() > 0.2
    assert [view.source for view in scene.views] == ["furnished:1", *(f"furnished:1/view{k}" for k in (1, 2, 3))]
    np.testing.assert_array_equal(scene.views[0].depth_HW, Furnished(2, catalogue_file, size=48)[1].depth_HW)
    for view in scene.views:
        height, forward = -view.pose_44[1, 3], view.pose_44[:3, 2]
        assert 1.2 <= height <= 1.8
        assert -1e-9 <= np.degrees(np.arcsin(forward[1])) <= 25.01  # downwards


def test_name_and_provenance_tell_the_catalogue_and_its_authors(catalogue_file):
    source = open_source("furnished", SourceOptions(path=catalogue_file, num=3, first=5, size=32))
    assert source.name == f"furnished {source.catalogue.hash} 5-7 32 px"
    assert source.provenance["authors"][0] == {"creator": "Bo", "licence": "CC0 for tests", "models": 3}
    models = source[0].facts["models"]
    assert {model["licence"] for model in models} == {"CC0 for tests"}
    assert all(model["file"].startswith("mine.sh3f/models/") for model in models)


def test_a_broken_model_is_left_out_and_named_and_the_room_is_made(tmp_path):
    lines = [
        entry(1, "Chair", "/models/bad.obj"),
        entry(2, "Stool", "/models/box.obj"),
        entry(3, "Crate", "/models/box.obj"),
    ]
    path = write_catalogue(tmp_path / "a.sh3f", lines, {"models/bad.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"})
    source = Furnished(12, path, size=24)
    nouns = {fact["noun"] for view in source for fact in view.facts["objects"]}
    assert nouns <= {"stool", "crate"} and nouns
    assert list(source.provenance["skipped"]) == ["a.sh3f/models/bad.obj"]


def test_a_catalogue_of_plugs_only_says_what_is_missing(tmp_path):
    path = write_catalogue(tmp_path / "a.sh3f", [entry(1, "Wall socket", "/models/box.obj")])
    with pytest.raises(SpatialBoostError, match=r"none of the 1 models .* is furniture"):
        Furnished(1, path)
    for wrong in ({"num": 0}, {"num": 1, "first": -1}, {"num": 1, "views": 0}, {"num": 1, "size": 0}):
        with pytest.raises(SpatialBoostError, match="expected at"):
            Furnished(path=path, **wrong)


def test_a_small_catalogue_gives_conversations(catalogue_file):
    source = Furnished(6, catalogue_file, size=96)
    talk = build_conversation(source[3], seed=0)
    assert len(talk.meta["turns"]) >= 6


def test_equal_things_are_told_apart_or_have_no_name(library):
    """Three equal chairs: by their order in one image; with two images there is no description that fits both."""
    chairs = [thing(library, "chair", (x, 0.0, 0.9)) for x in (-1.6, -0.5, 1.4)]
    place = room(*chairs, thing(library, "sofa", (1.6, 0.0, 2.0)), pose=look((0.0, -1.5, -2.5), 0.0, 0.2))
    [view] = render_place(place, SIZE)
    names = {found.description: np.argwhere(found.mask_HW)[:, 1].mean() for found in view.objects}
    assert names.keys() == {"leftmost chair", "middle chair", "chair next to the sofa", "sofa"}
    assert names["leftmost chair"] < names["middle chair"] < names["chair next to the sofa"]
    both = render_place(replace(place, poses=place.poses * 2), SIZE)
    assert [[found.description for found in view.objects] for view in both] == [["chair next to the sofa", "sofa"]] * 2


def test_a_turned_footprint_overlaps_what_it_touches():
    square = Footprint(0, 0, 1, 1, 0.0)
    assert square.overlaps(Footprint(1.9, 0, 1, 1, 0.0)) and not square.overlaps(Footprint(2.01, 0, 1, 1, 0.0))
    assert square.overlaps(Footprint(2.3, 0, 1, 1, np.pi / 4)) and not square.overlaps(
        Footprint(2.5, 0, 1, 1, np.pi / 4)
    )
    assert not square.overlaps(replace(square, low=2.0, high=3.0))


def test_trees_of_a_table_only_catalogue_are_not_needed(tmp_path):
    path = write_catalogue(
        tmp_path / "t.sh3f",
        [entry(1, "Tree", "/models/t.obj", (300, 400, 300), category="Exterior")],
        {"models/t.obj": TABLE.encode()},
    )
    place = sample_place(0, Library(read_catalogue(path)))
    assert place.outdoors
