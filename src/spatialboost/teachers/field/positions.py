"""How tokens know where they are: their place in the patch grid, and the camera of their view (PRoPE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Shape legend: B batch, H heads, T tokens, C channels of a head, V views of one sequence, N patches of a view.

BASE = 100.0  # the longest period of a rotary position is 2 pi times this many patches


class Positions(Protocol):
    """What an attention layer does to its queries, keys, values and outputs ``(B, H, T, C)``, all tokens in order."""

    def queries(self, x: Tensor) -> Tensor:
        """Queries, after their norm."""

    def keys(self, x: Tensor) -> Tensor:
        """Keys, after their norm."""

    def values(self, x: Tensor) -> Tensor:
        """Values."""

    def outputs(self, x: Tensor) -> Tensor:
        """The weighted sums of values, before the output projection."""


def grid_places(grid: tuple[int, int]) -> Tensor:
    """(y, x) of each patch, row by row ``(N, 2)``.

    Example:
        >>> grid_places((1, 2)).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
    """
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], -1).float()


def rotate(x: Tensor, places_T: Tensor, *, back: bool = False) -> Tensor:
    """Rotary position embedding along one axis: channel i and channel i + C/2 are turned together.

    Example:
        >>> rotate(torch.tensor([[0.0, 1.0]]), torch.tensor([torch.pi / 2])).round(decimals=3).tolist()
        [[-1.0, -0.0]]

    Args:
        x: ``(..., T, C)``, C even.
        places_T: Place of each token.
        back: Turn in the opposite direction.

    Source: RoFormer (arXiv 2104.09864), with base 100.
    """
    half = x.shape[-1] // 2
    speeds = BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = places_T.to(speeds)[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    sin = -sin if back else sin
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


@dataclass(frozen=True)
class GridPositions:
    """Places in the patch grid: half of the channels of queries and keys are turned by y, half by x.

    Attributes:
        places_T2: (y, x) of all tokens. Tokens without a place, such as registers, are at (0, 0), and those of the grid
            begin at (1, 1).

    Source: Spa3R (arXiv 2602.21186), the encoder.
    """

    places_T2: Tensor

    def queries(self, x: Tensor) -> Tensor:
        """Turn queries."""
        y, x_ = x.chunk(2, -1)
        return torch.cat([rotate(y, self.places_T2[:, 0]), rotate(x_, self.places_T2[:, 1])], -1)

    def keys(self, x: Tensor) -> Tensor:
        """Turn keys."""
        return self.queries(x)

    def values(self, x: Tensor) -> Tensor:
        """Values stay as they are."""
        return x

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs stay as they are."""
        return x


class CameraPositions:
    """PRoPE: the first half of a head's channels is transformed by the projection of the token's camera.

    With P the projection of a token's camera (intrinsics times world to camera, 4 x 4), each group of four channels of
    a query becomes ``P^T q``, of a key ``P^-1 k``, of a value ``P^-1 v``, and of an output ``P o``. So two tokens
    compare their cameras as ``P_1 P_2^-1``. Of the other half, one quarter is turned by x and one by y. The tokens
    before those of the views have the identity, so they live in the frame of the world.

    Example:
        >>> eye = torch.eye(4).expand(1, 2, 4, 4)  # two views whose cameras are the world's frame
        >>> positions = CameraPositions(eye, (1, 3), front=5)
        >>> x = torch.randn(1, 2, 11, 8)  # five tokens in front, and three of each view
        >>> torch.equal(positions.queries(x)[..., :4], x[..., :4])
        True

    Args:
        projections_BV44: Projection of each view's camera.
        grid: Rows and columns of patches of a view.
        front: Tokens before those of the views.

    Source: Spa3R (arXiv 2602.21186), the decoder; PRoPE (arXiv 2507.10496).
    """

    def __init__(self, projections_BV44: Tensor, grid: tuple[int, int], *, front: int = 0) -> None:
        self.front, views = front, projections_BV44.shape[1]
        self.forth = projections_BV44.float()
        self.back = torch.linalg.inv(self.forth)
        places_T2 = grid_places(grid).to(projections_BV44.device).repeat(views, 1)
        self.y_T, self.x_T = places_T2.unbind(-1)

    def queries(self, x: Tensor) -> Tensor:
        """``P^T q``."""
        return self._apply(x, self.forth.mT)

    def keys(self, x: Tensor) -> Tensor:
        """``P^-1 k``."""
        return self._apply(x, self.back)

    def values(self, x: Tensor) -> Tensor:
        """``P^-1 v``."""
        return self._apply(x, self.back)

    def outputs(self, x: Tensor) -> Tensor:
        """``P o``."""
        return self._apply(x, self.forth, back=True)

    def _apply(self, x: Tensor, matrices_BV44: Tensor, *, back: bool = False) -> Tensor:
        front, own = x[:, :, : self.front], x[:, :, self.front :]
        half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
        views = matrices_BV44.shape[1]
        groups = own[..., :half].unflatten(2, (views, -1)).unflatten(-1, (-1, 4))  # B H V N G 4
        with torch.autocast(x.device.type, enabled=False):  # lengths in metres lose too much in half precision
            moved = torch.einsum("bvij,bhvngj->bhvngi", matrices_BV44, groups.float())
        own = torch.cat(
            [
                moved.to(x.dtype).flatten(-2).flatten(2, 3),
                rotate(own[..., half : half + quarter], self.x_T, back=back),
                rotate(own[..., half + quarter :], self.y_T, back=back),
            ],
            -1,
        )
        return torch.cat([front, own], 2)
