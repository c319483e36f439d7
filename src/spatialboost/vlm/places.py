"""Where a visual token lies in its image: a fixed two-dimensional code, shared with the words that name places."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Shape legend: N patches, E width of the language model, F a quarter of it.

_OCTAVES = 3.5  # from half a wave over the image to five and a half: a grid of 8 to 16 patches a side is told apart


def code_places(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of places in [0, 1]: ``(..., width)``.

    Example:
        >>> code_places(torch.tensor([0.25, 0.75]), 8).shape
        torch.Size([2, 8])
    """
    waves_F = math.pi * 2 ** torch.linspace(0, _OCTAVES, width // 2)
    angles = places[..., None].float() * waves_F
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid_code(grid: tuple[int, int], width: int) -> Tensor:
    """Code of the patch centres of a grid, row by row: ``(N, width)``.

    Example:
        >>> grid_code((2, 3), 16).shape
        torch.Size([6, 16])

    The first quarter of the width codes x, the second y, the rest is zero, so that a language model can compare x and y
    with the words for them one by one. Root mean square 0.5 over the whole width.
    """
    rows, columns = grid
    part = width // 4
    code = torch.zeros(rows, columns, width)
    code[..., :part] = code_places((torch.arange(columns) + 0.5) / columns, part)
    code[..., part : 2 * part] = code_places((torch.arange(rows) + 0.5) / rows, part)[:, None]
    return code.flatten(0, 1)


def word_code(value: float, axis: int, width: int) -> Tensor:
    """Code of the word for a coordinate ``(width,)``: axis 0 is x, axis 1 is y; it matches that of `grid_code`.

    Example:
        >>> bool((word_code(0.25, 0, 16)[:4] == grid_code((1, 2), 16)[0, :4]).all())
        True
    """
    part = width // 4
    code = torch.zeros(width)
    code[axis * part : (axis + 1) * part] = code_places(torch.tensor(value), part)
    return code
