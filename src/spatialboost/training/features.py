"""Features of a frozen encoder for each image, computed once and stored in files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_layer, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.training.movement import state_digest

# Shape legend: R rows of the data set, I images of all rows of a batch, N patches, D width of the encoder.


class FeatureStore:
    """Patch tokens of a frozen encoder: computed when a batch first needs them, then read from a file.

    In a distributed run, each process computes the features of its own rows and appends them to its own files. Every
    process reads the files of all processes. So each of n processes computes 1/n of the data set. If a process is
    killed, the files stay, and the next run uses them, also with another number of processes. Memory does not grow
    with the data set: index files are memory-mapped, and features are read from the files when a batch needs them.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2).eval()
        >>> store = FeatureStore(num_rows=10)
        >>> store.open(encoder, layer=-1, image_size=(32, 32))
        >>> batch = {"pixel_values": torch.zeros(1, 3, 32, 32)}
        >>> batch |= {"feature_rows": torch.tensor([7]), "feature_counts": torch.tensor([1])}
        >>> store.complete(batch)["patch_features"].shape, store.has(7), store.has(8)
        (torch.Size([1, 4, 48]), True, False)

    Args:
        num_rows: Rows of the data set.
        folder: Folder for the files; None uses a temporary folder, which is deleted with the store.
        limit: Largest size in bytes of the features as float32, counting one image per row. A larger data set is
            stored as float16.
    """

    def __init__(self, num_rows: int, *, folder: Path | None = None, limit: float = 4e9) -> None:
        self.num_rows, self.folder, self.limit = num_rows, folder, limit
        self.encoder: nn.Module | None = None
        self.layer = -1
        self.name = ""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._shards: dict[int, _Shard] = {}
        self._ranks: list[int] = []  # whose files are read, this process first

    def __getstate__(self) -> dict[str, Any]:
        """State for worker processes: no encoder and no open files, as workers only call `has` and `read`."""
        return {**self.__dict__, "encoder": None, "_temporary": None, "_shards": {}}

    def open(self, encoder: nn.Module, layer: int, *, image_size: tuple[int, int]) -> None:
        """Store features of this encoder. Other weights, layers or image sizes have other files."""
        identity = (state_digest(encoder), feature_layer(encoder, layer), image_size, self.num_rows)
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        self.encoder, self.layer = encoder, layer
        if name == self.name:
            return
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="spatialboost-features-")
            self.folder = Path(self._temporary.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name, self._shards = name, {}
        # also of processes that an earlier run had and this one has not
        found = [int(file.stem.rpartition("-")[2]) for file in self.folder.glob(f"{name}-*.index")]
        self._ranks = sorted({*found, *range(_world_size())}, key=lambda rank: rank != _rank())
        self._own_shard().create()

    def has(self, number: int) -> bool:
        """Whether any process has stored the features of a row."""
        return self._shard_of(number) is not None

    def read(self, number: int) -> Tensor:
        """Features of a row ``(images, N, D)``, float32."""
        shard = self._shard_of(number)
        if shard is None:
            raise SpatialBoostError(f"the features of row {number} have not been computed: call complete() first")
        return shard.read(number)

    def complete(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of `RowCollator` with ``patch_features`` ``(I, N, D)`` in place of the pixels.

        Features that are not stored yet are computed in one forward pass and stored.
        """
        if self.encoder is None:
            raise SpatialBoostError("the store of features has no encoder: call open() first")
        batch = dict(batch)
        numbers, counts = (batch.pop(name).tolist() for name in ("feature_rows", "feature_counts"))
        if "patch_features" in batch:  # those of all rows were read with the rows
            return batch
        pixels = batch.pop("pixel_values", None)
        ends = np.cumsum([max(0, count) for count in counts])
        missing = [place for place, number in enumerate(numbers) if not self.has(number)]
        if missing:
            chosen = [pixels[ends[place] - counts[place] : ends[place]] for place in missing]
            rows = [(numbers[place], counts[place]) for place in missing]
            self._own_shard().add(rows, self._compute(torch.cat(chosen)), self.num_rows, self.limit)
        batch["patch_features"] = torch.cat([self.read(number) for number in numbers])
        return batch

    @torch.no_grad()
    def _compute(self, pixel_values: Tensor) -> Tensor:
        encoder: Any = self.encoder
        was_training = encoder.training
        encoder.eval()
        device = next(encoder.parameters()).device
        patches = read_tokens(encoder, pixel_values.to(device), layer=self.layer).patches
        encoder.train(was_training)
        if not bool(patches.isfinite().all()):
            raise SpatialBoostError(
                "the encoder gives features that are not finite: check its weights, and encoder.mean and encoder.std"
            )
        return patches.float().cpu()

    def _shard_of(self, number: int) -> _Shard | None:
        """The shard that contains a row; the shard of this process is looked up first."""
        if not self.name:
            return None
        for rank in self._ranks:
            if self._shard(rank).has(number):
                return self._shard(rank)
        return None

    def _own_shard(self) -> _Shard:
        return self._shard(_rank())

    def _shard(self, rank: int) -> _Shard:
        if rank not in self._shards:
            assert self.folder is not None
            self._shards[rank] = _Shard(self.folder / f"{self.name}-{rank}", self.num_rows)
        return self._shards[rank]


