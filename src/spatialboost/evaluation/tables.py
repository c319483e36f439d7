"""The rows of a benchmark's tables: parquet, JSON, JSON lines or TSV. Images inside of parquet are read when needed."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from spatialboost.encoders.run_file import user_path
from spatialboost.errors import SpatialBoostError

ENDINGS = (".parquet", ".jsonl", ".json", ".tsv")
Row = dict[str, Any]


@dataclass(frozen=True)
class TableRow:
    """A row, and where it stands.

    Attributes:
        values: Its columns, without those that hold images.
        pictures: Column -> functions that return the bytes of its images.
        folder: Paths in the row start here.
        place: File and number, for messages.
    """

    values: Row
    pictures: dict[str, list[Callable[[], bytes]]]
    folder: Path
    place: str


def find_tables(data: str | Path, patterns: Sequence[str], title: str) -> list[Path]:
    """The tables of a benchmark in a folder; a file is taken as it is.

    Args:
        data: The folder, or one of its tables.
        patterns: Names of tables with ``*``; the first that matches any file counts.
        title: Name of the benchmark, for messages.

    Raises:
        SpatialBoostError: There are none.
    """
    data = user_path(data)
    if data.is_file():
        if data.suffix not in ENDINGS:
            raise SpatialBoostError(f"{data} is no table; expected one of {title} that ends with {', '.join(ENDINGS)}")
        return [data]
    if not data.is_dir():
        raise SpatialBoostError(f"{data} does not exist; expected the folder of {title} (docs/evaluation.md)")
    for pattern in patterns:
        if files := sorted(file for file in data.glob(pattern) if file.is_file()):
            return files
    others = sorted(str(file.relative_to(data)) for end in ENDINGS for file in data.glob(f"*{end}"))
    hint = f"; it has {', '.join(others[:5])}, of which one can be given in place of the folder" if others else ""
    raise SpatialBoostError(
        f"{data} is no folder of {title}: expected {' or '.join(patterns)} in it{hint}. docs/evaluation.md says how "
        "to get it"
    )


def read_rows(file: Path, folder: Path, required: Sequence[str]) -> Iterator[TableRow]:
    """The rows of a table.

    Raises:
        SpatialBoostError: The file cannot be read, or a column is missing.
    """
    if file.suffix == ".parquet":
        yield from _Parquet(file).rows(folder, required)
        return
    rows = _read_text(file)
    for number, row in enumerate(rows):
        if number == 0:
            _check_columns(file, row, required)
        yield TableRow(row, {}, folder, f"{_name(file, folder)}:{number + 1}")


def _name(file: Path, folder: Path) -> str:
    """The path of a table in its folder: tables of several folders may have one name."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _check_columns(file: Path, columns: Any, required: Sequence[str]) -> None:
    missing = [name for name in required if name not in columns]
    if missing:
        raise SpatialBoostError(
            f"{file} has no column {', '.join(missing)}; its columns are {', '.join(map(str, columns))[:300]}"
        )


def _read_text(file: Path) -> list[Row]:
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            rows: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif file.suffix == ".json":
            rows = json.loads(text)
        else:
            csv.field_size_limit(2**31 - 1)  # a TSV may have images in it
            rows = [dict(row) for row in csv.DictReader(text.splitlines(), delimiter="\t")]
    except (ValueError, csv.Error) as error:
        raise SpatialBoostError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise SpatialBoostError(f"{file} has no rows; expected a list of questions")
    return rows


class _Parquet:
    """A parquet file, of which the images are read row group by row group; the last group is kept."""

    def __init__(self, path: Path) -> None:
        self.path, self._group = path, -1
        self._kept: dict[str, Any] = {}

    @cached_property
    def file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SpatialBoostError(f"{self.path} cannot be read as parquet: {reason}") from None

    def rows(self, folder: Path, required: Sequence[str]) -> Iterator[TableRow]:
        schema = self.file.schema_arrow
        pictured = [field.name for field in schema if "binary" in str(field.type)]
        _check_columns(self.path, schema.names, required)
        plain = [name for name in schema.names if name not in pictured]
        number = 0
        for group in range(self.file.num_row_groups):
            counts = self._counts(group, pictured)
            for place, row in enumerate(self.file.read_row_group(group, columns=plain).to_pylist()):
                pictures: dict[str, list[Callable[[], bytes]]] = {
                    name: [partial(self._picture, group, name, place, at) for at in range(counts[name][place])]
                    for name in pictured
                }
                number += 1
                yield TableRow(row, pictures, folder, f"{_name(self.path, folder)}:{number}")

    def _counts(self, group: int, pictured: Sequence[str]) -> dict[str, list[int]]:
        """How many images each row has in each column; of images with a file name, only the names are read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        leaves = [self.file.schema.column(number) for number in range(len(self.file.schema))]
        texts = {leaf.path.split(".")[0]: leaf.path for leaf in leaves if leaf.logical_type.type == "STRING"}
        found = {}
        for name in pictured:
            column = self.file.read_row_group(group, columns=[texts.get(name, name)]).column(name)
            if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                found[name] = pc.fill_null(pc.list_value_length(column), 0).to_pylist()
            else:
                found[name] = [int(there) for there in pc.is_valid(column).to_pylist()]
        return found

    def _picture(self, group: int, name: str, place: int, at: int) -> bytes:
        if self._group != group:
            self._group, self._kept = group, {}
        if name not in self._kept:
            self._kept[name] = self.file.read_row_group(group, columns=[name]).column(name)
        value = self._kept[name][place].as_py()
        value = value[at] if isinstance(value, list) else value
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise SpatialBoostError(f"{self.path.name}: an image of column {name} has no bytes in the file")
        return data


def as_list(value: Any) -> list[Any]:
    """A list that a TSV holds as its text.

    Example:
        >>> as_list("['a.jpg', 'b.jpg']"), as_list(["a"]), as_list(None), as_list("a.jpg")
        (['a.jpg', 'b.jpg'], ['a'], [], ['a.jpg'])
    """
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise SpatialBoostError(f"{value[:80]!r} is not a list") from None
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def existing(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of these names in a folder.

    Raises:
        SpatialBoostError: One does not exist, or lies outside of the folder.
    """
    files = [folder / str(name) for name in names]
    for name, file in zip(names, files, strict=True):
        if not file.exists() or not file.resolve().is_relative_to(folder.resolve()):
            raise SpatialBoostError(f"its file {name} is not in {folder}")
    return files
