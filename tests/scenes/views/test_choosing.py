from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM, CuesError
from spatialboost.scenes.extract.pipeline import Extracted
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.rooms.render import look, render_views, sample_room
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Walk
from spatialboost.scenes.views.choosing import ChosenViews, name_of_choice, open_measure, take_views
from spatialboost.scenes.views.measures import Overlap
from spatialboost.scenes.views.mix import PAPER_MIX, ViewMix


@cache
def walk_of(num: int):
    """A camera that turns by three degrees from frame to frame, and walks a little."""
    poses = [look((0.02 * i, -1.4, -1.0), yaw=np.radians(3 * i - 30), pitch=0.2) for i in range(num)]
    return render_views(sample_room(3), poses, size=48)


class Frames:
    """Frames of a walk, of which some cannot be read."""

    def __init__(self, num: int, broken: tuple[int, ...] = ()) -> None:
        self.views, self.broken = walk_of(num), broken
        self.names = [f"frame{number}" for number in range(num)]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int):
        if index in self.broken:
            raise CuesError(f"frame{index}: it is broken")
        return self.views[index]


def differences(chosen: list[int]) -> list[float]:
    overlap, views = Overlap(), walk_of(24)
    reduced = [overlap.reduce(views[number]) for number in chosen]
    return [overlap.difference(reduced[0], each) for each in reduced[1:]]


def test_the_first_and_the_last_view_have_enough_in_common_and_differ_enough():
    scenes = ChosenViews(walk_of(24), views=2)
    directions = []
    for index in range(24):
        first, last = scenes.choose(index)
        assert first == index
        (difference,) = differences([first, last])
        assert 0.2 <= difference <= 0.7
        directions.append(last > first)
    assert 6 < sum(directions) < 18  # forwards along the walk, and backwards
    assert [view.source for view in scenes[3].views] == [f"synthetic:3/view{i}" for i in scenes.choose(3)]
    again = ChosenViews(walk_of(24), views=2)
    assert [again.choose(index) for index in (20, 3)] == [scenes.choose(20), scenes.choose(3)]


@pytest.mark.parametrize("count", [4, 8])
def test_frames_between_are_in_order_and_measured_again(count):
    scenes = ChosenViews(Frames(24, broken=(9, 12)), views=count)
    found = 0
    for index in range(24):
        try:
            chosen = scenes.choose(index)
        except CuesError as error:
            assert "frame" in str(error)
            continue
        found += 1
        steps = np.diff(chosen)
        assert len(chosen) == count and ((steps > 0).all() or (steps < 0).all())
        assert max(differences(chosen)) <= 0.7
        assert not {9, 12} & set(chosen)
        assert isinstance(scenes[index], Scene)
    assert found > 8


def test_a_mix_is_drawn_and_becomes_smaller_where_frames_are_few():
    mix = ViewMix(PAPER_MIX)
    drawn = Counter(mix.draw(item) for item in range(4000))
    assert all(abs(drawn[count] / 4000 - weight / 200) < 0.02 for count, weight in PAPER_MIX.items())
    few = ChosenViews(walk_of(24)[::4], views=ViewMix.parse("2:1,8:9"))  # eight of six frames cannot be chosen
    assert {len(few.choose(index)) for index in range(6)} == {2}
    with pytest.raises(CuesError, match="no 8 views can be chosen: too few frames fit between it and another frame"):
        ChosenViews(walk_of(24)[::4], views=8).choose(0)


def test_a_frame_without_a_partner_is_named_with_the_reason():
    still = [walk_of(24)[0]] * 5
    with pytest.raises(CuesError, match=r"frame 2: none of the 4 frames before and after it .* by 0.20 to 0.70"):
        ChosenViews(still, views=2)[2]
    with pytest.raises(CuesError, match="frame9: it is broken"):
        ChosenViews(Frames(24, broken=(9,)), views=2)[9]
    no_pose = [replace(view, pose_44=None) for view in walk_of(24)]
    with pytest.raises(CuesError, match=r"it has no pose, so its overlap .* choose the views by LPIPS"):
        ChosenViews(no_pose, views=2)[0]
    with pytest.raises(CuesError, match="made of single views"):
        ChosenViews(Walk(walk_of(24), views=2), views=2)[0]
    with pytest.raises(IndexError):
        ChosenViews(still, views=2)[5]


