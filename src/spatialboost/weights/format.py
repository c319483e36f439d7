"""The format of a delta: names of its files, its versions, and its config, index and checksums as text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spatialboost.boosting.channel import GATES
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.tensor_file import Entry, digest

FORMAT_VERSION = 2  # version 1 had no checksums and no shards
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
INDEX = f"{WEIGHTS}.index.json"  # lists the shards; exists only if the weights are in shards
SHARD = re.compile(r"model-[\w.-]+\.safetensors")
SHARD_PATTERN = "model-*.safetensors"
CONFIG_LIMIT = 1 << 20  # bytes; a config usually has a few thousand
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
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # the dtypes in which weights may be stored


# --- config


def parse_config(raw: bytes, path: Path) -> dict[str, Any]:
    """Read a config from bytes, check it, and bring it into the form of the newest version.

    Args:
        raw: The content of `config.json`, or the copy in a header.
        path: Where it comes from, for error messages.

    Raises:
        SpatialBoostError: It is not the config of a delta, or its version is newer than `FORMAT_VERSION`.
    """
    config = parse_json(raw, path)
    version = config.get("format_version")
    if type(version) is not int or version < 1:
        kind = config.get("model_type") or config.get("architecture")
        hint = f" It is the config of a whole model ({str(kind)[:80]}), not of a delta." if kind else ""
        raise SpatialBoostError(
            f"the config in {path} has format_version={str(version)[:40]}; expected 1 or more.{hint}"
        )
    if version > FORMAT_VERSION:
        raise SpatialBoostError(
            f"{path} has format {version}; this version of spatialboost reads up to {FORMAT_VERSION}. Upgrade "
            "spatialboost."
        )
    wrong = [key for key, kind in REQUIRED.items() if type(config.get(key)) is not kind]
    if version == 1 and "checksum" in wrong:
        wrong.remove("checksum")
    if wrong:
        raise SpatialBoostError(f"in the config in {path}, these are missing or of a wrong type: {', '.join(wrong)}.")
    layers, gate = config["layers"], config["gate"]
    if not layers or not all(type(i) is int and i >= 0 for i in layers) or gate not in GATES:
        raise SpatialBoostError(
            f"the config in {path} has layers={str(layers)[:80]}, gate={gate[:80]!r}; expected block indices, and a "
            f"gate of {', '.join(GATES)}."
        )
    if layers != sorted(set(layers)):
        raise SpatialBoostError(
            f"the config in {path} has layers={str(layers)[:80]}; expected them in order, and each once."
        )
    return _upgraded(config)


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The config of an older version in the form of the newest; one step for each version."""
    if config["format_version"] == 1:
        config = {"checksum": None, "results": []} | config | {"format_version": 2}
    return config


def config_text(config: Mapping[str, Any]) -> str:
    """The config as it is written: JSON with each list of numbers on one line.

    Raises:
        SpatialBoostError: It would be larger than the limit for reading a config.
    """
    text = json.dumps(config, indent=2, allow_nan=False)
    text = re.sub(r"\[[-+.\de,\s]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    if len(text) > CONFIG_LIMIT:
        raise SpatialBoostError(
            f"config.json would have {len(text):,} bytes; at most {CONFIG_LIMIT:,} are allowed. Shorten `training`."
        )
    return text


def parse_json(raw: bytes, path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        SpatialBoostError: The bytes are not a JSON object.
    """
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise SpatialBoostError(f"the config in {path} is not JSON ({error}). Download or save it again.") from error
    if not isinstance(content, dict):
        raise SpatialBoostError(
            f"the JSON in {path} is not an object, so it is not a config. Download or save it again."
        )
    return content


# --- checksums


def delta_checksum(checksums: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """One checksum over the checksums of all tensors and the config; the order of their entries does not matter."""
    content = {key: value for key, value in config.items() if key != "checksum"}
    return digest(json.dumps([content, dict(checksums)], sort_keys=True).encode())


def parse_checksums(text: str | None, path: Path, keys: Sequence[str], config: Mapping[str, Any]) -> dict[str, str]:
    """The checksum of each tensor of a file, from the file's header; empty for files of version 1.

    Raises:
        SpatialBoostError: There is not exactly one checksum for each of `keys`.
    """
    if config["checksum"] is None and text is None:
        return {}
    found = parse_json((text or "{}").encode(), path)
    if wrong := sorted(set(keys) ^ found.keys()):
        raise SpatialBoostError(f"{path} lacks checksums: {wrong[0]} ({len(wrong)}). Download or save it again.")
    return found


# --- shards


def shard_names(config: Mapping[str, Any], parts: Sequence[Mapping[str, Entry]]) -> list[str]:
    """File names for the shards of a delta.

    Each name contains a digest of the config (which contains the checksum of the weights) and of the number of tensors
    in each shard. Shards with different content therefore get different names, and writing them never replaces a shard
    of an older save.
    """
    content = digest(config_text(config).encode(), str([len(part) for part in parts]).encode())[:8]
    return [f"model-{content}-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]


def index_text(names: Sequence[str], parts: Sequence[Mapping[str, Entry]]) -> str:
    """The index of the shards, as the Hub's libraries write it: the file of each tensor, and the total bytes."""
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    total = sum(entry.nbytes for part in parts for entry in part.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)


def parse_index(raw: bytes, path: Path) -> list[str]:
    """The file names of the shards in an index; all are files of the same folder.

    Raises:
        SpatialBoostError: It is not an index, or it names something other than a shard.
    """
    weight_map = parse_json(raw, path).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    wrong = [name for name in names if not (isinstance(name, str) and SHARD.fullmatch(name))]
    if not names or wrong:
        raise SpatialBoostError(
            f"{path} names the file {str((wrong or ['none'])[0])[:80]!r}; expected names such as "
            "model-1a2b-00001-of-00002.safetensors in its weight_map."
        )
    return list(dict.fromkeys(names))


# --- dtypes


def stored_dtype(name: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype that weights are stored in, given as a dtype or by name; None stays None.

    Raises:
        SpatialBoostError: Weights cannot be stored in it.
    """
    dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else name
    if name is not None and (not isinstance(dtype, torch.dtype) or dtype not in DTYPES):
        expected = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise SpatialBoostError(f"dtype={name!r}: weights cannot be stored in this; expected {expected}.")
    return dtype
