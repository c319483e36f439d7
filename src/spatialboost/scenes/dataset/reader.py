"""Read the rows of a data set from disk, one by one, and decode their images."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import to_rgb
from spatialboost.scenes.dataset.schema import dataset_files, open_parquet, validate_file

if TYPE_CHECKING:
    import PIL.Image
    import pyarrow

log = logging.getLogger(__name__)

# Shape legend: N = rows, G = row groups (rows that a file stores together), F = files.

_FILES_AT_ONCE = 8  # footers are small, so most of the time is spent waiting for the disk
_LARGE_GROUP = 2**28  # bytes
_NO_READING = 2**16 - 1  # the largest value of 16 bits; data sets of other software have it where nothing is measured


def open_rows(folders: Sequence[Path | str]) -> Rows:
    """Open the rows of all parquet files in some folders. Only the footers of the files are read at first.

    Example::

        rows = open_rows(["data/rooms", "data/frames"])
        image = open_image(rows[0]["images"][0])
        train = rows.select(range(900)).select_columns(["images", "messages"])

    Args:
        folders: folders with parquet files, written by `build_dataset` or by other software. The columns ``images`` and
            ``messages`` are required. Data sets of all versions are supported.

    Raises:
        SpatialBoostError: a folder has no files, a file is damaged, a column is missing, or a later version of this
            library wrote the data set.
    """
    files = [file for folder in folders for file in dataset_files(folder)]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        footers = list(pool.map(_read_footer, files))
    if not files:
        raise SpatialBoostError("no folder is given; expected at least one with parquet files")
    sizes_G = np.array([size for sizes, _ in footers for size in sizes], np.int64)
    groups_F = np.array([len(sizes) for sizes, _ in footers], np.int64)
    first = footers[0][1]
    common = set(first).intersection(*(set(names) for _, names in footers[1:]))
    return Rows([str(file) for file in files], sizes_G, groups_F, [name for name in first if name in common])


class Rows(Sequence[dict[str, Any]]):
    """Rows of many parquet files as one sequence, read from disk one row group at a time. Made by `open_rows`.

    It can be pickled and passed to worker processes, forked or spawned, because no file stays open.

    Attributes:
        column_names: columns of the rows; every file has them.
    """

    def __init__(
        self,
        files: list[str],
        sizes_G: np.ndarray,
        groups_F: np.ndarray,
        column_names: list[str],
        chosen_N: np.ndarray | None = None,
        whole: Rows | None = None,
    ) -> None:
        self._files, self._sizes_G, self._groups_F = files, sizes_G, groups_F
        self._whole = whole  # reads the bytes of images; None: they are read with the rows
        self._ends_G, self._last_F = np.cumsum(sizes_G), np.cumsum(groups_F)
        self.column_names, self._chosen_N = column_names, chosen_N
        self._read: tuple[int, pyarrow.Table] | None = None  # the row group that was read last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def __repr__(self) -> str:
        return f"{len(self)} rows of {len(self._files)} files with the columns {', '.join(self.column_names)}"

    def __len__(self) -> int:
        if self._chosen_N is not None:
            return len(self._chosen_N)
        return int(self._ends_G[-1]) if len(self._ends_G) else 0

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    @overload
    def __getitem__(self, index: str) -> Column: ...

    def __getitem__(self, index: Any) -> Any:
        """A row as a dictionary for an integer, `Rows` for a slice, a `Column` for a name.

        Raises:
            SpatialBoostError: this row cannot be read. Rows of other row groups can still be read.
        """
        if isinstance(index, str):
            return Column(self.select_columns([index]), index)
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = index % len(self) if self._chosen_N is None else int(self._chosen_N[index])
        group = int(np.searchsorted(self._ends_G, row, side="right"))
        place = row - int(self._ends_G[group] - self._sizes_G[group])
        try:
            found = self._group(group).slice(place, 1).to_pylist()[0]
            if self._whole is not None and isinstance(found.get("images"), list):
                images = found["images"]
                found["images"] = [_Unread(self._whole, index, at, images[at] or {}) for at in range(len(images))]
            return found
        except (ValueError, OverflowError) as error:  # text that is no UTF-8, a date that Python does not have, ...
            if isinstance(error, SpatialBoostError):
                raise
            raise SpatialBoostError(
                f"{self._files[self._file(group)]}: row {index} cannot be read ({error})"
            ) from error

    def select(self, indices: Iterable[int]) -> Rows:
        """Select rows by index, in this order. Nothing is read.

        Raises:
            IndexError: an index is out of range.
        """
        chosen_N = np.fromiter(indices, np.int64) if not isinstance(indices, np.ndarray) else indices.astype(np.int64)
        wrong = chosen_N[(chosen_N < 0) | (chosen_N >= len(self))]
        if wrong.size:
            raise IndexError(f"row {wrong[0]} of {len(self)}")
        chosen_N = chosen_N if self._chosen_N is None else self._chosen_N[chosen_N]
        return Rows(self._files, self._sizes_G, self._groups_F, self.column_names, chosen_N)

    def select_columns(self, names: Sequence[str]) -> Rows:
        """The same rows with only these columns. The other columns are not read from disk.

        Raises:
            SpatialBoostError: a column does not exist.
        """
        missing = [name for name in names if name not in self.column_names]
        if missing:
            raise SpatialBoostError(f"there is no column {missing}; there are {self.column_names}")
        return Rows(self._files, self._sizes_G, self._groups_F, list(names), self._chosen_N)

    @property
    def files(self) -> list[str]:
        """The parquet files, in the order of their rows."""
        return list(self._files)

    def lengths(self, column: str) -> np.ndarray:
        """The number of elements of a list in each row, such as ``images``. What is in the lists is not read."""
        import pyarrow.compute as pc

        counts = []
        for path in self._files:
            with open_parquet(path, f"column {column}") as file:
                row_group, names = file.metadata, [file.schema.column(i).path for i in range(len(file.schema))]
                inside = [name for name in names if name.startswith(f"{column}.")]
                sizes = {
                    name: sum(
                        row_group.row_group(g).column(names.index(name)).total_compressed_size
                        for g in range(file.num_row_groups)
                    )
                    for name in inside
                }
                table = file.read(columns=[min(inside, key=sizes.__getitem__)], use_threads=False)
                counts.append(pc.fill_null(pc.list_value_length(table.column(column)), 0).to_numpy())
        all_N = np.concatenate(counts) if counts else np.zeros(0, np.int64)
        return all_N if self._chosen_N is None else all_N[self._chosen_N]

    def without_bytes(self) -> Rows:
        """The same rows, but the bytes of an image are read when they are asked for, and not with the row."""
        whole = self._whole or self
        return Rows(self._files, self._sizes_G, self._groups_F, self.column_names, self._chosen_N, whole)

    def _file(self, group: int) -> int:
        return int(np.searchsorted(self._last_F, group, side="right"))

    def _group(self, group: int) -> pyarrow.Table:
        read = self._read
        if read is None or read[0] != group:
            self._read = read = (group, self._read_group(group))
        return read[1]

    def _read_group(self, group: int) -> pyarrow.Table:
        number = self._file(group)
        within = group - int(self._last_F[number] - self._groups_F[number])
        with open_parquet(self._files[number], f"row group {within}") as file:
            # A forked worker does not have the threads of its parent process
            return file.read_row_group(within, columns=self._columns(file), use_threads=False)

    def _columns(self, file: pyarrow.parquet.ParquetFile) -> list[str]:
        """The columns to read; without the bytes of images, only their paths."""
        if self._whole is None or "images" not in self.column_names:
            return self.column_names
        leaves = [file.schema.column(number).path for number in range(len(file.schema))]
        paths = [leaf for leaf in leaves if leaf.startswith("images.") and leaf.endswith(".path")]
        return [*(name for name in self.column_names if name != "images"), *(paths or ["images"])]


class _Unread(Mapping[str, Any]):
    """An image of a row whose bytes are read when they are asked for."""

    def __init__(self, rows: Rows, index: int, place: int, known: Mapping[str, Any]) -> None:
        self._rows, self._index, self._place, self._known = rows, index, place, known

    def __getitem__(self, key: str) -> Any:
        if key in self._known or key != "bytes":
            return self._known[key]
        image = self._rows[self._index]["images"][self._place]
        return None if image is None else image[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._known, "bytes": None})

    def __len__(self) -> int:
        return len({**self._known, "bytes": None})


class Column(Sequence[Any]):
    """One column of `Rows`. A value is read when it is indexed."""

    def __init__(self, rows: Rows, name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Column(self._rows[index], self._name)
        return self._rows[index][self._name]


def open_image(image: Any) -> Any:
    """Decode an image in a row to 8-bit RGB. A PIL image or an array is returned unchanged.

    An image without bytes is read from the file at its ``path``. The EXIF orientation is applied, as by ``datasets``.
    Images that `build_dataset` wrote have none; in files of other software, photographs often have one.

    Raises:
        SpatialBoostError: there are no bytes, PIL cannot decode them, or the range of the pixel values is not known.
    """
    return to_rgb(_decode(image, upright=True)) if isinstance(image, Mapping) else image


def open_depth(image: Mapping[str, Any]) -> np.ndarray:
    """Decode an entry of the column ``depths``: float32 ``(H, W)``, z in metres, 0 = no reading.

    The stored values 0 and 65535 mean "no reading".

    Raises:
        SpatialBoostError: there are no bytes, or they are not a depth map.
    """
    depth = _decode(image)
    if not depth.mode.startswith("I"):
        raise SpatialBoostError(f"it has mode {depth.mode}, expected a depth map of one channel with 16 bits")
    millimetres_HW = np.asarray(depth)
    return np.where(millimetres_HW == _NO_READING, 0, millimetres_HW / np.float32(1000)).astype(np.float32)


def _decode(image: Mapping[str, Any], *, upright: bool = False) -> PIL.Image.Image:
    from PIL import Image, ImageOps, UnidentifiedImageError

    data = image.get("bytes")
    if data is None:
        data = _read_file(image.get("path"))
    try:
        decoded = Image.open(io.BytesIO(data))
        decoded.load()
        return ImageOps.exif_transpose(decoded) if upright else decoded
    except UnidentifiedImageError:
        raise SpatialBoostError("its bytes are not an image format that PIL can read") from None
    except Exception as error:  # decoders raise many kinds of exceptions on damaged bytes
        raise SpatialBoostError(f"its bytes cannot be decoded ({type(error).__name__}: {error})") from error


def _read_file(path: str | None) -> bytes:
    """The bytes of an image that is not in the data set, but in a file of its own, as ``datasets`` can write it."""
    if path is None or not Path(path).is_absolute():
        where = "no path" if path is None else f"its path {path} is not absolute"
        raise SpatialBoostError(f"it has no bytes in the data set, and {where}")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SpatialBoostError(f"its file {path} cannot be read ({error.strerror})") from None


def _read_footer(path: Path) -> tuple[list[int], list[str]]:
    """The number of rows in each row group of a file, and the names of its columns."""
    with open_parquet(path) as file:
        footer, names = file.metadata, validate_file(path, file)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    largest = max((group.total_byte_size for group in groups), default=0)
    if largest > _LARGE_GROUP:
        log.warning(
            "%s has row groups of up to %.1f GB, and reading one row reads its whole group; write the file again with "
            "fewer rows in each group (pyarrow.parquet.write_table(..., row_group_size=16))",
            path,
            largest / 1e9,
        )
    return [group.num_rows for group in groups], names
