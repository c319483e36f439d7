"""Find a delta in a folder or on the Hub, read its config and headers, and check its tensors, without a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.weights.format import (
    CONFIG,
    CONFIG_LIMIT,
    INDEX,
    WEIGHTS,
    delta_checksum,
    parse_checksums,
    parse_config,
    parse_index,
)
from spatialboost.weights.hub import HubOptions, fetch, fetch_file, repo_id_of, stays_inside
from spatialboost.weights.recognise import what_it_is
from spatialboost.weights.tensor_file import checksum, is_finite, open_files, read_header

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Delta:
    """A delta whose config and headers have been read and checked. Its tensors are read later, one by one.

    Attributes:
        folder: Its folder on this machine.
        files: The files with the weights: one, or several shards.
        config: Its config, in the form of the newest version.
        shapes: Shape of each tensor.
        file_numbers: Index in `files` of the file of each tensor.
        checksums: Checksum of each tensor, by its name; empty for files of version 1.
    """

    folder: Path
    files: tuple[Path, ...]
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    file_numbers: dict[str, int]
    checksums: dict[str, str]

    @property
    def layers(self) -> list[int]:
        """Indices of the boosted blocks."""
        return list(self.config["layers"])

    @property
    def base_name(self) -> str:
        """Name of the base model, for error messages."""
        return repr(self.config["base_model"].get("name"))[:200]

    def only(self, layers: Iterable[int]) -> Delta:
        """The delta of some of its layers.

        Raises:
            SpatialBoostError: It does not have one of them, or none is given.
        """
        wanted = sorted(set(layers))
        if not wanted or not set(wanted) <= set(self.layers):
            raise SpatialBoostError(f"layers={wanted}: the delta has the layers {self.layers}. Give some of these.")
        shapes = {key: shape for key, shape in self.shapes.items() if int(key.split(".")[1]) in wanted}
        return replace(self, config=self.config | {"layers": wanted}, shapes=shapes)

    @contextmanager
    def open(self) -> Iterator[OpenDelta]:
        """Map the weights into memory for as long as the context lasts."""
        with open_files(self.files) as files:
            yield OpenDelta(self, files)


class OpenDelta:
    """The tensors of a delta, as views of the mapped files."""

    def __init__(self, delta: Delta, files: list[Any]) -> None:
        self._delta = delta
        self._files = files

    def get(self, key: str) -> Tensor:
        """A tensor as it is in the file: not copied and not checked."""
        try:
            return self._files[self._delta.file_numbers[key]].get_tensor(key)
        except SafetensorError as error:  # the file was replaced after its header was read
            raise SpatialBoostError(
                f"{self._path(key)} has changed while it was read ({error}). Load it again."
            ) from error

    def get_checked(self, key: str) -> Tensor:
        """A tensor, not copied, after a check.

        Raises:
            SpatialBoostError: It differs from the saved tensor, or has values that are not finite.
        """
        tensor = self.get(key)
        saved = self._delta.checksums.get(key)
        if saved is not None and checksum(tensor) != saved:
            raise SpatialBoostError(
                f"{self._path(key)} is damaged: the checksum of {key} is not the one that was saved. Download or save "
                "it again."
            )
        if not tensor.is_floating_point() or not is_finite(tensor):
            raise SpatialBoostError(
                f"{self._path(key)}: {key} has values that are not finite. Download or save the file again."
            )
        return tensor

    def check(self) -> None:
        """Check every tensor as `get_checked` does."""
        for key in self._delta.shapes:
            self.get_checked(key)

    def _path(self, key: str) -> Path:
        return self._delta.files[self._delta.file_numbers[key]]


def read_delta(repo_or_folder: PathLike, options: HubOptions | None = None) -> Delta:
    """Find a delta in a folder or on the Hub and read its config and headers; only needed files are downloaded.

    Raises:
        SpatialBoostError: There is none, or this version cannot read it.
    """
    return read_folder(locate(repo_or_folder, options or HubOptions()))


def read_folder(folder: Path) -> Delta:
    """Read the config and headers of a delta in a folder of this machine.

    Raises:
        SpatialBoostError: There is none, it is damaged, or this version cannot read it.
    """
    try:
        return _read_folder(folder)
    except SpatialBoostError:
        if kind := what_it_is(folder):
            raise SpatialBoostError(f"{folder} is {kind}") from None
        raise


def _read_folder(folder: Path) -> Delta:
    if not folder.is_dir():
        raise SpatialBoostError(f"there is no folder {folder}: give a folder that save_pretrained has written.")
    files = tuple(folder / name for name in weight_files(folder))
    headers = [read_header(path) for path in files]
    configs_inside = [header.metadata.get("spatialboost") for header in headers]
    if len(set(configs_inside)) > 1:
        raise SpatialBoostError(f"the files in {folder} are from different saves. Download or save them again.")
    config = _choose_config(folder / CONFIG, files[0], configs_inside[0])

    shapes: dict[str, tuple[int, ...]] = {}
    file_numbers: dict[str, int] = {}
    checksums: dict[str, str] = {}
    for number, (path, header) in enumerate(zip(files, headers, strict=True)):
        shapes |= header.shapes
        file_numbers |= dict.fromkeys(header.shapes, number)
        checksums |= parse_checksums(header.metadata.get("checksums"), path, list(header.shapes), config)
    if config["checksum"] is not None and delta_checksum(checksums, config) != config["checksum"]:
        raise SpatialBoostError(
            f"{files[0]} is damaged: its config is not the one that was saved with these weights. Download or save it "
            "again."
        )
    if config["checksum"] is None:
        logger.warning(
            "%s has an older format without checksums, so damage to it may not be noticed: load it and save it again",
            files[0],
        )
    return Delta(folder, files, config, shapes, file_numbers, checksums)


def _choose_config(config_file: Path, weights: Path, text: str | None) -> dict[str, Any]:
    """The config in the header of the weights, or `config.json` if an older file has none in its header."""
    beside = parse_config(read_small(config_file), config_file) if config_file.is_file() else None
    if text is None:
        if beside is None:
            raise SpatialBoostError(
                f"{weights} was not saved by spatialboost: it has no config, and {config_file.parent} no {CONFIG}."
            )
        return beside
    inside = parse_config(text.encode(), weights)
    if beside is not None and beside != inside:
        logger.warning(
            "%s differs from the config that %s was saved with (was a save interrupted?); using the one in the weights",
            config_file,
            weights,
        )
    return inside


def weight_files(folder: Path) -> list[str]:
    """Names of the files with the weights: one file, or the shards that the index lists."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise SpatialBoostError(f"no {WEIGHTS} in {folder}: expected a folder that save_pretrained has written.")
    names = parse_index(read_small(index), index)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise SpatialBoostError(f"{index} names {missing[0]}, which is not there. Download or save the delta again.")
    return names


