from pathlib import Path

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.views import BuiltViews, open_views, split_views
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms


def test_the_first_and_the_last_views_and_none_twice() -> None:
    rooms = Rooms(50, size=16)
    train, test = split_views(rooms, 0.7, 0.22)
    assert (len(train), len(test)) == (35, 11)
    assert (train[0].source, test[-1].source) == ("synthetic:0", "synthetic:49")
    assert [len(part) for part in split_views(rooms, 0.58, 0.42)] == [
        29,
        21,
    ]  # 0.58 * 50 is 28.999... in floating point


@pytest.mark.parametrize(("train", "test"), [(0.7, 0.4), (0.7, 0.0), (-0.2, 0.5), (0.01, 0.5)])
def test_shares_that_overlap_or_are_empty(train: float, test: float) -> None:
    with pytest.raises(SpatialBoostError, match="expected shares above zero"):
        split_views(Rooms(10, size=16), train, test)


def test_a_built_dataset_gives_its_views_back(tmp_path: Path) -> None:
    rooms = Rooms(5, size=96)
    build_dataset(rooms, tmp_path, with_depth=True, rows_per_shard=2, quality=100, progress=False)
    views = open_views(str(tmp_path))
    assert isinstance(views, BuiltViews) and 0 < len(views) <= 5
    by_source = {room.source: room for room in (rooms[index] for index in range(5))}
    for index in range(len(views)):
        view, room = views[index], by_source[views[index].source]
        assert (view.image_HW3 == room.image_HW3).all()
        assert abs(view.depth_HW - room.depth_HW)[room.valid_HW].max() < 0.00051  # millimetres on disk
        assert (view.valid_HW == room.valid_HW).all()
