import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from spatialboost.probes.image_folder import LabelledImage
from spatialboost.probes.splits import Split
from spatialboost.scenes.cues import Cues
from spatialboost.scenes.scene import Scene


def frame(index: int) -> Cues:
    return Cues(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32), np.eye(3), f"frame {index}")


class Frames:
    """Frames of which the second cannot be read; it counts how often each was read."""

    names = ("a", "b", "c")

    def __init__(self) -> None:
        self.reads = [0, 0, 0]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int, /) -> Cues:
        self.reads[index] += 1
        if index == 1:
            raise OSError("truncated file")
        return frame(index)


@pytest.mark.parametrize(("limit", "reads"), [(10**6, [1, 1, 1]), (0, [3, 1, 3])])
def test_bad_views_are_named_once_and_views_are_read_again_only_where_they_do_not_fit(
    limit: int, reads: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    frames = Frames()
    split = Split(frames, limit)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [view.source for view in split] == ["frame 0", "frame 2"]
    assert split.left_out == ["b: truncated file"] and len(split) == 2
    assert [record.getMessage() for record in caplog.records] == ["left out b: truncated file"]
    assert frames.reads == reads
    assert split[1].source == "frame 2"


def test_a_pass_that_was_cut_off_is_begun_again() -> None:
    split = Split(Frames())
    assert next(iter(split)).source == "frame 0"
    assert [view.source for view in split] == ["frame 0", "frame 2"] and len(split) == 2


@pytest.mark.parametrize("limit", [10**6, 0])
def test_the_views_of_a_scene_come_one_by_one(limit: int) -> None:
    here = np.eye(4)
    pair: Sequence = [replace(frame(0), pose_44=here), replace(frame(1), pose_44=here)]
    split = Split([Scene(pair), frame(2)], limit)
    for _ in range(2):
        assert [view.source for view in split] == ["frame 0", "frame 1", "frame 2"]
    assert len(split) == 3 and split[1].source == "frame 1"


def test_what_a_folder_has_left_out_already_is_kept() -> None:
    class Images(list):
        left_out = ("x.png: broken",)

    split = Split(Images([LabelledImage(np.zeros((2, 2, 3), np.uint8), 0)]))
    assert len(split) == 1 and split.left_out == ["x.png: broken"]
