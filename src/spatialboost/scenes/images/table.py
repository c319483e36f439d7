"""The image column of a data set, as a source of views without depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.errors import SpatialBoostError, plain, unknown
from spatialboost.scenes.cues import CuesError
from spatialboost.scenes.extract.protocol import PartialCues
from spatialboost.scenes.images.folder import choose_views, open_images
from spatialboost.scenes.images.listing import TAR
from spatialboost.scenes.images.photograph import describe_size, view_photograph
from spatialboost.scenes.paths import is_hidden_name, natural_order, user_path
from spatialboost.scenes.sizes import validate_size
from spatialboost.scenes.source_registry import SourceOptions
from spatialboost.scenes.sources import Source, evenly_spaced
from spatialboost.scenes.views.mix import ViewMix

if TYPE_CHECKING:
    import datasets
    import pyarrow

HUB = "hf:"  # leads to the Hub; without it, nothing is downloaded

_FILES_AT_ONCE = 8
_SAVED = ("state.json", "dataset_info.json")  # of `Dataset.save_to_disk`


class TableImages:
    """The images in a column of a data set. A row is read when it is indexed.

    Example::

        views = TableImages("photos.parquet")
        view = views[0]  # a `PartialCues`: the image, and its intrinsics if its EXIF has the focal length

    Args:
        path: a folder that ``Dataset.save_to_disk`` wrote, a parquet file, a folder of parquet files, or
            ``hf:USER/NAME`` (or ``hf:USER/NAME:SPLIT``) to download a data set of the Hugging Face Hub.
        column: the column with the images. None takes the only one.
        size: shorter edge, or ``(height, width)``, in pixels. None makes the shorter edge 480 pixels if it is longer.

    Raises:
        SpatialBoostError: there is no data set, no image column, or several and none is chosen.
        CuesError: from ``[i]``, the image cannot be used.
    """

    def __init__(
        self, path: str | Path, *, column: str | None = None, size: int | tuple[int, int] | None = None
    ) -> None:
        if size is not None:
            validate_size(size)
        self.size = size
        table = _open(str(path))
        self.column = find_column(table.schema, column, str(path))
        self._rows, name, self.provenance = table.rows(self.column), plain(table.name), table.provenance
        self.name = f"dataset {name} {self.column} {describe_size(size)}"
        self._short = name

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> PartialCues:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        return view_photograph(self._bytes(index), f"{self._short}/{index}", self.size)

    def _bytes(self, index: int) -> bytes:
        value = self._rows[index][self.column]
        source = f"{self._short}/{index}"
        if isinstance(value, Mapping):
            if value.get("bytes") is None and value.get("path"):  # never opened: the data set may be of somebody else
                raise CuesError(
                    f"{source} ({plain(str(value['path']))}): the data set has only the path of this image, not its "
                    "bytes; save it with save_to_disk or to_parquet, which store the bytes"
                )
            value = value.get("bytes")
        if not isinstance(value, bytes):
            raise CuesError(f"{source}: the column {self.column} has {type(value).__name__}, expected an image")
        return value


def open_table(options: SourceOptions) -> Source:
    """Open the images of a data set with the options of the command line. A folder of tar files is read as one, too.

    Raises:
        SpatialBoostError: see `TableImages`; or there is no path.
    """
    if options.path is None:
        raise SpatialBoostError(
            f"source dataset needs a path: a folder of `save_to_disk`, parquet files, tar files, or {HUB}USER/NAME"
        )
    path = user_path(options.path)
    if path.suffix == TAR or (path.is_dir() and not _parquet_files(path) and any(path.rglob(f"*{TAR}"))):
        return open_images(options)
    images = TableImages(options.path, column=options.column, size=options.size)
    if ViewMix.of(options.views).counts != (1,):
        return choose_views(images, options)
    return images if options.num is None else evenly_spaced(images, options.num)


def find_column(schema: pyarrow.Schema, column: str | None, where: str) -> str:
    """The column with images.

    Raises:
        SpatialBoostError: there is none, several, or the given column has no images.
    """
    import datasets
    import pyarrow as pa

    features = datasets.Features.from_arrow_schema(schema)
    images, blobs = [], []
    for name, feature in features.items():
        if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature)):
            images.append(name)
        elif pa.types.is_binary(schema.field(name).type) or pa.types.is_large_binary(schema.field(name).type):
            blobs.append(name)
    if column is not None:
        if column not in features:
            raise unknown("column", column, features)
        if column not in images + blobs:
            raise SpatialBoostError(
                f"the column {column!r} of {where} has {schema.field(column).type}, expected images or their bytes"
            )
        return column
    found = images or blobs
    if len(found) != 1:
        what = f"the image columns {', '.join(found)}" if found else f"no image column, but {', '.join(features)}"
        todo = "choose one of them with `column`" if found else "expected a column of images, or of their bytes"
        raise SpatialBoostError(f"{where} has {what}; {todo}")
    return found[0]


@dataclass
class _Table:
    """An opened data set: the schema of its columns, its name, its rows given the name of a column, and its origin."""

    schema: pyarrow.Schema
    name: str
    rows: Callable[[str], Any]
    provenance: dict[str, Any]


def _open(path: str) -> _Table:
    if path.startswith(HUB):
        return _open_hub(path.removeprefix(HUB))
    folder = user_path(path)
    if all((folder / name).is_file() for name in _SAVED):
        import datasets

        with _explained(path):
            return _of_datasets(datasets.load_from_disk(str(folder)), folder.resolve().name, {})
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(each.name for each in folder.iterdir() if (each / _SAVED[0]).is_file())
        raise SpatialBoostError(f"{folder} has the splits {', '.join(splits)}; give the folder of one of them")
    files = [folder] if folder.is_file() else _parquet_files(folder)
    if files:
        return _open_parquet(files, folder)
    if not folder.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise SpatialBoostError(
            f"there is no folder {path}; to download a data set of this name from the Hub, give {HUB}{path}"
        )
    found = "has no parquet file and is not of `save_to_disk`" if folder.exists() else "does not exist"
    raise SpatialBoostError(
        f"{folder} {found}; expected a folder of `save_to_disk`, parquet files, tar files, or {HUB}USER/NAME"
    )


def _open_hub(text: str) -> _Table:
    """Download a data set of the Hub, and open it."""
    import datasets

    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?(?::([\w.-]+))?", text)
    if not match:
        raise SpatialBoostError(f"{HUB}{text} is no data set; expected {HUB}USER/NAME, {HUB}USER/NAME@REVISION:SPLIT")
    name, revision, split = match.groups()
    with _explained(f"{HUB}{text}"):
        splits = datasets.get_dataset_split_names(name, revision=revision)
        if split is None and "train" not in splits and len(splits) > 1:
            raise SpatialBoostError(f"{name} has the splits {', '.join(splits)}; give one of them: {HUB}{text}:SPLIT")
        split = split or ("train" if "train" in splits else splits[0])
        rows = datasets.load_dataset(name, split=split, revision=revision)
    facts = {"model": f"{name}:{split}", "revision": revision, "licence": rows.info.license or "unknown"}
    return _of_datasets(rows, name, facts)


def _of_datasets(rows: datasets.Dataset, name: str, provenance: dict[str, Any]) -> _Table:
    plain_rows = rows.with_format("arrow")  # bytes as they are stored, not decoded
    return _Table(
        rows.features.arrow_schema, name, lambda column: _ArrowRows(plain_rows.select_columns([column])), provenance
    )


class _ArrowRows:
    """Rows of the library `datasets`, not decoded."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._rows[index].to_pylist()[0]
        return row


