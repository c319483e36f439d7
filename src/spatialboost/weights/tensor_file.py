"""Tensors on disk: safetensors files written one tensor at a time, and checksums that detect damage.

Why this is not left to the safetensors package: `safetensors.torch.save_file` takes all tensors at once, on the CPU and
in their final dtype. For a model that is in another dtype, on a GPU or sharded, that means a second copy of the weights
in memory. The format is simple (a length, a JSON header, raw bytes:
https://github.com/huggingface/safetensors#format), so the writer here holds one tensor at a time. Files are read by the
safetensors package. The checksum is our own because safetensors files have none, and because a hash of all bytes would
take longer than loading does.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spatialboost.errors import SpatialBoostError

DTYPE_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
SIZE_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
COLUMNS = 509  # in words; a prime number, so that two exchanged pages or sectors of a file give other sums


@dataclass(frozen=True)
class Entry:
    """Dtype and shape of a tensor on disk."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def checksum(tensor: Tensor) -> str:
    """16 hexadecimal digits over dtype, shape and bytes of a tensor on the CPU; any flipped bit changes them.

    The bytes are arranged as rows of 64-bit words; the sums of the columns, modulo 2^64, are hashed. This is as fast as
    reading the memory, and faster than a hash of all bytes. It detects damage; it does not stop intended changes.
    """
    raw = as_bytes(tensor)
    num_words = raw.size // 8
    words, rest = raw[: 8 * num_words].view("<u8"), raw[8 * num_words :]
    in_full_rows = num_words // COLUMNS * COLUMNS
    columns = words[:in_full_rows].reshape(-1, COLUMNS).sum(axis=0, dtype=np.uint64)
    columns[: num_words - in_full_rows] += words[in_full_rows:]
    return digest(f"{tensor.dtype}{list(tensor.shape)}".encode(), columns.tobytes(), rest.tobytes())


def digest(*parts: bytes) -> str:
    """16 hexadecimal digits over some bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def as_bytes(tensor: Tensor) -> np.ndarray:
    """The bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy()


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or NaN. Minimum and maximum show both in one pass, without a mask."""
    return not tensor.numel() or all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


# --- writing


class TensorWriter:
    """Writes a safetensors file; the tensors are given one by one, in the order of `entries`.

    The header comes before the tensors, but contains their checksums, which are known only after the tensors have been
    written. So the header is written twice, the second time over the first. `metadata` may change in between, but must
    keep its length.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self.path = path
        self.entries = entries
        self.checksums = dict.fromkeys(entries, "0" * 16)
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115 - closed by `close`
        header = self._header(metadata)
        self._length = len(header)
        self._file.write(header)

    def write(self, key: str, tensor: Tensor) -> None:
        """Append a tensor, which must have the dtype and shape of its entry."""
        tensor = tensor.cpu().contiguous()
        assert self.entries[key] == Entry(tensor.dtype, tuple(tensor.shape)), key
        self.checksums[key] = checksum(tensor)
        self._file.write(as_bytes(tensor).data)

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header again, now with the checksums, and flush everything to disk."""
        header = self._header(metadata)
        assert len(header) == self._length
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()

    def _header(self, metadata: Mapping[str, str]) -> bytes:
        header: dict[str, Any] = {
            "__metadata__": {"format": "pt", **metadata, "checksums": json.dumps(self.checksums, separators=(",", ":"))}
        }
        end = 0
        for key, entry in self.entries.items():
            start, end = end, end + entry.nbytes
            header[key] = {"dtype": DTYPE_NAMES[entry.dtype], "shape": entry.shape, "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # so that the tensors begin at a multiple of 8
        return len(text).to_bytes(8, "little") + text


def split(entries: Mapping[str, Entry], limit: int) -> list[dict[str, Entry]]:
    """Divide entries, in order, into shards of at most `limit` bytes; a larger tensor gets a shard of its own."""
    shards: list[dict[str, Entry]] = [{}]
    size = 0
    for key, entry in entries.items():
        if shards[-1] and size + entry.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][key] = entry
        size += entry.nbytes
    return shards


def parse_size(size: int | str) -> int:
    """The number of bytes that `"5GB"`, `"500MB"`, `"1GiB"` or a number stands for.

    Raises:
        SpatialBoostError: The argument is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?B|)\s*", str(size).upper())
    if found is None or found[2] not in SIZE_UNITS or (total := int(float(found[1]) * SIZE_UNITS[found[2]])) < 1:
        raise SpatialBoostError(
            f"max_shard_size={size!r} is not a size; expected a number of bytes, or a text such as '5GB'."
        )
    return total


# --- reading


@dataclass(frozen=True)
class Header:
    """Shapes and metadata from the header of a safetensors file."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        SpatialBoostError: The file is missing, incomplete, or not a safetensors file.
    """
    with open_files([path]) as files:
        file = files[0]
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return Header(shapes, file.metadata() or {})


@contextmanager
def open_files(paths: Sequence[Path]) -> Iterator[list[Any]]:
    """Memory maps of safetensors files, for as long as the context lasts."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        except (SafetensorError, OSError) as error:
            bad = next((p for p in paths if not _opens(p)), paths[0])
            raise SpatialBoostError(
                f"{bad} is not a complete safetensors file ({error}). Download or save it again."
            ) from error
        yield files


def _opens(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False
