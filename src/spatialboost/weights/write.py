"""Write a delta so that an interrupted save leaves the earlier delta readable.

All files are first written under temporary names. The new delta becomes valid when `model.safetensors` is replaced, or
the index if the weights are in shards (new shards never have the names of old ones). Every file with weights also has
the config in its header, so `config.json` may be replaced later.

A save that is killed leaves its temporary files, and perhaps shards that no index names. The next save removes them. It
knows that their save is not running any more, because a process locks its temporary files and its end unlocks them.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
TEMPORARY = re.compile(rf"\.({re.escape(WEIGHTS)}|{re.escape(INDEX)}|{re.escape(CONFIG)}|{re.escape(CARD)})\.\w+\.tmp")
OWN_SHARD = re.compile(r"model-[0-9a-f]{8}-\d{5}-of-\d{5}\.safetensors")  # as `shard_names` names them
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
            write_delta(folder, config, card, split(entries, limit), tensors)
    except OSError:
        _exhaust(tensors)
        raise
    _exhaust(tensors)
    return folder


def _exhaust(tensors: NamedTensors) -> None:
    """Gather the remaining tensors, because the other processes wait for this one."""
    for _ in tensors:
        pass


def write_delta(
    folder: Path, config: dict[str, Any], card: str, parts: list[dict[str, Entry]], tensors: NamedTensors
) -> None:
    """Write a delta into a folder; it becomes valid when all its weights have been written.

    Args:
        folder: Where to write; created if it does not exist.
        config: The config; its checksum is set here.
        card: The model card.
        parts: The tensors of each file.
        tensors: All tensors in the order of `parts`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    old = _weights_in(folder)
    sharded = len(parts) > 1
    with _temporaries(folder, [INDEX, CONFIG, CARD] + [WEIGHTS] * len(parts)) as (index, config_file, readme, *weights):
        config = _write_parts(weights, parts, tensors, config)
        names = shard_names(config, parts) if sharded else [WEIGHTS]
        for path, text in ((index, index_text(names, parts)), (config_file, config_text(config)), (readme, card)):
            _write_text(path, text)
        for temporary, name in zip(weights, names, strict=True):
            _move(temporary, folder / name)
        if sharded:
            _move(index, folder / INDEX)
            names = [*names, INDEX]
        _move(config_file, folder / CONFIG)
        _move(readme, folder / CARD)
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


@contextmanager
def _temporaries(folder: Path, names: list[str]) -> Iterator[list[Path]]:
    """Empty, locked files with temporary names; those that have not been moved are removed at the end."""
    paths: list[Path] = []
    with ExitStack() as locks:
        try:
            while len(paths) < len(names):
                handle, path = tempfile.mkstemp(prefix=f".{names[len(paths)]}.", suffix=".tmp", dir=folder)
                paths.append(Path(path))
                if _lock(handle):
                    locks.callback(os.close, handle)
                else:
                    os.close(handle)
                if not paths[-1].exists():  # another save has removed it before it was locked
                    paths.pop()
            yield paths
        finally:
            _remove(paths)


def _lock(handle: int) -> bool:
    """Lock an open file for this process; False if another process has locked it, or on Windows.

    On Windows nothing is locked: a file that another process has open cannot be removed there.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sweep(folder: Path) -> None:
    """Remove what killed saves have left; nothing of a save that is running in another process."""
    running = False
    files = [path for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    for path in files:
        if TEMPORARY.fullmatch(path.name):
            running |= not _remove_unlocked(path)
    if not running:
        named = _weights_in(folder)
        _remove([path for path in files if OWN_SHARD.fullmatch(path.name) and path.name not in named])


def _remove_unlocked(path: Path) -> bool:
    """Remove a file unless another process has locked it; whether it is gone."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    free = _lock(handle) or os.name == "nt"
    if os.name == "nt":  # an open file cannot be removed there
        os.close(handle)
    try:
        if free:
            path.unlink(missing_ok=True)
    except OSError:
        free = False
    if os.name != "nt":
        os.close(handle)
    return free


def _move(temporary: Path, path: Path) -> None:
    temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
    os.replace(temporary, path)


def _write_text(path: Path, text: str) -> None:
    """Write a file and flush it to disk."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n" if not text.endswith("\n") else text)
        file.flush()
        os.fsync(file.fileno())


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            path.unlink()
