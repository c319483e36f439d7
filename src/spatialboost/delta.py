"""A delta file as it lies in a folder or on the Hub: found, opened and checked, apart from any model."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .channel import GATES
from .errors import SpatialBoostError

logger = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]

FORMAT_VERSION = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
CONFIG_LIMIT = 1 << 20  # bytes; a real one has a few thousand
REQUIRED = {
    "format_version": int,
    "base_model": dict,
    "width": int,
    "depth": int,
    "layers": list,
    "gate": str,
    "fingerprint": dict,
}


@dataclass(frozen=True)
class Delta:
    """A delta file whose config and header have been read and checked; tensors are read when they are needed."""

    path: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def layers(self) -> list[int]:
        """Indices of the boosted blocks."""
        return list(self.config["layers"])


def read_delta(
    repo_or_folder: PathLike,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: PathLike | None = None,
    local_files_only: bool = False,
) -> Delta:
    """Find a delta in a folder or on the Hub and read its config and header.

    Raises:
        SpatialBoostError: Nothing is there, or what is there is no delta that this version can read.
    """
    hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    folder = _locate(repo_or_folder, hub)
    path = folder / WEIGHTS
    if not path.is_file():
        raise SpatialBoostError(f"no {WEIGHTS} in {folder}: expected a folder that save_pretrained has written.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise SpatialBoostError(f"{path} is no whole safetensors file ({error}). Download or save it again.") from error
    beside = folder / CONFIG
    if beside.is_file():
        size = beside.stat().st_size
        if size > CONFIG_LIMIT:
            raise SpatialBoostError(
                f"{beside} has {size:,} bytes, of at most {CONFIG_LIMIT:,}: it is no config of a delta."
            )
        config = _parse(beside.read_bytes(), beside)
        if (text := metadata.get("spatialboost")) is not None and (inside := _parse(text.encode(), path)) != config:
            logger.warning(
                "%s is not the config that %s was saved with (a save cut short?); the one in the weights is used",
                beside,
                path,
            )
            config = inside
    elif "spatialboost" in metadata:
        config = _parse(metadata["spatialboost"].encode(), path)
    else:
        raise SpatialBoostError(f"no {CONFIG} in {folder}, and {WEIGHTS} was not saved by spatialboost.")
    return Delta(path, config, shapes)


def _locate(repo_or_folder: PathLike, hub: dict[str, Any]) -> Path:
    folder = Path(repo_or_folder).expanduser()
    if folder.is_dir():
        return folder
    name = str(repo_or_folder)
    if (
        isinstance(repo_or_folder, os.PathLike)
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or "\\" in name
    ):
        raise SpatialBoostError(
            f"there is no folder {name}. Give a folder that save_pretrained has written, or `user/name` on the Hub."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, CONFIG, CARD], library_name="spatialboost", **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SpatialBoostError(f"{name!r} is no folder here, and could not be had from the Hub: {error}") from error


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(raw) if len(raw) <= CONFIG_LIMIT else None
    except (ValueError, RecursionError) as error:
        raise SpatialBoostError(f"the config in {path} is no JSON ({error}). Download or save it again.") from error
    if not isinstance(config, dict):
        raise SpatialBoostError(f"the config in {path} is no config of a delta.")
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise SpatialBoostError(
            f"{path} has format {version}; this version of spatialboost reads up to {FORMAT_VERSION}. Upgrade "
            "spatialboost."
        )
    if wrong := [
        key
        for key, kind in REQUIRED.items()
        if not isinstance(config.get(key), kind) or isinstance(config.get(key), bool)
    ]:
        raise SpatialBoostError(f"the config in {path} lacks, or has of another type: {', '.join(wrong)}.")
    if (
        not config["layers"]
        or not all(type(i) is int and i >= 0 for i in config["layers"])
        or config["gate"] not in GATES
    ):
        raise SpatialBoostError(f"the config in {path} has layers={config['layers']!r}, gate={config['gate']!r}.")
    return config
