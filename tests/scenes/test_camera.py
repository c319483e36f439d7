from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.camera import project, rescale_intrinsics, to_normalised, to_pixels, unproject

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
focals = st.floats(5.0, 500.0)


@st.composite
def cameras(draw):
    height, width = draw(sizes)
    intrinsics = np.array(
        [
            [draw(focals), draw(st.floats(-3, 3)), draw(st.floats(-0.5, width - 0.5))],
            [0, draw(focals), draw(st.floats(-0.5, height - 0.5))],
            [0, 0, 1],
        ]
    )
    return intrinsics, (height, width)


@settings(deadline=None)
@given(cameras(), st.integers(0, 1000))
def test_what_is_unprojected_projects_to_its_pixel(camera, seed):
    intrinsics, (height, width) = camera
    depth = np.random.default_rng(seed).uniform(0.1, 20, (height, width))
    points = unproject(depth, intrinsics)
    np.testing.assert_array_equal(points[..., 2], depth)
    v, u = np.indices((height, width))
    np.testing.assert_allclose(project(points, intrinsics), np.stack([u, v], -1), atol=1e-9)


@settings(deadline=None)
@given(cameras(), sizes)
def test_rescaled_intrinsics_see_the_same_place_of_the_picture(camera, new_size):
    intrinsics, size = camera
    points = np.random.default_rng(0).uniform((-1, -1, 1), (1, 1, 5), (20, 3))
    before = to_normalised(project(points, intrinsics), size)
    after = to_normalised(project(points, rescale_intrinsics(intrinsics, size, new_size)), new_size)
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(cameras(), sizes)
def test_rescaling_there_and_back_changes_nothing(camera, new_size):
    intrinsics, size = camera
    there = rescale_intrinsics(intrinsics, size, new_size)
    np.testing.assert_allclose(rescale_intrinsics(there, new_size, size), intrinsics, rtol=1e-9, atol=1e-9)


@given(sizes, st.floats(-5, 5), st.floats(-5, 5))
def test_normalised_round_trip(size, x, y):
    np.testing.assert_allclose(to_normalised(to_pixels([x, y], size), size), [x, y], atol=1e-12)


def test_the_picture_reaches_from_zero_to_one():
    assert to_normalised([-0.5, -0.5], (3, 4)).tolist() == [0.0, 0.0]
    assert to_normalised([3.5, 2.5], (3, 4)).tolist() == [1.0, 1.0]


def test_the_middle_stays_the_middle():
    intrinsics = np.array([[9.0, 0, 3.5], [0, 9.0, 2.5], [0, 0, 1]])  # for an image of 6 x 8 pixels
    assert rescale_intrinsics(intrinsics, (6, 8), (3, 4))[:2, 2].tolist() == [1.5, 1.0]


def test_depth_without_a_reading_gives_no_point():
    intrinsics = np.diag([5.0, 5.0, 1.0])
    points = unproject(np.array([[np.nan, 0.0]]), intrinsics)
    assert np.isnan(points[0, 0]).all()
    assert points[0, 1].tolist() == [0, 0, 0]
    assert np.isnan(project(points, intrinsics)).all()


def test_points_behind_the_camera_have_no_pixel():
    pixels = project(np.array([[0.1, 0.1, -1.0], [0.1, 0.1, 1.0]]), np.diag([5.0, 5.0, 1.0]))
    assert np.isnan(pixels[0]).all()
    np.testing.assert_allclose(pixels[1], [0.5, 0.5])


def test_sizes_below_one_pixel_are_refused():
    with pytest.raises(SpatialBoostError, match=r"\(0, 3\).*at least one pixel"):
        rescale_intrinsics(np.eye(3), (2, 2), (0, 3))
