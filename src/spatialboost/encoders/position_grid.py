"""Resample position embeddings from one image size to another."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

# Shape legend: N positions, D width.


def resample_position_grid(table_1ND: Tensor, num_positions: int, grid: tuple[int, int]) -> Tensor:
    """A table of position embeddings for another grid of patches: bicubic, without antialiasing.

    Example:
        >>> resample_position_grid(torch.zeros(1, 1 + 37 * 37, 8), 1 + 8 * 8, (8, 8)).shape
        torch.Size([1, 65, 8])

    Positions before the grid (class and register tokens) are kept. DINOv2 does the same when it reads images of another
    size.

    Args:
        table_1ND: The table for a square grid, after the positions of class and register tokens.
        num_positions: Number of positions of the new table.
        grid: Rows and columns of the new grid.
    """
    prefix = num_positions - grid[0] * grid[1]
    side = round((table_1ND.shape[1] - prefix) ** 0.5)
    grid_1DHW = table_1ND[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid_1DHW = nn.functional.interpolate(grid_1DHW, size=grid, mode="bicubic", antialias=False)
    new_1ND = grid_1DHW.permute(0, 2, 3, 1).flatten(1, 2).to(table_1ND.dtype)
    return torch.cat([table_1ND[:, :prefix], new_1ND], 1).contiguous()


def fit_position_grid(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of a timm vision transformer, with position embeddings that are resampled for this encoder's grid.

    Other tensors are not changed, even if they do not fit: then `load_state_dict` raises the error.
    """
    table, own = state.get("pos_embed"), getattr(encoder, "pos_embed", None)
    grid = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    fitted = dict(state)
    if table is None or not isinstance(own, Tensor) or grid is None or table.shape == own.shape:
        return fitted
    num_saved = table.shape[1] - (own.shape[1] - grid[0] * grid[1])
    if (
        table.ndim == own.ndim == 3
        and table.shape[2] == own.shape[2]
        and round(max(0, num_saved) ** 0.5) ** 2 == num_saved > 0
    ):
        fitted["pos_embed"] = resample_position_grid(table, own.shape[1], (grid[0], grid[1]))
    return fitted
