"""Lists of published splits, in the forms in which they are handed out."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from set_writers import WRITERS, write_labeled
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.inputs import ViewSplits
from spatialboost.probes.split_lists import listed_views
from spatialboost.probes.views import open_views


class Named(list):
    """Views that are their own names."""

    @property
    def names(self):
        return self


KITTI = Named(
    [
        f"2011_09_{day}/2011_09_{day}_drive_0002_sync/{side}/{number:010d}"
        for day in (26, 28)
        for side in ("image_02", "image_03")
        for number in (5, 69)
    ]
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # the lists of BTS: image, depth map (or None), focal length
        (
            "2011_09_28/2011_09_28_drive_0002_sync/image_02/data/0000000069.png "
            "2011_09_28_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png 721.5377\n"
            "2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000005.png None 721.5377\n",
            [5, 0],
        ),
        # the lists of Monodepth2: folder, number, side
        ("2011_09_26/2011_09_26_drive_0002_sync 69 r\n2011_09_28/2011_09_28_drive_0002_sync 0000000005 l\n", [3, 4]),
    ],
)
def test_the_eigen_split_of_kitti(tmp_path, text, found):
    file = tmp_path / "eigen_test_files.txt"
    file.write_text(text + "2011_09_29/2011_09_29_drive_0071_sync/image_02/data/0000000943.png None 1\n")
    part = listed_views(KITTI, file, "test")
    assert list(part) == [KITTI[index] for index in found] and part.names == list(part)
    assert part.left_out == [
        "2011_09_29/2011_09_29_drive_0071_sync/image_02/0000000943: eigen_test_files.txt names it, but there is no "
        "such view"
    ]
    # a folder that begins further down: drives, or all dates
    deeper = Named([name.split("/", 1)[1] for name in KITTI])
    assert list(listed_views(deeper, file, "test")) == [deeper[index] for index in found]
    frames = Named([name.rsplit("/", 1)[1] for name in KITTI])  # of which drive, nobody knows
    with pytest.raises(
        SpatialBoostError, match=r"none of the 3 names .* is among the 8 views; the first is '2011_09_2"
    ):
        listed_views(frames, file, "test")


def test_kitti_is_read_by_its_lists(tmp_path):
    WRITERS["kitti"](tmp_path)
    names = list(open_views(f"kitti:{tmp_path}").names)
    lines = [f"{Path(name).parent}/data/{Path(name).name}.png None 721.5" for name in names]
    for split, part in (("train", lines[:3]), ("test", lines[3:])):
        (tmp_path / f"eigen_{split}.txt").write_text("\n".join(part))
    lists = {f"{split}_list": tmp_path / f"eigen_{split}.txt" for split in ("train", "test")}
    train, test = ViewSplits(f"kitti:{tmp_path}", **lists).open()
    assert [*train.names, *test.names] == names and len(train) == 3
    assert test[0].valid_HW.mean() < 0.25
    with pytest.raises(SpatialBoostError, match="expected both train_list and test_list"):
        ViewSplits(f"kitti:{tmp_path}", train_list=lists["train_list"]).open()


def test_nyu_by_its_split_file_and_by_folders(tmp_path):
    pytest.importorskip("h5py")
    file, splits = write_labeled(tmp_path), tmp_path / "splits.mat"
    savemat(splits, {"trainNdxs": np.array([[3], [4], [5]]), "testNdxs": np.array([[1], [2]])})
    train, test = ViewSplits(f"nyu-labeled:{file}", train_list=splits, test_list=splits).open()
    assert (train.names, test.names) == (["2", "3", "4"], ["0", "1"]) and test[0].size == (60, 80)

    WRITERS["nyu"](tmp_path / "folders")
    (tmp_path / "nyudepthv2_test_files_with_gt.txt").write_text(
        "/basement_0001a/rgb_00001.jpg /basement_0001a/sync_depth_00001.png 518.8579\n"
    )
    views = open_views(f"nyu:{tmp_path / 'folders'}")
    assert listed_views(views, tmp_path / "nyudepthv2_test_files_with_gt.txt", "test").names == [views.names[1]]


def test_lists_that_cannot_be_used(tmp_path):
    broken = tmp_path / "splits.mat"
    broken.write_bytes(b"nothing")
    with pytest.raises(SpatialBoostError, match=r"cannot be read .*expected NYUv2's splits.mat with testNdxs"):
        listed_views(KITTI, broken, "test")
    with pytest.raises(SpatialBoostError, match="cannot be read"):
        listed_views(KITTI, tmp_path / "nowhere.txt", "test")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(SpatialBoostError, match="is empty; expected lines that begin with the path"):
        listed_views(KITTI, tmp_path / "empty.txt", "test")
    with pytest.raises(SpatialBoostError, match="these views have no names"):
        listed_views([1, 2], tmp_path / "empty.txt", "test")
