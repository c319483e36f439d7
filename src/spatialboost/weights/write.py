"""Write a delta so that a save which is cut short, at whatever point, leaves the one before it whole.

One replacement decides: of `model.safetensors`, or of the index where there are shards, whose names carry the checksum
of what they hold, so that no new shard takes the place of an old one. The config is in every file's header as well, so
that the weights are whole without the files that are replaced after them.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import SpatialChannel, full_value, require_boosted
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts import family_named
from spatialboost.weights.card import model_card
from spatialboost.weights.layout import outlines, plus_tensors
from spatialboost.weights.read import CARD, CONFIG, CONFIG_LIMIT, INDEX, WEIGHTS, shard_names
from spatialboost.weights.tensor_file import Entry, TensorWriter, combined, digest, is_finite, split

Values = Iterator[tuple[str, Tensor]]
BLANK = "0" * 16  # stands for the checksum until that is known


def is_main() -> bool:
    """Whether this process is the only one, or the first of several."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def save_delta(
    model: nn.Module, folder: Path, config: dict[str, Any], *, dtype: torch.dtype | None, limit: int, writes: bool
) -> Path:
    """Write weights, config and card; a process that does not write only gives its shards to the one that does.

    Args:
        model: Boosted, not compiled.
        folder: Made if it is not there.
        config: Of `describe`.
        dtype: Of the weights on disk.
        limit: Bytes of a file.
        writes: Whether this process does.
    """
    entries = plan(model, dtype)
    as_text({**config, "checksum": BLANK})  # raises before anything is written
    values = tensors(model, entries)
    try:
        if writes:
            _write(folder, config, split(entries, limit), values)
    except OSError:
        for _ in values:  # the other processes wait for this one's part in each gathering
            pass
        raise
    for _ in values:
        pass
    return folder


def _write(folder: Path, config: dict[str, Any], parts: list[dict[str, Entry]], values: Values) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    old, index = _files_of(folder), None
    temporaries: list[Path] = []
    try:
        temporaries += [_temporary(folder, WEIGHTS) for _ in parts]
        config = _write_parts(temporaries, parts, values, config)
        names, card = [WEIGHTS], model_card(config)
        if len(parts) > 1:
            names = _shard_names(config, parts)
            index = _index(names, parts)
        for temporary, name in zip(temporaries, names, strict=True):
            _put(temporary, folder / name)
    finally:
        _remove(temporaries)
    if index is not None:
        _write_text(folder / INDEX, index)
    _write_text(folder / CONFIG, as_text(config))
    _write_text(folder / CARD, card)
    _remove([folder / name for name in old - {*names, *([INDEX] if index else [])}])


def plan(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Entry]:
    """Every tensor of the file: gates first, whose float32 puts all others at even addresses."""
    gates, rest = {}, {}
    for _, attention, channel in require_boosted(model):
        prefix = f"layers.{channel.index}."
        gates[f"{prefix}gate"] = Entry(torch.float32, tuple(channel.gate.shape))
        for key, outline in outlines(attention, family_named(channel.family), channel).items():
            rest[prefix + key] = Entry(dtype or outline.dtype, tuple(outline.shape))
    return gates | rest


def tensors(model: nn.Module, entries: dict[str, Entry]) -> Values:
    """Key and values, in the order of `entries` and as they are stored; gathered where the model is sharded."""
    layers = require_boosted(model)
    for name, _, channel in layers:
        yield _stored(f"layers.{channel.index}.gate", full_value(channel.gate), entries, name)
    for name, attention, channel in layers:
        masked = family_named(channel.family).masked_biases(attention)
        for key, tensor in _all_but_gate(attention, channel):
            tensor = torch.zeros_like(tensor) if key in masked else tensor
            yield _stored(f"layers.{channel.index}.{key}", tensor, entries, name)


def _all_but_gate(attention: nn.Module, channel: SpatialChannel) -> Values:
    return ((key, tensor) for key, tensor in plus_tensors(attention, channel).items() if key != "gate")


def _stored(key: str, tensor: Tensor, entries: dict[str, Entry], name: str) -> tuple[str, Tensor]:
    if not is_finite(tensor):
        raise SpatialBoostError(
            f"{name}: Attn+ has values that are not finite ({key}); this is not saved. Lower the rate?"
        )
    stored = tensor.to(entries[key].dtype)
    if stored.dtype != tensor.dtype and not is_finite(stored):
        raise SpatialBoostError(f"{key} has values that {stored.dtype} cannot hold. Save with dtype=torch.bfloat16.")
    return key, stored


def _write_parts(
    paths: list[Path], parts: list[dict[str, Entry]], values: Values, config: dict[str, Any]
) -> dict[str, Any]:
    """Write the tensors; returns the config with their checksum, which stands in every header."""
    blank = {"spatialboost": as_text({**config, "checksum": BLANK})}
    with ExitStack() as stack:
        writers = [TensorWriter(path, part, blank) for path, part in zip(paths, parts, strict=True)]
        for writer in writers:
            stack.callback(writer.close)
        place = {key: writer for writer in writers for key in writer.entries}
        for key, tensor in values:
            place[key].write(key, tensor)
        checksums = {key: value for writer in writers for key, value in writer.checksums.items()}
        config = {**config, "checksum": combined(checksums, config)}
        for writer in writers:
            writer.finish({"spatialboost": as_text(config)})
        return config


def as_text(config: dict[str, Any]) -> str:
    """The config as it is written: JSON with each list of numbers on one line."""
    text = json.dumps(config, indent=2, allow_nan=False)
    text = re.sub(r"\[[-+.\de,\s]+\]", lambda numbers: " ".join(numbers[0].split()), text)
    if len(text) > CONFIG_LIMIT:
        raise SpatialBoostError(
            f"config.json would have {len(text):,} bytes, of at most {CONFIG_LIMIT:,}: shorten `training`."
        )
    return text


def _shard_names(config: dict[str, Any], parts: list[dict[str, Entry]]) -> list[str]:
    """Names that no other content has: of the weights, of the config in each header, of where the cuts are."""
    content = digest(as_text(config).encode(), str([len(part) for part in parts]).encode())[:8]
    return [f"model-{content}-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]


def _index(names: list[str], parts: list[dict[str, Entry]]) -> str:
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    total = sum(entry.nbytes for part in parts for entry in part.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)


def _files_of(folder: Path) -> set[str]:
    """Weights that a save before this one has left, as far as they are ours."""
    names = {name for name in (WEIGHTS, INDEX) if (folder / name).is_file()}
    if INDEX in names:
        with suppress(SpatialBoostError, OSError):
            names |= set(shard_names((folder / INDEX).read_bytes(), folder / INDEX))
    return names


def _temporary(folder: Path, name: str) -> Path:
    handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    return Path(path)


def _put(temporary: Path, path: Path) -> None:
    temporary.chmod(0o644)  # mkstemp's are for the owner alone
    os.replace(temporary, path)


def _write_text(path: Path, text: str) -> None:
    """Write a file beside `path`, flush it to disk, and only then put it in the place of `path`."""
    temporary = _temporary(path.parent, path.name)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n" if not text.endswith("\n") else text)
            file.flush()
            os.fsync(file.fileno())
        _put(temporary, path)
    finally:
        _remove([temporary])


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()
