"""Views for probes: open the argument of ``--data``, and cut the views into a training and a test split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from spatialboost.scenes.cues import Cues
    from spatialboost.scenes.scene import Scene
    from spatialboost.scenes.sources import Source

BUILT = ("images", "depths", "meta", "poses", "intrinsics")  # columns that are read of a built dataset


GENERATED = ("rooms", "furnished")  # sources without a folder
STRIDES = (5, 15, 30)  # frames between the two views of a pair


def open_views(spec: str, views: int = 1) -> Source:
    """Open the views of `rooms:NUM`, of an RGB-D folder, of a public set, or of a dataset built with depth.

    Args:
        spec: ``rooms:NUM`` and ``furnished:NUM``; a folder; or ``NAME:FOLDER`` for a set in its own layout, where the
            name is one of `spatialboost.scenes.source_registry.SOURCES`, such as ``scannet:FOLDER``.
        views: views of each room.

    Raises:
        SpatialBoostError: the argument is none of these.
    """
    from spatialboost.scenes.paths import user_path
    from spatialboost.scenes.source_registry import SOURCES, SourceOptions, open_source

    name, _, rest = spec.partition(":")
    if name in GENERATED:
        if not rest.isdecimal() or len(rest) > 9:
            raise SpatialBoostError(f"data is {spec!r}; expected {name}:NUM, such as {name}:200")
        return open_source(name, SourceOptions(num=int(rest), views=views))
    if name in SOURCES and rest and not SOURCES[name].depth:
        return open_source(name, SourceOptions(path=user_path(rest)))
    folder = user_path(spec)
    if not folder.is_dir():
        raise SpatialBoostError(
            f"{spec} is not a folder; expected one with rgb/ and depth/, a dataset built with depth, rooms:NUM, or the "
            "name of a layout before the folder, such as scannet:FOLDER"
        )
    if (folder / "depth").is_dir():
        from spatialboost.scenes.readers.rgbd import RGBDFolder

        return RGBDFolder(folder)
    return BuiltViews(folder)


def split_views(views: Source, train: float, test: float) -> tuple[Sequence[Cues], Sequence[Cues]]:
    """The first and the last part of the views, in order: frames of one walk must not be split at random.

    Raises:
        SpatialBoostError: the parts overlap or are empty.
    """
    first, last = cut(len(views), train, test, "views")
    return Part(views, first), Part(views, last)


def cut(num: int, train: float, test: float, noun: str) -> tuple[range, range]:
    """The indices of the first and of the last items.

    Raises:
        SpatialBoostError: the parts overlap or are empty.
    """
    if not (0 < train < 1 and 0 < test < 1):  # NaN and infinity are not
        raise SpatialBoostError(
            f"train is {train} and test {test}; expected shares above zero that add up to 1 at most"
        )
    first, last = (int(round(share * num, 6)) for share in (train, test))  # 0.29 * 100 is a little less than 29
    if train + test > 1 + 1e-9 or min(first, last) < 1:
        raise SpatialBoostError(
            f"train is {train} and test {test} of {num} {noun}; expected shares above zero that add up to 1 at most"
        )
    return range(first), range(num - last, num)


class Part(Sequence["Cues"]):
    """Some views of a source; each is read when it is needed."""

    def __init__(self, source: Source, indices: Sequence[int], left_out: Sequence[str] = ()) -> None:
        self.source, self.indices, self.left_out = source, indices, left_out
        names = getattr(source, "names", None)
        self.names = [str(index) if names is None else str(names[index]) for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.indices[index]]


class BuiltViews:
    """The views of a dataset that was built with depth; if a folder has several datasets, they follow each other.

    A row with several images is a `Scene`, with the poses that the row has.

    Raises:
        SpatialBoostError: the folder has no parquet file, or one without depth.
    """

    def __init__(self, folder: Path) -> None:
        from spatialboost.scenes.dataset.schema import dataset_files, open_parquet, validate_file

        tables = []
        for path in dataset_files(folder):
            with open_parquet(path) as file:
                columns = file.schema_arrow.names
                if "depths" not in columns:
                    raise SpatialBoostError(f"{path} has no depth, only {columns}; build it with --depth")
                validate_file(path, file, ("images", "depths", "meta"))
                tables.append(file.read(columns=[name for name in columns if name in BUILT]))
        self.tables = tables
        self.rows = [(table, row) for table in range(len(tables)) for row in range(len(tables[table]))]
        self.name = str(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Cues | Scene:
        import numpy as np

        from spatialboost.scenes.cues import Cues, CuesError
        from spatialboost.scenes.dataset.reader import open_depth, open_image
        from spatialboost.scenes.scene import Scene

        table, row = self.rows[index]
        try:
            found = self.tables[table].slice(row, 1).to_pylist()[0]
            meta = json.loads(found["meta"])
            poses, cameras = found.get("poses") or [None], found.get("intrinsics") or [meta["intrinsics"]]
            views = [
                Cues(np.asarray(open_image(image)), open_depth(depth), np.array(camera), meta["source"], pose_44=pose)
                for image, depth, camera, pose in zip(
                    found["images"][: len(cameras)],
                    found["depths"][: len(cameras)],
                    cameras,
                    [None if pose is None else np.array(pose) for pose in poses],
                    strict=True,
                )
            ]
            return Scene(views) if len(views) > 1 else views[0]
        except Exception as error:  # a row of other software may hold anything
            reason = str(error) if isinstance(error, SpatialBoostError) else f"{type(error).__name__}: {error}"
            raise CuesError(f"{self.name}, row {index}: {reason}") from error


class ViewPairs:
    """Pairs of views of one place: scenes of two views, or frames of a sequence with a number of frames between them.

    Example:
        >>> from spatialboost.scenes.rooms import Rooms
        >>> pairs = ViewPairs(Rooms(3, size=16, views=2))
        >>> len(pairs), len(pairs[0].views)
        (3, 2)

    Args:
        source: scenes, of which the first and the last view are taken, or single views in the order in which they
            were taken, with poses.
        strides: frames from the first view of a pair to the second, both of one recording; all pairs of each stride are
            taken.
        most: largest number of pairs of each stride, evenly spaced.

    Raises:
        SpatialBoostError: no stride, or one that is below one.
        CuesError: from ``[i]``, an item is a single view and there is no other one, or it has no pose.
    """

    def __init__(self, source: Any, strides: Sequence[int] = STRIDES, most: int = 100) -> None:
        from spatialboost.scenes.sources import Subset, Walk, evenly_spaced

        if not len(strides) or min(strides) < 1 or most < 1:
            raise SpatialBoostError(f"strides are {list(strides)} and most {most}; expected at least 1 each")
        self.parts: list[Any] = [source]
        if not has_scenes(source):
            parts = recordings(source)
            longest = max(map(len, parts))
            near = [stride for stride in strides if stride < longest]
            if not near:
                of_each = f", {longest} in the longest of {len(parts)} recordings" if len(parts) > 1 else ""
                raise SpatialBoostError(
                    f"there are {len(source)} views{of_each}, and the smallest stride is {min(strides)}: give more "
                    "views, or a smaller stride"
                )
            walk = {stride: Walk(source, views=2, stride=stride) for stride in near}
            starts = {
                stride: [start for part in parts for start in part[: max(0, len(part) - stride)]] for stride in near
            }
            self.parts = [evenly_spaced(Subset(walk[stride], starts[stride]), most) for stride in near]
        self.places = [(part, item) for part, each in enumerate(self.parts) for item in range(len(each))]
        named = [names for part in self.parts if (names := getattr(part, "names", None)) is not None]
        self.names = [name for names in named for name in names] if len(named) == len(self.parts) else None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int, /) -> Scene:
        from spatialboost.scenes.cues import CuesError
        from spatialboost.scenes.scene import Scene

        part, item = self.places[index]
        found = self.parts[part][item]
        if not isinstance(found, Scene) or len(found.views) < 2:
            raise CuesError(f"{found.source}: it is a single view; expected two views of one place, with poses")
        return Scene([found.views[0], found.views[-1]])


def recordings(source: Any) -> list[range]:
    """The indices of the views of each recording: two views of different ones have no place in common."""
    return getattr(source, "parts", None) or [range(len(source))]


def has_scenes(source: Any) -> bool:
    """Whether the first item that can be read has several views."""
    from spatialboost.scenes.cues import BAD_ITEM
    from spatialboost.scenes.scene import Scene

    for item in range(len(source)):
        try:
            return isinstance(source[item], Scene)
        except BAD_ITEM:
            continue
    return False