class _Shard:
    """The files of one process.

    There are three files: the features, one image after another; their shape and type; an index. For each row, the
    index has the position of its first image, and its number of images plus one (0: not computed). It is written last.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        self.data_file, self.facts_file, self.index_file = (
            path.with_suffix(suffix) for suffix in (".features", ".json", ".index")
        )
        self.num_rows = num_rows
        self._index_R2: np.ndarray | None = None
        self._facts: tuple[tuple[int, int], np.dtype[Any]] | None = None

    def create(self) -> None:
        """Make an empty index, unless there is one from an earlier run."""
        if not self.index_file.exists():
            partial = self.index_file.with_suffix(".partial")
            with partial.open("wb") as file:
                file.truncate(self.num_rows * 2 * 8)
            partial.replace(self.index_file)
            self.data_file.touch()

    def has(self, number: int) -> bool:
        index_R2 = self._index()
        return index_R2 is not None and bool(index_R2[number, 1])

    def read(self, number: int) -> Tensor:
        index_R2, (shape, dtype) = self._index(), self._read_facts()
        assert index_R2 is not None
        first, count = int(index_R2[number, 0]), int(index_R2[number, 1]) - 1
        values = np.fromfile(
            self.data_file,
            dtype,
            count=count * shape[0] * shape[1],
            offset=first * shape[0] * shape[1] * dtype.itemsize,
        )
        return torch.from_numpy(values.reshape(count, *shape).astype(np.float32, copy=False))

    def add(self, rows: Sequence[tuple[int, int]], features: Tensor, num_rows: int, limit: float) -> None:
        """Append the features of some rows, given as (row number, number of images)."""
        shape = (features.shape[1], features.shape[2])
        if not self.facts_file.exists():
            fits = bool(features.abs().max() < 1e4)  # float16 ends at 65,504
            kind = "float32" if num_rows * shape[0] * shape[1] * 4 <= limit or not fits else "float16"
            partial = self.facts_file.with_suffix(".partial")
            partial.write_text(json.dumps({"shape": shape, "dtype": kind}))
            partial.replace(self.facts_file)
        _, dtype = self._read_facts()
        size = shape[0] * shape[1] * dtype.itemsize
        with self.data_file.open("r+b") as file:
            first = -(-file.seek(0, os.SEEK_END) // size)  # after an incomplete image of a killed process
            file.seek(first * size)
            values = features.numpy().astype(dtype)
            if not np.isfinite(values).all():
                raise SpatialBoostError("features are too large for float16: choose a larger data.cache_gb")
            file.write(values.tobytes())
        index_R2 = self._index()
        assert index_R2 is not None
        for number, count in rows:
            index_R2[number] = first, count + 1
            first += count

    def _index(self) -> np.ndarray | None:
        """The index as a memory map, so that changes by other processes are seen; None if there is no file."""
        if self._index_R2 is None and self.index_file.exists():
            self._index_R2 = np.memmap(self.index_file, np.int64, "r+", shape=(self.num_rows, 2))
        return self._index_R2

    def _read_facts(self) -> tuple[tuple[int, int], np.dtype[Any]]:
        if self._facts is None:
            facts = json.loads(self.facts_file.read_text())
            self._facts = (facts["shape"][0], facts["shape"][1]), np.dtype(facts["dtype"])
        return self._facts


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))
