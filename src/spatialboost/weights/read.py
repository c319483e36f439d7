"""The delta file: its names, its version, and how it is found, opened and checked, apart from any model."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from spatialboost.boosting.channel import GATES
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions, fetch, fetch_file
from spatialboost.weights.tensor_file import checksum, combined, is_finite, opened, read_header

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

FORMAT_VERSION = 2  # 1: no checksums, no shards
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
INDEX = f"{WEIGHTS}.index.json"  # names the shards, where there are any
SHARD = re.compile(r"model-[\w.-]+\.safetensors")
SHARD_PATTERN = "model-*.safetensors"
CONFIG_LIMIT = 1 << 20  # bytes; a real one has a few thousand
REQUIRED = {
    "format_version": int,
    "base_model": dict,
    "width": int,
    "depth": int,
    "layers": list,
    "gate": str,
    "fingerprint": dict,
    "checksum": str,
}


@dataclass(frozen=True)
class Delta:
    """A delta whose config and headers have been read and checked; tensors are read when they are needed.

    Attributes:
        folder: Where it lies on this machine.
        files: Weights; several where it is in shards.
        config: What it belongs to, in the newest version's form.
        shapes: Of each tensor.
        where: File of each tensor, by its place in `files`.
        checksums: Of each tensor; none for files of version 1.
    """

    folder: Path
    files: tuple[Path, ...]
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    where: dict[str, int]
    checksums: dict[str, str]

    @property
    def layers(self) -> list[int]:
        """Indices of the boosted blocks."""
        return list(self.config["layers"])

    @property
    def base_name(self) -> str:
        """The base as errors name it."""
        return repr(self.config["base_model"].get("name"))

    @contextmanager
    def open(self) -> Iterator[OpenDelta]:
        """Memory maps of the weights."""
        with opened(self.files) as files:
            yield OpenDelta(self, files)


class OpenDelta:
    """Tensors of a delta, as views of the mapped files."""

    def __init__(self, delta: Delta, files: list[Any]) -> None:
        self._delta = delta
        self._files = files

    def get(self, key: str) -> Tensor:
        """A tensor, not copied."""
        try:
            return self._files[self._delta.where[key]].get_tensor(key)
        except SafetensorError as error:  # the file is another one than the one whose header was read
            raise SpatialBoostError(f"{self._path(key)} has changed while it was read ({error}).") from error

    def check(self) -> None:
        """Raise where any tensor is not as `verified` wants it."""
        for key in self._delta.shapes:
            self.verified(key)

    def verified(self, key: str) -> Tensor:
        """A tensor, not copied; raises where it is not what was saved, or holds values that are not finite."""
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

    def _path(self, key: str) -> Path:
        return self._delta.files[self._delta.where[key]]


def read_delta(repo_or_folder: PathLike, options: HubOptions | None = None) -> Delta:
    """Find a delta in a folder or on the Hub, of which only the files that are needed are downloaded; read its headers.

    Raises:
        SpatialBoostError: Nothing is there, or what is there is no delta that this version can read.
    """
    return read_folder(locate(repo_or_folder, options or HubOptions()))


def read_folder(folder: Path) -> Delta:
    """The delta that lies in a folder."""
    if not folder.is_dir():
        raise SpatialBoostError(f"there is no folder {folder}: expected one that save_pretrained has written.")
    files = [folder / name for name in weight_files(folder)]
    headers = [read_header(path) for path in files]
    inside = [header.metadata.get("spatialboost") for header in headers]
    if len(set(inside)) > 1:
        raise SpatialBoostError(f"the files in {folder} are of different saves. Download or save them again.")
    config, text, beside = None, inside[0], folder / CONFIG
    if beside.is_file():
        config = parse_config(read_small(beside), beside)
    if text is not None and (own := parse_config(text.encode(), files[0])) != config:
        if config is not None:
            logger.warning(
                "%s is not the config that %s was saved with (a save cut short?); the one in the weights is used",
                beside,
                files[0],
            )
        config = own
    if config is None:
        raise SpatialBoostError(f"no {CONFIG} in {folder}, and {files[0].name} was not saved by spatialboost.")

    shapes: dict[str, tuple[int, ...]] = {}
    where: dict[str, int] = {}
    checksums: dict[str, str] = {}
    for number, (path, header) in enumerate(zip(files, headers, strict=True)):
        shapes |= header.shapes
        where |= dict.fromkeys(header.shapes, number)
        checksums |= _parse_checksums(header.metadata.get("checksums"), path, header.shapes, config)
    if config["checksum"] is not None and combined(checksums, config) != config["checksum"]:
        raise SpatialBoostError(
            f"{files[0]} is damaged: its config is not the one that was saved with these weights. Download or save it "
            "again."
        )
    return Delta(folder, tuple(files), config, shapes, where, checksums)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights: one, or the shards that the index names."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise SpatialBoostError(f"no {WEIGHTS} in {folder}: expected a folder that save_pretrained has written.")
    names = shard_names(read_small(index), index)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise SpatialBoostError(f"{index} names {missing[0]}, which is not there. Download or save the delta again.")
    return names


def shard_names(raw: bytes, index: Path) -> list[str]:
    """Names of the shards, from an index; none of them leads out of the folder."""
    content = _parse_json(raw, index)
    weight_map = content.get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    wrong = [name for name in names if not (isinstance(name, str) and SHARD.fullmatch(name))]
    if not names or wrong:
        raise SpatialBoostError(
            f"{index} names the file {str((wrong or ['none'])[0])[:80]!r}; expected names such as "
            "model-1a2b-00001-of-00002.safetensors in its weight_map."
        )
    return list(dict.fromkeys(names))


def locate(repo_or_folder: PathLike, options: HubOptions) -> Path:
    """The folder with a delta: one's own, or one in the cache, filled from the Hub.

    Raises:
        SpatialBoostError: There is no such folder and no such repository, or the Hub refuses.
    """
    if options.subfolder and not _stays_inside(options.subfolder):
        raise SpatialBoostError(f"subfolder={options.subfolder!r} leads out of the folder; expected a path inside it.")
    folder = Path(repo_or_folder).expanduser()
    if folder.is_dir():
        return folder / options.subfolder if options.subfolder else folder
    repo = str(repo_or_folder)
    if not is_repo_id(repo_or_folder):
        raise SpatialBoostError(
            f"there is no folder {repo}. Give a folder that save_pretrained has written, or `user/name` on the Hub."
        )
    config = fetch(repo, CONFIG, options)
    pinned = options.at(config)  # all files of one commit, whatever is pushed meanwhile
    parse_config(read_small(config), config)  # before the weights are downloaded
    if fetch_file(repo, WEIGHTS, pinned) is None:
        index = fetch(repo, INDEX, pinned, instead_of=WEIGHTS)
        for name in shard_names(read_small(index), index):
            fetch(repo, name, pinned)
    return config.parent


def is_repo_id(name: PathLike) -> bool:
    """Whether this reads as `user/name` rather than as a path."""
    text = str(name)
    return not (
        isinstance(name, os.PathLike) or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text
    )


def _stays_inside(subfolder: str) -> bool:
    path = Path(subfolder)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in subfolder


def read_small(path: Path) -> bytes:
    """A file of JSON, which is not read if it is far too large to be one of ours."""
    if (size := path.stat().st_size) > CONFIG_LIMIT:
        raise SpatialBoostError(f"{path} has {size:,} bytes, of at most {CONFIG_LIMIT:,}: it is no config of a delta.")
    return path.read_bytes()


def _parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SpatialBoostError(f"the config in {path} is no JSON ({error}). Download or save it again.") from error
    if not isinstance(content, dict):
        raise SpatialBoostError(f"the config in {path} is no config of a delta.")
    return content


def parse_config(raw: bytes, path: Path) -> dict[str, Any]:
    """A config, checked, in the form of the newest version.

    Raises:
        SpatialBoostError: It is none, or of a version that is newer than this.
    """
    config = _parse_json(raw, path)
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        raise SpatialBoostError(f"the config in {path} has format_version={str(version)[:40]}; expected 1 or more.")
    if version > FORMAT_VERSION:
        raise SpatialBoostError(
            f"{path} has format {version}; this version of spatialboost reads up to {FORMAT_VERSION}. Upgrade "
            "spatialboost."
        )
    wrong = [key for key, kind in REQUIRED.items() if type(config.get(key)) is not kind]
    if version == 1 and "checksum" in wrong:
        wrong.remove("checksum")
    if wrong:
        raise SpatialBoostError(f"the config in {path} lacks, or has of another type: {', '.join(wrong)}.")
    layers, gate = config["layers"], config["gate"]
    if not layers or not all(type(i) is int and i >= 0 for i in layers) or gate not in GATES:
        raise SpatialBoostError(f"the config in {path} has layers={str(layers)[:80]}, gate={gate[:80]!r}.")
    if layers != sorted(set(layers)):
        raise SpatialBoostError(f"the config in {path} has layers={str(layers)[:80]}: not in order, or twice.")
    return _upgraded(config)


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A config of an older version as one of the newest; a step for each version."""
    if config["format_version"] == 1:
        config = {"checksum": None, "results": []} | config | {"format_version": 2}
    return config


def _parse_checksums(
    text: str | None, path: Path, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]
) -> dict[str, str]:
    if config["checksum"] is None and text is None:
        return {}
    found = _parse_json((text or "{}").encode(), path)
    if missing := sorted(shapes.keys() ^ found.keys()):
        raise SpatialBoostError(f"{path} lacks checksums: {missing[0]} ({len(missing)}). Download or save it again.")
    return found


def state_dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    """A dtype that weights are saved in, by itself or by name.

    Raises:
        SpatialBoostError: It is none.
    """
    dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if name is not None and (not isinstance(dtype, torch.dtype) or dtype not in DTYPES):
        expected = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise SpatialBoostError(f"dtype={name!r} is none that weights are saved in; expected {expected}.")
    return dtype


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
