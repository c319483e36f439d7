"""A fixed code for a two-dimensional position, used for visual tokens and for tokens such as ``(0.49, 0.60)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Shape legend: N patches, E width of the language model, F a quarter of it.

_OCTAVES = 3.5  # from 0.5 to 5.7 waves over the image: enough to distinguish 8 to 16 patches per side


def code_places(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of coordinates in [0, 1]: ``(..., width)``.

    Example:
        >>> code_places(torch.tensor([0.25, 0.75]), 8).shape
        torch.Size([2, 8])
    """
    waves_F = math.pi * 2 ** torch.linspace(0, _OCTAVES, width // 2)
    angles = places[..., None].float() * waves_F
    return torch.cat([angles.sin(), angles.cos()], -1)


def grid_code(grid: tuple[int, int], width: int) -> Tensor:
    """Codes of the patch centres of a grid, row by row: ``(N, width)``.

    Example:
        >>> grid_code((2, 3), 16).shape
        torch.Size([6, 16])

    The first quarter of the width is the code of x, the second the code of y, and the rest is zero. So a language model
    can compare x and y separately. The root mean square over the whole width is 0.5.
    """
    rows, columns = ((torch.arange(count) + 0.5) / count for count in grid)
    return _code(columns, rows, width)


def word_codes(width: int) -> Tensor:
    """Codes of the tokens of `words_for_places`, in the same order: ``(101 * 101, width)``.

    Example:
        >>> word_codes(16).shape, bool(word_codes(16)[50 * 101 + 25].allclose(grid_code((1, 2), 16)[0]))
        (torch.Size([10201, 16]), True)
    """
    hundredths = torch.arange(101) / 100
    return _code(hundredths, hundredths, width)


def words_for_places() -> list[str]:
    """All points with two decimals, as questions write them; x changes fastest.

    Example:
        >>> words_for_places()[:2]
        [' (0.00, 0.00)', ' (0.01, 0.00)']
    """
    return [f" ({x / 100:.2f}, {y / 100:.2f})" for y in range(101) for x in range(101)]


def _code(columns: Tensor, rows: Tensor, width: int) -> Tensor:
    part = width // 4
    code = torch.zeros(len(rows), len(columns), width)
    code[..., :part] = code_places(columns, part)
    code[..., part : 2 * part] = code_places(rows, part)[:, None]
    return code.flatten(0, 1)
