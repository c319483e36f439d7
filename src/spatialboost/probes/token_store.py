"""Patch tokens of many views: in memory while they fit, else in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

# Shape legend: V views, B views of one batch, N patches, D width of the encoder.

MEMORY_LIMIT = 128 * 2**20
"""Bytes that the features of one split may use in memory; its views may use the same number in addition."""


class TokenStore(Sequence[Tensor]):
    """Float32 patch tokens ``(N, D)`` of each view; they are added in order and can be read in any order.

    Example:
        >>> store = TokenStore(limit=1000)
        >>> for _ in range(3):
        ...     store.append(torch.ones(2, 4, 8))  # 256 bytes
        >>> len(store), store[5].shape, store.on_disk
        (6, torch.Size([4, 8]), False)
        >>> store.append(torch.zeros(2, 4, 8))
        >>> len(store), store[5].sum().item(), store[6].sum().item(), store.on_disk
        (8, 32.0, 0.0, True)

    The file is in the system's folder for temporary files (environment variable ``TMPDIR``) and is deleted with the
    store. A view is mapped into memory only while it is read.

    Args:
        limit: if the tokens have more bytes than this, they are on disk; None uses `MEMORY_LIMIT`.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = MEMORY_LIMIT if limit is None else limit
        self._shape = (0, 0)
        self._held: list[Tensor] = []
        self._file: IO[bytes] | None = None
        self._num = 0

    @property
    def on_disk(self) -> bool:
        """Whether the tokens are in a file."""
        return self._file is not None

    def append(self, tokens_BND: Tensor) -> None:
        """Add the views of one batch."""
        tokens_BND = tokens_BND.detach().float().cpu().contiguous()
        self._shape = tokens_BND.shape[1], tokens_BND.shape[2]
        self._num += len(tokens_BND)
        if self._file is not None:
            self._file.write(tokens_BND.numpy().data)
            self._file.flush()
            return
        self._held += tokens_BND.unbind()
        if self._num * self._view_bytes > self._limit:
            self._file = tempfile.TemporaryFile(prefix="spatialboost-tokens-")  # noqa: SIM115  # open as long as the store
            for tokens_ND in self._held:
                self._file.write(tokens_ND.numpy().data)
            self._file.flush()
            self._held = []

    def stacked(self) -> Tensor:
        """The tokens of all views ``(V, N, D)``; if they are on disk, the file is mapped and read where it is used."""
        if self._file is None:
            return torch.stack(self._held)
        return torch.from_numpy(np.memmap(self._file, np.float32, mode="c", shape=(self._num, *self._shape)))

    @property
    def _view_bytes(self) -> int:
        return 4 * self._shape[0] * self._shape[1]

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -self._num <= index < self._num:
            raise IndexError(f"view {index} of {self._num}")
        if self._file is None:
            return self._held[index]
        offset = int(index) % self._num * self._view_bytes
        # "c" is copy on write: PyTorch warns of read-only arrays
        return torch.from_numpy(np.memmap(self._file, np.float32, mode="c", offset=offset, shape=self._shape))
