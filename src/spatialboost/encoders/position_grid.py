"""Position embeddings of one image size for another."""

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

    Positions before the grid (class and register tokens) are kept. So DINOv2 and its kin are resampled when they see
    images of another size.

    Args:
        table_1ND: of a square grid, with the prefix positions first.
        num_positions: that the new table has.
        grid: rows and columns of the new one.
    """
    prefix = num_positions - grid[0] * grid[1]
    side = round((table_1ND.shape[1] - prefix) ** 0.5)
    grid_1DHW = table_1ND[:, prefix:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid_1DHW = nn.functional.interpolate(grid_1DHW, size=grid, mode="bicubic", antialias=False)
    new_1ND = grid_1DHW.permute(0, 2, 3, 1).flatten(1, 2).to(table_1ND.dtype)
    return torch.cat([table_1ND[:, :prefix], new_1ND], 1).contiguous()


def fit_position_grid(state: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of a timm vision transformer whose position grid is that of another image size, fitted to the encoder.

    What else does not fit is left as it is, for the loading of the weights to complain of.
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
