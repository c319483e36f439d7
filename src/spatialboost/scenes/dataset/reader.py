"""Read conversations from disk: rows as they are asked for, and their images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spatialboost.errors import SpatialBoostError


def open_rows(folders: Sequence[Path | str]) -> Any:
    """All rows of folders of parquet shards, read from disk as they are asked for."""
    import datasets

    files: list[str] = []
    for folder in map(Path, folders):
        found = sorted(folder.glob("*.parquet"))
        if not found:
            raise SpatialBoostError(f"no parquet shards in {folder}; make some with `spatialboost data build`")
        files += map(str, found)
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    missing = {"images", "messages"} - set(rows.column_names)
    if missing:
        raise SpatialBoostError(f"{files[0]} has no column {sorted(missing)}; it has {rows.column_names}")
    # Bytes, so that a broken image is met one row at a time
    return rows.cast_column("images", datasets.List(datasets.Image(decode=False)))


def open_image(image: Any) -> Any:
    """A PIL image or an array as it is; bytes of a file decoded."""
    if not isinstance(image, Mapping):
        return image
    from PIL import Image, UnidentifiedImageError

    if image.get("bytes") is None:
        raise SpatialBoostError("it has no bytes in the dataset")
    try:
        return Image.open(io.BytesIO(image["bytes"])).convert("RGB")
    except UnidentifiedImageError:
        raise SpatialBoostError("its bytes are no picture that PIL knows") from None