class ByNumber:
    """A measure of frames without depth or pose: their distance in the walk."""

    name, nearest, farthest, same = "numbers", 2.0, 4.0, 1.0

    def reduce(self, view):
        return int(view.source)

    def difference(self, a, b):
        return float(abs(a - b))


class Guess:
    """Gives every view of a scene a depth and a pose, as a reconstruction does."""

    kind, name = "reconstruction", "guess"

    def __call__(self, views):
        size = views[0].image_HW3.shape[:2]
        known = {"depth_HW": np.ones(size, np.float32), "intrinsics_33": np.diag([8.0, 8.0, 1.0])}
        return [{**known, "pose_44": look((float(view.source), 0, 0), 0, 0)} for view in views]


def test_frames_that_lack_cues_become_the_views_of_one_scene():
    frames = [PartialCues(np.zeros((8, 8, 3), np.uint8), str(number)) for number in range(12)]
    chosen = ChosenViews(frames, views=3, measure=ByNumber())
    found = chosen[5]
    assert isinstance(found, list) and [int(view.source) for view in found] == chosen.choose(5)
    scene = Extracted(chosen, [Guess()])[5]
    assert isinstance(scene, Scene) and len(scene.views) == 3
    np.testing.assert_allclose(scene.poses[-1][0, 3], chosen.choose(5)[-1] - 5)


def test_what_the_command_line_gives_is_read():
    assert take_views(walk_of(24), 1, None, None) is walk_of(24)
    assert isinstance(take_views(walk_of(24), 2, 3, None), Walk)
    assert take_views(walk_of(24), ViewMix.parse("mix"), None, open_measure("overlap:low=0.4")).measure.farthest == 0.6
    with pytest.raises(SpatialBoostError, match="leave out the stride"):
        take_views(walk_of(24), 2, 3, Overlap())
    with pytest.raises(SpatialBoostError, match="leave out the stride"):
        take_views(walk_of(24), ViewMix.parse("mix"), 3, None)
    with pytest.raises(SpatialBoostError, match="at least 2 views in each scene"):
        take_views(walk_of(24), ViewMix.parse("1:1,2:1"), None, None)
    assert name_of_choice(ViewMix.parse("2:3,4:1"), None, Overlap()) == " 2:3,4:1 views chosen by overlap 0.3 to 0.8"
    for text, message in (
        ("overlp", "Did you mean 'overlap'"),
        ("overlap:low", "'low' is no option of overlap; expected low=..., high=..."),
        ("overlap:net=vgg", "no option of overlap"),
        ("overlap:low=nan", "low is 'nan'; expected a number"),
        ("overlap:low=0.9", "expected 0 < low < high <= 1"),
        ("lpips:net=vg", "Did you mean 'vgg'"),
    ):
        with pytest.raises(SpatialBoostError, match=message):
            open_measure(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "2:0", "2:-1", "2:1,2:1", "2:nan", "2:1;4:1", "9" * 30, "2000"])
def test_a_wrong_number_of_views_says_what_is_expected(text):
    with pytest.raises(SpatialBoostError, match="expected"):
        ViewMix.parse(text)


def test_pairs_of_real_frames_are_chosen(assets):
    from spatialboost.scenes.readers.rgbd import RGBDFolder

    scenes = ChosenViews(RGBDFolder(assets / "rgbd_room"), views=ViewMix.parse("mix"))
    found = Counter()
    for index in range(0, 373, 12):
        try:
            chosen = scenes.choose(index)
        except BAD_ITEM:
            continue
        found[len(chosen)] += 1
        baseline = np.linalg.norm(scenes[index].poses[-1][:3, 3])
        assert baseline < 4
    assert sum(found.values()) >= 28 and found[2] > found[4]
