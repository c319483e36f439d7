"""The format of a data set on disk: its columns, its version, the settings of its build, and its files.

The writer, the reader and the viewer all use this module, so that they agree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.plan import renew_settings

if TYPE_CHECKING:
    import pyarrow

# Version 1: images, messages, meta; optional depths, labels. Version 2 adds poses and intrinsics of each view.
VERSION = 2

NEEDED = ("images", "messages", "meta")  # in every version
POSES = ("poses", "intrinsics")  # since version 2
DEPTHS = ("depths", "labels")  # in a build with depth

# Number of rows that are read together. Reading one row reads its whole group. Each group adds bytes to the footer,
# which is read when the data set is opened. Measured in docs/data-format.md.
ROWS_PER_GROUP = 16

# Values of settings before an option for them existed. They are used to compare an older data set with a new build.
# Add a line here for each new option of the writer.
_EARLIER_SETTINGS: dict[str, Any] = {}

_SETTINGS_KEY = b"spatialboost"


def column_names(version: int, *, with_depth: bool) -> list[str]:
    """The columns of a data set.

    Example:
        >>> column_names(1, with_depth=True)
        ['images', 'messages', 'meta', 'depths', 'labels']
        >>> column_names(2, with_depth=False)
        ['images', 'messages', 'meta', 'poses', 'intrinsics']
    """
    return [*NEEDED, *(POSES if version >= 2 else ()), *(DEPTHS if with_depth else ())]


def arrow_schema(settings: Mapping[str, Any], skipped: Mapping[str, str]) -> pyarrow.Schema:
    """The Arrow schema of a file. Its metadata lets ``datasets`` decode images, and identifies files of this library.

    Args:
        settings: settings of the build, including ``version`` and ``with_depth``.
        skipped: items that are left out of this file, with the reasons.
    """
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
    schema = Features({name: types[name] for name in names}).arrow_schema
    facts = json.dumps({**settings, "skipped": skipped}, indent=1).encode()
    return schema.with_metadata({**schema.metadata, _SETTINGS_KEY: facts})


def dataset_files(folder: Path | str) -> list[Path]:
    """The parquet files of a data set's folder, in order.

    Characters such as ``[`` or ``*`` in the folder's name are literal: the name is not a pattern.

    Raises:
        SpatialBoostError: there are no parquet files.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise SpatialBoostError(
            f"no parquet files in {folder}; build a data set with: spatialboost data build --out {folder}"
        )
    return files


def dataset_facts(path: Path) -> dict[str, Any]:
    """Read the facts in a file's metadata: settings of the build, number of ``rows``, ``skipped`` items with reasons.

    Raises:
        SpatialBoostError: no build wrote the file, or a later version of this library wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        footer = pq.read_metadata(path)
        facts = json.loads(footer.metadata[_SETTINGS_KEY])
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise SpatialBoostError(
            f"{path} is not a file that a build wrote ({type(error).__name__}); choose another folder or remove it"
        ) from None
    validate_version(path, facts)
    return {**facts, "rows": footer.num_rows}


def validate_file(path: Path, footer: pyarrow.parquet.FileMetaData) -> list[str]:
    """Return the columns of a file. ``images`` and ``messages`` are required, also in files of other software.

    Args:
        path: path of the file, for error messages.
        footer: footer of the file.

    Raises:
        SpatialBoostError: a later version of this library wrote the file, or a column is missing.
    """
    facts = (footer.metadata or {}).get(_SETTINGS_KEY)
    if facts is not None:
        validate_version(path, json.loads(facts))
    names = footer.schema.to_arrow_schema().names
    missing = {"images", "messages"} - set(names)
    if missing:
        raise SpatialBoostError(f"{path} has no column {sorted(missing)}; it has {names}")
    return names


def validate_version(path: Path, facts: Mapping[str, Any]) -> None:
    """Raise if a later version of this library wrote the file. Files of earlier versions are supported.

    Raises:
        SpatialBoostError: a later version wrote the file.
    """
    if facts["version"] > VERSION:
        raise SpatialBoostError(
            f"{path} is a data set of version {facts['version']}; this spatialboost reads versions up to {VERSION}: "
            "update it, or build the data set again"
        )


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
