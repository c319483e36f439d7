"""Write a delta so that an interrupted save leaves the earlier delta readable.

All files are first written under temporary names. The new delta becomes valid when `model.safetensors` is replaced, or
the index if the weights are in shards (new shards never have the names of old ones). Every file with weights also has
the config in its header, so `config.json` may be replaced later.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.canonical import meta_tensors, plus_tensors
from spatialboost.boosting.channel import SpatialChannel, full_value, require_boosted
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts import family_named
from spatialboost.weights.card import model_card
from spatialboost.weights.format import (
    CARD,
    CONFIG,
    INDEX,
    WEIGHTS,
    config_text,
    delta_checksum,
    index_text,
    parse_index,
    shard_names,
)
from spatialboost.weights.tensor_file import Entry, TensorWriter, is_finite, split

NamedTensors = Iterator[tuple[str, Tensor]]
BLANK = "0" * 16  # stands for the checksum until it is known


def is_main() -> bool:
    """Whether this process is the only one, or has rank 0."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def save_delta(
    model: nn.Module, folder: Path, config: dict[str, Any], *, dtype: torch.dtype | None, limit: int, writes: bool
) -> Path:
    """Write weights, config and card. A process that does not write still takes part in gathering sharded weights.

    Args:
        model: A boosted model that is not compiled.
        folder: Where to write; created if it does not exist.
        config: The result of `describe`.
        dtype: Dtype of the weights on disk; None keeps each.
        limit: Largest size of a file in bytes.
        writes: Whether this process writes.
    """
    entries = file_entries(model, dtype)
    config_text({**config, "checksum": BLANK})  # this and the next line raise their errors before anything is written
    card = model_card(config)
    tensors = stored_tensors(model, entries)
    try:
        if writes:
            _write(folder, config, card, split(entries, limit), tensors)
    except OSError:
        _exhaust(tensors)
        raise
    _exhaust(tensors)
    return folder


def _exhaust(tensors: NamedTensors) -> None:
    """Gather the remaining tensors, because the other processes wait for this one."""
    for _ in tensors:
        pass


def _write(
    folder: Path, config: dict[str, Any], card: str, parts: list[dict[str, Entry]], tensors: NamedTensors
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    old = _weights_in(folder)
    temporaries: list[Path] = []
    try:
        temporaries += [_temporary(folder, WEIGHTS) for _ in parts]
        config = _write_parts(temporaries, parts, tensors, config)
        sharded = len(parts) > 1
        names = shard_names(config, parts) if sharded else [WEIGHTS]
        for temporary, name in zip(temporaries, names, strict=True):
            _move(temporary, folder / name)
    finally:
        _remove(temporaries)
    if sharded:
        _write_text(folder / INDEX, index_text(names, parts))
        names = [*names, INDEX]
    _write_text(folder / CONFIG, config_text(config))
    _write_text(folder / CARD, card)
    _remove([folder / name for name in old - set(names)])


def file_entries(model: nn.Module, dtype: torch.dtype | None) -> dict[str, Entry]:
    """Dtype and shape of every tensor of the file; the float32 gates first, so that all offsets are even."""
    gates, rest = {}, {}
    for _, attention, channel in require_boosted(model):
        prefix = f"layers.{channel.index}."
        gates[f"{prefix}gate"] = Entry(torch.float32, tuple(channel.gate.shape))
        for key, outline in meta_tensors(attention, family_named(channel.family), channel).items():
            rest[prefix + key] = Entry(dtype or outline.dtype, tuple(outline.shape))
    return gates | rest


def stored_tensors(model: nn.Module, entries: dict[str, Entry]) -> NamedTensors:
    """Keys and tensors in the order and dtypes of `entries`; the weights of a sharded model are gathered one by one."""
    layers = require_boosted(model)
    for name, _, channel in layers:
        yield _stored(f"layers.{channel.index}.gate", full_value(channel.gate), entries, name)
    for name, attention, channel in layers:
        masked = family_named(channel.family).masked_biases(attention)
        for key, tensor in _all_but_gate(attention, channel):
            tensor = torch.zeros_like(tensor) if key in masked else tensor
            yield _stored(f"layers.{channel.index}.{key}", tensor, entries, name)


def _all_but_gate(attention: nn.Module, channel: SpatialChannel) -> NamedTensors:
    return ((key, tensor) for key, tensor in plus_tensors(attention, channel).items() if key != "gate")


def _stored(key: str, tensor: Tensor, entries: dict[str, Entry], layer: str) -> tuple[str, Tensor]:
    if not is_finite(tensor):
        raise SpatialBoostError(
            f"{layer}: Attn+ has values that are not finite ({key}); this is not saved. Train again with a lower "
            "learning rate."
        )
    stored = tensor.to(entries[key].dtype)
    if stored.dtype != tensor.dtype and not is_finite(stored):
        raise SpatialBoostError(f"{key} has values that {stored.dtype} cannot hold. Save with dtype=torch.bfloat16.")
    return key, stored


def _write_parts(
    paths: list[Path], parts: list[dict[str, Entry]], tensors: NamedTensors, config: dict[str, Any]
) -> dict[str, Any]:
    """Write the tensors; returns the config with the checksum of all tensors, which every header also contains."""
    blank = {"spatialboost": config_text({**config, "checksum": BLANK})}
    with ExitStack() as stack:
        writers = [TensorWriter(path, part, blank) for path, part in zip(paths, parts, strict=True)]
        for writer in writers:
            stack.callback(writer.close)
        writer_of = {key: writer for writer in writers for key in writer.entries}
        for key, tensor in tensors:
            writer_of[key].write(key, tensor)
        checksums = {key: value for writer in writers for key, value in writer.checksums.items()}
        config = {**config, "checksum": delta_checksum(checksums, config)}
        for writer in writers:
            writer.finish({"spatialboost": config_text(config)})
        return config


def _weights_in(folder: Path) -> set[str]:
    """Names of the weights and the index that an earlier save has left in a folder."""
    names = {name for name in (WEIGHTS, INDEX) if (folder / name).is_file()}
    if INDEX in names:
        with suppress(SpatialBoostError, OSError):
            names |= set(parse_index((folder / INDEX).read_bytes(), folder / INDEX))
    return names


def _temporary(folder: Path, name: str) -> Path:
    handle, path = tempfile.mkstemp(prefix=f".{name}.", suffix=".tmp", dir=folder)
    os.close(handle)
    return Path(path)


def _move(temporary: Path, path: Path) -> None:
    temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
    os.replace(temporary, path)


def _write_text(path: Path, text: str) -> None:
    """Write a temporary file, flush it to disk, and then rename it to `path`."""
    temporary = _temporary(path.parent, path.name)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text + "\n" if not text.endswith("\n") else text)
            file.flush()
            os.fsync(file.fileno())
        _move(temporary, path)
    finally:
        _remove([temporary])


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()
