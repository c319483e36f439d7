from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.source_registry import SOURCES, SourceKind, SourceOptions, open_source
from spatialboost.scenes.sources import Mapped, Walk, evenly_spaced, resize_cues
from tiny_cues import tiny_cues


def test_resized_views_keep_their_geometry():
    view = tiny_cues((96, 128))
    small = resize_cues(view, 48)
    assert small.size == (48, 64)
    assert resize_cues(view, (30, 30)).size == (30, 30)
    np.testing.assert_allclose(small.intrinsics_33, [[64, 0, 31.5], [0, 64, 23.5], [0, 0, 1]])
    assert Mapped([view], lambda cues: resize_cues(cues, 48), name="small")[0].size == (48, 64)
    from spatialboost.scenes.questions.layout import measure_layout

    for before, after in zip(measure_layout(view).objects, measure_layout(small).objects, strict=True):
        np.testing.assert_allclose(before.extent_m, after.extent_m, atol=0.05)


class Frames:
    """Frames of a walk; each camera is one step to the right of the one before."""

    def __init__(self, num: int) -> None:
        self.names = [f"frame{number}" for number in range(num)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int):
        pose = np.eye(4)
        pose[0, 3] = index
        if index == 3:
            raise CuesError("frame3: it is broken")
        return replace(tiny_cues((24, 32)), source=self.names[index], pose_44=pose)


def test_a_walk_gives_scenes_of_frames_a_stride_apart():
    walk = Walk(Frames(9), views=3, stride=2)
    assert (len(walk), walk.names) == (5, [f"frame{number}" for number in range(5)])
    assert [view.source for view in walk[2].views] == ["frame2", "frame4", "frame6"]
    assert [pose[0, 3] for pose in walk[2].poses] == [0, 2, 4]
    with pytest.raises(CuesError, match="frame3: it is broken"):
        walk[1]
    with pytest.raises(IndexError, match="scene 5 of 5"):
        walk[5]


def test_a_walk_of_too_few_frames_says_how_many_it_needs():
    with pytest.raises(SpatialBoostError, match="3 views that are 5 frames apart need 11 frames, found 10; take fewer"):
        Walk(Frames(10), views=3, stride=5)
    with pytest.raises(SpatialBoostError, match="expected at least 1"):
        Walk(Frames(10), views=0)
    with pytest.raises(CuesError, match="made of single views"):
        Walk(Walk(Frames(3), views=2), views=2)[0]
    with pytest.raises(CuesError, match="no pose"):
        Walk([tiny_cues(), tiny_cues()], views=2)[0]


def test_functions_reach_every_view_of_a_scene():
    small = Mapped(evenly_spaced(Walk(Frames(3), views=2), 1), lambda view: resize_cues(view, 12), name="small")
    item = small[0]
    assert isinstance(item, Scene)
    assert [view.size for view in item.views] == [(12, 16)] * 2


def test_sources_are_known_by_name(monkeypatch):
    rooms = open_source("rooms", SourceOptions(num=2, first=5, size=16, views=2))
    assert (rooms.name, len(rooms[0].views)) == ("rooms 5-6 16 px 2 views", 2)
    assert open_source("rooms", SourceOptions()).name == Rooms(1000).name
    with pytest.raises(SpatialBoostError, match=r"'rgdb'; known are furnished, rgbd, rooms\. Did you mean 'rgbd'"):
        open_source("rgdb", SourceOptions())
    for wrong in ({"num": 0}, {"views": 0}, {"stride": 0}):
        with pytest.raises(SpatialBoostError, match="at least"):
            SourceOptions(**wrong)
    monkeypatch.setitem(SOURCES, "mine", SourceKind("test_sources_of_a_stranger:open_mine"))
    monkeypatch.setitem(sys.modules, "test_sources_of_a_stranger", Stranger)
    assert [view.source for view in open_source("mine", SourceOptions(num=2))] == ["mine 0", "mine 1"]


class Stranger:
    """Replaces a module from outside the library."""

    @staticmethod
    def open_mine(options: SourceOptions):
        return [replace(tiny_cues(), source=f"mine {number}") for number in range(options.num)]
