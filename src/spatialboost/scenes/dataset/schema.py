"""The format of a data set on disk: its columns, its version, the settings of its build, and its files.

The writer, the reader and the viewer all use this module, so that they agree.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.paths import is_hidden, user_path
from spatialboost.scenes.questions.plan import renew_settings

if TYPE_CHECKING:
    import pyarrow

# Version 1: images, messages, meta; optional depths, labels. Version 2 adds poses and intrinsics of each view.
VERSION = 2

NEEDED = ("images", "messages", "meta")  # in every version
ROW = ("images", "messages")  # also in files of other software
POSES = ("poses", "intrinsics")  # since version 2
DEPTHS = ("depths", "labels")  # in a build with depth

# Number of rows that are read together. Reading one row reads its whole group. Each group adds bytes to the footer,
# which is read when the data set is opened. Measured in docs/data-format.md.
ROWS_PER_GROUP = 16

# Values of settings before an option for them existed. They are used to compare an older data set with a new build.
# Add a line here for each new option of the writer.
_EARLIER_SETTINGS: dict[str, Any] = {}

_SETTINGS_KEY = b"spatialboost"
_FIELDS = {"images": ("bytes",), "depths": ("bytes",), "messages": ("role", "content")}  # of each element of a column


def column_names(version: int, *, with_depth: bool) -> list[str]:
    """The columns of a data set.

    Example:
        >>> column_names(1, with_depth=True)
        ['images', 'messages', 'meta', 'depths', 'labels']
        >>> column_names(2, with_depth=False)
        ['images', 'messages', 'meta', 'poses', 'intrinsics']
    """
    return [*NEEDED, *(POSES if version >= 2 else ()), *(DEPTHS if with_depth else ())]


def arrow_schema(settings: Mapping[str, Any]) -> pyarrow.Schema:
    """The Arrow schema of all files of a data set. Its metadata lets ``datasets`` decode images."""
    from datasets import Features, Image, List, Value

    matrix = List(List(Value("float64")))
    types = {
        "images": List(Image()),
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "meta": Value("string"),
        "poses": List(matrix),
        "intrinsics": List(matrix),
        "depths": List(Image()),
        "labels": List(Image()),
    }
    names = column_names(settings["version"], with_depth=settings["with_depth"])
    return Features({name: types[name] for name in names}).arrow_schema


def with_facts(schema: pyarrow.Schema, settings: Mapping[str, Any], skipped: Mapping[str, str]) -> pyarrow.Schema:
    """The schema of one file. Its metadata also identifies files of this library."""
    facts = json.dumps({**settings, "skipped": skipped}, indent=1).encode()
    return schema.with_metadata({**schema.metadata, _SETTINGS_KEY: facts})


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder, in order, without hidden ones such as ``._part-00000.parquet`` of macOS."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix == ".parquet" and not is_hidden(path) and path.is_file()
    )


def dataset_files(folder: Path | str) -> list[Path]:
    """The parquet files of a data set's folder, in order.

    Characters such as ``[`` or ``*`` in the folder's name are literal: the name is not a pattern.

    Raises:
        SpatialBoostError: there are no parquet files.
    """
    folder = user_path(folder)
    files = parquet_files(folder)
    if not files:
        raise SpatialBoostError(
            f"no parquet files in {folder}; build a data set with: spatialboost data build --out {folder}"
        )
    return files


@contextmanager
def open_parquet(path: Path | str, part: str | None = None) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a parquet file. What is wrong with it, also while it is read, becomes one line that names it.

    Raises:
        SpatialBoostError: the file is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pyarrow would read a path such as "s3:rooms/part-00000.parquet" or "~/part-00000.parquet" in its own way
        with (
            pa.memory_map(os.path.abspath(path)) as content,
            pq.ParquetFile(content, page_checksum_verification=True) as file,
        ):
            yield file
    except SpatialBoostError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if part is not None:
            raise SpatialBoostError(f"{path}: its {part} cannot be read ({reason}); build the file again") from error
        raise SpatialBoostError(f"{path} cannot be read as parquet ({reason}); build it again or remove it") from error


def read_talks(path: Path) -> Iterator[tuple[list[dict[str, str]], Any]]:
    """Messages and decoded ``meta`` of each row of a file, without its images; None for a ``meta`` that is no JSON."""
    columns = ["messages", "meta"]
    with open_parquet(path, "columns messages and meta") as file:
        validate_file(path, file, columns)
        for batch in file.iter_batches(1024, columns=columns):
            for row in batch.to_pylist():
                yield row["messages"], read_meta(row)


def read_meta(row: Mapping[str, Any]) -> Any:
    """The decoded ``meta`` of a row; None if it is no JSON."""
    try:
        return json.loads(row["meta"])
    except (TypeError, ValueError, RecursionError):
        return None


def dataset_facts(path: Path) -> dict[str, Any]:
    """Read the facts in a file's metadata: settings of the build, number of ``rows``, ``skipped`` items with reasons.

    Raises:
        SpatialBoostError: no build wrote the file, or a later version of this library wrote it.
    """
    try:
        with open_parquet(path) as file:
            metadata, rows = file.metadata.metadata, file.metadata.num_rows
    except SpatialBoostError as error:
        raise _foreign(path, " ".join(str(error.__cause__).split())) from None
    facts = _parse_facts(path, metadata)
    if facts is None:
        raise _foreign(path, "it has no settings of a build")
    return {**facts, "rows": rows}


def validate_file(path: Path, file: pyarrow.parquet.ParquetFile, needed: Iterable[str] = ROW) -> list[str]:
    """Return the columns of a file. Files of other software need the columns ``images`` and ``messages``.

    Raises:
        SpatialBoostError: a later version of this library wrote the file, or a column is missing or of another type.
    """
    import pyarrow as pa

    _parse_facts(path, file.metadata.metadata)
    schema = file.schema_arrow
    names = list(schema.names)
    missing = set(needed) - set(names)
    if missing:
        raise SpatialBoostError(f"{path} has no column {sorted(missing)}; it has {names}")
    for name in needed:
        if names.count(name) > 1:
            raise SpatialBoostError(f"{path} has {names.count(name)} columns {name!r}; expected one")
        found, wanted = schema.field(name).type, _FIELDS.get(name, ())
        item = getattr(found, "value_type", None)
        right = isinstance(item, pa.StructType) and all(item.get_field_index(field) >= 0 for field in wanted)
        if wanted and not right:
            expected = f"expected for each row a list of {{{', '.join(wanted)}}}"
            raise SpatialBoostError(f"{path}: the column {name!r} is of type {found}; {expected}")
        if name == "meta" and not (pa.types.is_string(found) or pa.types.is_large_string(found)):
            raise SpatialBoostError(f"{path}: the column 'meta' is of type {found}; expected text with JSON")
    return names


def _parse_facts(path: Path, metadata: Mapping[bytes, bytes] | None) -> dict[str, Any] | None:
    """The facts that a build wrote into the metadata of a file; None if there are none."""
    raw = (metadata or {}).get(_SETTINGS_KEY)
    if raw is None:
        return None
    try:
        facts = json.loads(raw)
        version, skipped = facts["version"], facts.setdefault("skipped", {})
        if "plan" in facts:
            renew_settings(facts["plan"])
        right = type(version) is int and version >= 1 and all(isinstance(why, str) for why in skipped.values())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _foreign(path, f"its settings cannot be read, {type(error).__name__}") from None
    if not right:
        raise _foreign(path, "its settings are not those of a build")
    if version > VERSION:
        raise SpatialBoostError(
            f"{path} is a data set of version {version}; this spatialboost reads versions up to {VERSION}: "
            "update it, or build the data set again"
        )
    return dict(facts)


def _foreign(path: Path, why: str) -> SpatialBoostError:
    return SpatialBoostError(f"{path} is not a file that a build wrote ({why}); choose another folder or remove it")


def differing_settings(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """List the settings of a file that differ from those of a build, as text. The version is ignored.

    Example:
        >>> differing_settings({"version": 1, "seed": 1}, {"version": 2, "seed": 2})
        ['seed 1 instead of 2']

    If the file does not have a setting, or a field of the plan, its value before the option existed is used.
    """
    found = {**_EARLIER_SETTINGS, **found}
    if "plan" in found:
        found["plan"] = renew_settings(found["plan"])
    found, asked = _flat(found), _flat(asked)
    return [
        f"{key} {found.get(key)!r} instead of {value!r}"
        for key, value in asked.items()
        if key != "version" and found.get(key) != value
    ]


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with each field of the plan under its own key, so that an error lists only the different fields."""
    flat = {key: value for key, value in settings.items() if key != "plan"}
    return {**flat, **{f"plan.{key}": value for key, value in settings.get("plan", {}).items()}}
