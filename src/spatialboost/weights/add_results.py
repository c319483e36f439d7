"""Put results of probes into a delta that is saved already: a copy with another config and card, the same weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from spatialboost.weights.card import model_card
from spatialboost.weights.format import config_text
from spatialboost.weights.licence import own_licence_files
from spatialboost.weights.read import Delta, OpenDelta
from spatialboost.weights.results import Results, read_results
from spatialboost.weights.tensor_file import Entry, split
from spatialboost.weights.write import BLANK, write_delta


def with_results(delta: Delta, results: Results | Sequence[Results], folder: Path) -> Path:
    """Write a copy of a delta whose config and card have these results in place of those that it had; returns `folder`.

    Args:
        delta: The delta; every tensor is checked.
        results: As in `save_pretrained`.
        folder: Where to write; another folder than that of the delta.

    Raises:
        SpatialBoostError: One of the results is none, or a tensor is damaged.
    """
    config = {**delta.config, "results": read_results(results), "checksum": BLANK}
    config_text(config)  # raises if it is too large
    with delta.open() as file:
        ordered = sorted(delta.shapes, key=lambda key: not key.endswith(".gate"))  # as `file_entries` orders them
        entries = {key: Entry(file.get(key).dtype, delta.shapes[key]) for key in ordered}
        limit = max(path.stat().st_size for path in delta.files)
        write_delta(folder, config, model_card(config), split(entries, limit), _tensors(file, entries))
    for name, path in own_licence_files(delta.folder).items():
        shutil.copyfile(path, folder / name)
    return folder


def _tensors(file: OpenDelta, entries: dict[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    return ((key, file.get_checked(key)) for key in entries)
