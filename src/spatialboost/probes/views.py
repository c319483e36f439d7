"""Views for probes: open the argument of ``--data``, and cut the views into a training and a test split."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from spatialboost.scenes.cues import Cues
    from spatialboost.scenes.sources import Source


def open_views(spec: str) -> Source:
    """Open the views of `rooms:NUM`, of an RGB-D folder, or of the folder of a dataset built with depth.

    Raises:
        SpatialBoostError: the argument is none of these.
    """
    from spatialboost.scenes.rooms import Rooms

    if spec.startswith("rooms:"):
        number = spec.removeprefix("rooms:")
        if not number.isdecimal():
            raise SpatialBoostError(f"data is {spec!r}; expected rooms:NUM, such as rooms:200")
        return Rooms(int(number))
    folder = Path(spec)
    if not folder.is_dir():
        raise SpatialBoostError(
            f"{spec} is not a folder; expected one with rgb/ and depth/, a dataset built with depth, or rooms:NUM"
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
    num = len(views)
    shares = [share if 0 < share <= 1 else 0.0 for share in (train, test)]  # not a number, infinite: none
    first, last = (int(round(share * num, 6)) for share in shares)  # 0.29 * 100 is a little less than 29
    if sum(shares) > 1 + 1e-9 or min(first, last) < 1:
        raise SpatialBoostError(
            f"train is {train} and test {test} of {num} views; expected shares above zero that add up to 1 at most"
        )
    return Part(views, range(first)), Part(views, range(num - last, num))


class Part(Sequence["Cues"]):
    """Some views of a source; each is read when it is needed."""

    def __init__(self, source: Source, indices: range) -> None:
        self.source, self.indices = source, indices
        names = getattr(source, "names", None)
        self.names = [str(index) if names is None else str(names[index]) for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.source[self.indices[index]]


class BuiltViews:
    """The views of a dataset that was built with depth; if a folder has several datasets, they follow each other.

    Raises:
        SpatialBoostError: the folder has no parquet file, or one without depth.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        from spatialboost.scenes.dataset.schema import dataset_files

        tables = []
        for path in dataset_files(folder):
            columns = pq.ParquetFile(path).schema_arrow.names
            if "depths" not in columns:
                raise SpatialBoostError(f"{path} has no depth, only {columns}; build it with --depth")
            tables.append(pq.read_table(path, columns=["images", "depths", "meta"], memory_map=True))
        self.tables = tables
        self.rows = [(table, row) for table in range(len(tables)) for row in range(len(tables[table]))]
        self.name = str(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Cues:
        import numpy as np
        from PIL import Image

        from spatialboost.scenes.cues import Cues

        table, row = self.rows[index]
        found = self.tables[table].slice(row, 1).to_pylist()[0]
        meta = json.loads(found["meta"])
        image, millimetres = (
            np.asarray(Image.open(io.BytesIO(found[key][0]["bytes"]))) for key in ("images", "depths")
        )
        return Cues(image, millimetres.astype(np.float32) / 1000, np.array(meta["intrinsics"]), meta["source"])