def locate(repo_or_folder: PathLike, options: HubOptions) -> Path:
    """The folder of a delta: the given one, or the folder in the Hub's cache to which this call downloads the files.

    Raises:
        SpatialBoostError: There is no such folder and no such repository, or the Hub refuses.
    """
    if options.subfolder and not stays_inside(options.subfolder):
        raise SpatialBoostError(f"subfolder={options.subfolder!r} leads out of the folder; give a path inside it.")
    folder = Path(repo_or_folder).expanduser()
    if folder.is_dir():
        return folder / options.subfolder if options.subfolder else folder
    if folder.is_file():
        return folder  # `read_folder` says what it is
    repo = delta_repo_id(repo_or_folder, options)
    config = fetch(repo, CONFIG, options)
    pinned = options.at(config)  # all files of one commit, even if somebody pushes in the meantime
    parse_config(read_small(config), config)  # before the weights are downloaded
    if fetch_file(repo, WEIGHTS, pinned) is None:
        index = fetch(repo, INDEX, pinned, instead_of=WEIGHTS)
        for name in parse_index(read_small(index), index):
            fetch(repo, name, pinned)
    return config.parent


def delta_repo_id(name: PathLike, options: HubOptions) -> str:
    """The `user/name` of a delta on the Hub, for a name that is not a folder here.

    Raises:
        SpatialBoostError: It looks like a path. Nothing is asked for over the network.
    """
    repo = repo_id_of(name, options, "a folder that save_pretrained has written")
    if "/" not in repo:
        raise SpatialBoostError(
            f"there is no folder {repo}: give a folder that save_pretrained has written, or `user/name` on the Hub"
        )
    return repo


def read_small(path: Path) -> bytes:
    """The content of a JSON file, which is refused if it is far too large to be a config or an index."""
    if (size := path.stat().st_size) > CONFIG_LIMIT:
        raise SpatialBoostError(
            f"{path} has {size:,} bytes, of at most {CONFIG_LIMIT:,}: it is not the config of a delta."
        )
    return path.read_bytes()
