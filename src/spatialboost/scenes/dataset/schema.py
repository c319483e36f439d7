"""What a data set is on disk: its columns, its version, the settings of its build, and which files belong to it.

The writer, the reader and the page that shows a data set ask here, so that the three cannot disagree.
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

# 1: images, messages, meta; optional depths, labels. 2: poses and intrinsics of each view as well.
VERSION = 2

NEEDED = ("images", "messages", "meta")  # what every version has
POSES = ("poses", "intrinsics")  # since version 2
DEPTHS = ("depths", "labels")  # of a build with depth

# Rows that are read together. Reading one row out of order costs its whole group; each group costs bytes at a file's
# end, which are read when the data set is opened. Measured in docs/data-format.md.
ROWS_PER_GROUP = 16

# What settings were before there was an option for them, so that an older data set can be compared with a new build.
# A new option of the writer gets a line here.
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
    """Arrow types of a file, with the metadata by which ``datasets`` decodes images and by which we know our files.

    Args:
        settings: of the build, ``version`` and ``with_depth`` among them.
        skipped: items that are left out of this file, and why.
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

    Characters such as ``[`` or ``*`` in the folder's name mean themselves: it is no pattern.

    Raises:
        SpatialBoostError: there is none.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise SpatialBoostError(
            f"no parquet shards in {folder}; build a data set with: spatialboost data build --out {folder}"
        )
    return files


def dataset_facts(path: Path) -> dict[str, Any]:
    """What a file says of itself: the settings of its build, ``rows``, and ``skipped`` items with reasons.

    Raises:
        SpatialBoostError: no file that a build wrote, or one of a later version than this.
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
    check_version(path, facts)
    return {**facts, "rows": footer.num_rows}


def check_file(path: Path, footer: pyarrow.parquet.FileMetaData) -> list[str]:
    """The columns of a file that can be read; files that others wrote need ``images`` and ``messages`` only.

    Args:
        path: for the message.
        footer: of the file.

    Raises:
        SpatialBoostError: a later version, or a column that is missing.
    """
    facts = (footer.metadata or {}).get(_SETTINGS_KEY)
    if facts is not None:
        check_version(path, json.loads(facts))
    names = footer.schema.to_arrow_schema().names
    missing = {"images", "messages"} - set(names)
    if missing:
        raise SpatialBoostError(f"{path} has no column {sorted(missing)}; it has {names}")
    return names


def check_version(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse what a later version of this library wrote; every earlier version can be read.

    Raises:
        SpatialBoostError: a later version.
    """
    if facts["version"] > VERSION:
        raise SpatialBoostError(
            f"{path} is a data set of version {facts['version']}; this spatialboost reads versions up to {VERSION}: "
            "update it, or build the data set again"
        )


def differing_settings(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """In words, what a file was built with and a build does not ask for; the version aside.

    Example:
        >>> differing_settings({"version": 1, "seed": 1}, {"version": 2, "seed": 2})
        ['seed 1 instead of 2']

    A setting that the file does not know counts as what it was before there was an option for it; so does a field of
    its plan.
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
    """Settings with those of the plan as keys of their own, so that an error names only what differs."""
    flat = {key: value for key, value in settings.items() if key != "plan"}
    return {**flat, **{f"plan.{key}": value for key, value in settings.get("plan", {}).items()}}
