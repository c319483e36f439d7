from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import ExifTags

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import unproject
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.focal import FocalLength, exif_focal, make_intrinsics, unify_focal, with_one_focal
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from tiny_cues import tiny_cues

TAG = ExifTags.Base


def test_focal_lengths_as_users_give_them():
    size = (300, 400)
    assert FocalLength.parse("200px").pixels(size) == 200
    assert FocalLength.parse("90deg").pixels(size) == pytest.approx(200)
    assert FocalLength.parse(" 43.2666 mm ").pixels(size) == pytest.approx(500, rel=1e-5)  # as long as the diagonal
    assert str(FocalLength.parse("26.50mm")) == "26.5mm"
    for wrong in ("60", "px", "-3px", "1e3px", "60 degrees", "", "nan deg"):
        with pytest.raises(SpatialBoostError, match="expected a length in pixels"):
            FocalLength.parse(wrong)
    for wrong in ("180deg", "0.5deg", "0px", "1mm", "5000mm"):
        with pytest.raises(SpatialBoostError, match=r"focal is '.*'; expected .* to"):
            FocalLength.parse(wrong)


def test_exif_says_the_focal_length_in_two_ways():
    whole = {TAG.ExifImageWidth: 4000, TAG.ExifImageHeight: 3000}
    film = {TAG.FocalLengthIn35mmFilm: 26}
    expected = 26 / np.hypot(36, 24) * np.hypot(300, 400)
    assert exif_focal({**whole, **film}, (300, 400)) == pytest.approx(expected)
    assert exif_focal(film, (300, 400)) == pytest.approx(expected)
    assert exif_focal({**whole, **film}, (400, 300)) == pytest.approx(expected)  # stored turned
    sensor = {TAG.FocalLength: 18.0, TAG.FocalPlaneXResolution: 5000.0, TAG.FocalPlaneResolutionUnit: 2}
    assert exif_focal({**whole, **sensor}, (300, 400)) == pytest.approx(18 * 5000 / 25.4 / 10)
    assert exif_focal({**whole, **sensor, **film}, (300, 400)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "exif",
    [
        {},
        {TAG.FocalLengthIn35mmFilm: 0},
        {TAG.FocalLengthIn35mmFilm: "wide"},
        {TAG.FocalLengthIn35mmFilm: float("nan")},
        {
            TAG.FocalLengthIn35mmFilm: 26,
            TAG.ExifImageWidth: 4000,
            TAG.ExifImageHeight: 1500,
        },  # a part of the photograph
        {TAG.FocalLengthIn35mmFilm: 60000},
        {TAG.FocalLength: 18.0},
        {TAG.FocalLength: 18.0, TAG.FocalPlaneXResolution: 5000.0},  # of an unknown number of pixels
    ],
)
def test_exif_that_does_not_tell_it_is_not_used(exif):
    assert exif_focal(exif, (300, 400)) is None


def test_unified_views_have_one_focal_length_and_the_same_points():
    """Wide ones are cut, narrow ones are extended; no point moves."""
    for view in (*Rooms(2, size=64), tiny_cues((96, 128)), tiny_cues((128, 96))):
        own = view.intrinsics_33[0, 0] / max(view.size)
        for focal in (own * 1.5, own * 0.8):
            unified = unify_focal(view, focal)
            assert unified.intrinsics_33[0, 0] / max(unified.size) == pytest.approx(focal, rel=0.02)
            assert unified.size[0] / unified.size[1] == pytest.approx(view.size[0] / view.size[1], rel=0.03)
            middle = (unified.intrinsics_33[:2, 2] - (np.array(unified.size[::-1]) - 1) / 2).tolist()
            assert np.abs(middle).max() <= 1
            before = {tuple(point) for point in unproject(view.depth_HW, view.intrinsics_33)[view.valid_HW].round(4)}
            after = unproject(unified.depth_HW, unified.intrinsics_33)[unified.valid_HW].round(4)
            assert len(after) > 100
            inside = sum(tuple(point) in before for point in after)
            assert inside > 0.98 * len(after)  # the rest is rounded the other way
            if focal < own:
                assert len(after) == len(before)
                assert (unified.image_HW3[0, 0] == 127).all()
                assert not unified.valid_HW[0, 0]
            assert {thing.description for thing in unified.objects} <= {thing.description for thing in view.objects}
            assert all(thing.mask_HW.any() and thing.mask_HW.shape == unified.size for thing in unified.objects)
            assert unified.facts["unified_focal"] == focal


def test_a_principal_point_beside_the_middle_comes_to_the_middle():
    view = tiny_cues((96, 128))
    intrinsics_33 = make_intrinsics(view.intrinsics_33[0, 0], view.size)
    intrinsics_33[:2, 2] += 10, -6
    unified = unify_focal(replace(view, intrinsics_33=intrinsics_33), 1.5)
    assert np.abs(unified.intrinsics_33[:2, 2] - (np.array(unified.size[::-1]) - 1) / 2).max() <= 0.5


def test_a_view_of_another_kind_of_camera_is_left_out():
    view = tiny_cues((96, 128))
    own = view.intrinsics_33[0, 0] / 128
    with pytest.raises(CuesError, match=r"its focal length is 1\.00 times its longer side, too far from 0\.3"):
        unify_focal(view, 0.3 * own)


def test_a_source_with_one_focal_length_says_so_and_keeps_scenes():
    source = with_one_focal(Rooms(2, size=64, views=2), 1.2)
    assert source.name.endswith(" focal 1.2")
    scene = source[1]
    assert isinstance(scene, Scene)
    assert [view.intrinsics_33[0, 0] / max(view.size) for view in scene.views] == [pytest.approx(1.2, rel=0.03)] * 2
    for wrong in (0.0, -1, float("nan"), 100):
        with pytest.raises(SpatialBoostError, match=r"expected 0\.1 to 30 times the longer side"):
            with_one_focal(Rooms(1, size=16), wrong)


def test_real_frames_keep_their_points(assets):
    frame = RGBDFolder(assets / "rgbd_room")[100]
    unified = unify_focal(frame, 1.2)
    points = unproject(unified.depth_HW, unified.intrinsics_33)[unified.valid_HW]
    all_points = unproject(frame.depth_HW, frame.intrinsics_33)[frame.valid_HW]
    assert 1000 < len(points) < len(all_points)
    known = {tuple(point) for point in all_points.round(3)}
    assert np.mean([tuple(point) in known for point in points.round(3)]) > 0.98