def _open_parquet(files: Sequence[Path], folder: Path) -> _Table:
    """Read the footers of parquet files."""
    from spatialboost.scenes.dataset.reader import Rows

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        footers = list(pool.map(_read_footer, files))
    schema = footers[0][1]
    for file, (_, other) in zip(files, footers, strict=True):
        if other.names != schema.names:
            raise SpatialBoostError(
                f"{file} has the columns {', '.join(other.names)}, but {files[0].name} has {', '.join(schema.names)}; "
                "expected parquet files of one data set"
            )
    sizes_G = np.array([size for sizes, _ in footers for size in sizes], np.int64)
    groups_F = np.array([len(sizes) for sizes, _ in footers], np.int64)
    return _Table(
        schema,
        folder.resolve().name,
        lambda column: Rows([str(file) for file in files], sizes_G, groups_F, [column]),
        {},
    )


def _read_footer(file: Path) -> tuple[list[int], pyarrow.Schema]:
    from spatialboost.scenes.dataset.schema import open_parquet

    with open_parquet(file) as opened:
        footer = opened.metadata
        return [footer.row_group(number).num_rows for number in range(footer.num_row_groups)], opened.schema_arrow


def _parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder and its subfolders, in natural order."""
    files = [
        file
        for file in folder.rglob("*.parquet")
        if not any(map(is_hidden_name, file.relative_to(folder).parts)) and file.is_file()
    ]
    return sorted(files, key=lambda file: natural_order(str(file)))


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Errors of the library `datasets` as one line that names the data set."""
    try:
        yield
    except SpatialBoostError:
        raise
    except Exception as error:  # broken files, other versions, no connection: each has its own kind of error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise SpatialBoostError(f"the data set {path} cannot be opened: {reason}") from error
