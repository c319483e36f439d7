"""Ridge regression in closed form, from moments that add up: one pass over the features serves every ridge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

# Shape legend: n samples, D feature width, R ridges.

_CHUNK = 16384  # samples that are turned to float64 at a time


@dataclass
class Moments:
    """Sums over samples, in float64: all that least squares needs to know of them.

    Example:
        >>> import torch
        >>> x_nD = torch.tensor([[0.0], [1.0], [2.0]])
        >>> moments = Moments.of(x_nD, torch.tensor([1.0, 3.0, 5.0]))
        >>> weight_RD, bias_R = moments.solve([0.0])
        >>> round(weight_RD.item(), 6), round(bias_R.item(), 6)
        (2.0, 1.0)
    """

    num: int
    x_D: Tensor
    xx_DD: Tensor
    xy_D: Tensor
    y: Tensor

    @classmethod
    def of(cls, x_nD: Tensor, y_n: Tensor) -> Moments:
        """The moments of some samples."""
        width, double = x_nD.shape[1], torch.float64
        total = cls(
            0,
            torch.zeros(width, dtype=double),
            torch.zeros(width, width, dtype=double),
            torch.zeros(width, dtype=double),
            torch.zeros((), dtype=double),
        )
        for x_cD, y_c in zip(x_nD.split(_CHUNK), y_n.split(_CHUNK), strict=True):
            x_cD, y_c = x_cD.double(), y_c.double()
            total = total + cls(len(x_cD), x_cD.sum(0), x_cD.T @ x_cD, x_cD.T @ y_c, y_c.sum())
        return total

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.num + other.num,
            self.x_D + other.x_D,
            self.xx_DD + other.xx_DD,
            self.xy_D + other.xy_D,
            self.y + other.y,
        )

    def solve(self, ridges: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Weights ``(R, D)`` and biases ``(R,)`` that minimise the squared error for each ridge.

        Features are standardised with the moments of the samples, so that one ridge means the same for every encoder:
        it is added to a diagonal of ones. The bias is not shrunk.
        """
        mean_D, mean_y = self.x_D / self.num, self.y / self.num
        covariance_DD = self.xx_DD / self.num - torch.outer(mean_D, mean_D)
        variance_D = covariance_DD.diagonal()
        # a feature that never moves explains nothing: its weight stays zero
        alive_D = variance_D > 1e-12 * (mean_D.square() + 1e-12)
        scale_D = torch.where(alive_D, variance_D.clamp(min=0).sqrt().reciprocal(), 0.0)
        correlation_DD = covariance_DD * torch.outer(scale_D, scale_D)
        target_D = (self.xy_D / self.num - mean_D * mean_y) * scale_D
        values_D, vectors_DD = torch.linalg.eigh(correlation_DD)
        ridges_R1 = torch.tensor(ridges, dtype=torch.float64)[:, None]
        shrunk_RD = (vectors_DD.T @ target_D) / (values_D.clamp(min=1e-12) + ridges_R1)
        weights_RD = (shrunk_RD @ vectors_DD.T) * scale_D
        return weights_RD, mean_y - weights_RD @ mean_D


def sum_moments(parts: Sequence[Moments]) -> Moments:
    """The moments of all the samples of the parts, of which there is at least one."""
    return reduce(add, parts)
