"""Fewer visual tokens: the mean of neighbouring patches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import avg_pool2d

from spatialboost.errors import SpatialBoostError

# Shape legend: I images, N patches, M tokens after pooling, D width of the encoder.


@dataclass(frozen=True)
class PatchPool:
    """Replaces each square of neighbouring patches by its mean.

    Example:
        >>> import torch
        >>> pool = PatchPool((4, 6), 2)
        >>> pool(torch.zeros(1, 24, 48)).shape, pool.grid, pool.num_tokens
        (torch.Size([1, 6, 48]), (2, 3), 6)

    Attributes:
        patches: Rows and columns of patches of an image.
        size: Side of a square in patches.

    Raises:
        SpatialBoostError: The grid cannot be divided into such squares.
    """

    patches: tuple[int, int]
    size: int

    def __post_init__(self) -> None:
        if self.size < 1 or any(count % self.size for count in self.patches):
            rows, columns = self.patches
            raise SpatialBoostError(
                f"pool is {self.size}, but an image has {rows} x {columns} patches, which squares of {self.size} x "
                f"{self.size} do not fill: choose a data.image_size whose patches they fill, or another pool"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return self.patches[0] // self.size, self.patches[1] // self.size

    @property
    def num_tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    def __call__(self, patches_IND: Tensor) -> Tensor:
        """Pool the patches of images, which come row by row: ``(I, M, D)``."""
        if self.size == 1:
            return patches_IND
        grid_IDRC = patches_IND.transpose(1, 2).unflatten(2, self.patches)
        return avg_pool2d(grid_IDRC, self.size).flatten(2).transpose(1, 2)
