"""Tokens as colours: their first three principal components, in one colour space for all tokens that are given."""

from __future__ import annotations

import torch
from torch import Tensor

# Shape legend: D width of the tokens.


def principal_colours(tokens: Tensor) -> Tensor:
    """The first three principal components of tokens ``(..., D)`` as colours ``(..., 3)`` from 0 to 1.

    Example:
        >>> principal_colours(torch.eye(4)).shape
        torch.Size([4, 3])

    All tokens share the components and the scale, so that equal colours mean equal tokens in these components.
    """
    flat = tokens.flatten(0, -2).double()
    centred = flat - flat.mean(0)
    _, vectors_DD = torch.linalg.eigh(centred.T @ centred)
    axes_D3 = vectors_DD.flip(1)[:, :3]
    axes_D3 = axes_D3 * torch.where(axes_D3.sum(0) < 0, -1.0, 1.0)  # eigenvectors have no sign of their own
    values = centred @ axes_D3
    low, high = (torch.quantile(_at_most(values), share, dim=0) for share in (0.01, 0.99))
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).view(*tokens.shape[:-1], -1).float()


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """How much each token has changed: the norm of the difference over that of the token before, ``(...)``."""
    return (after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-9)


def _at_most(values: Tensor, most: int = 100_000) -> Tensor:
    """Evenly spaced rows; torch's quantile takes a limited number."""
    return values[:: max(1, len(values) // most)]
