"""Ridge regression in closed form, from sums over samples: one pass over the features is enough for all ridges."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

# Shape legend: n samples, D feature width, R ridges, T targets; a single target may come without its dimension.

_CHUNK = 16384  # samples that are converted to float64 at a time


@dataclass
class Moments:
    """Sums over samples, in float64: all the data that least squares needs.

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
    xy_DT: Tensor
    y_T: Tensor

    @classmethod
    def of(cls, x_nD: Tensor, y_nT: Tensor) -> Moments:
        """The moments of some samples; ``y_nT`` may also be ``(n,)``."""
        return cls.of_pieces([(x_nD, y_nT)])

    @classmethod
    def of_pieces(cls, pieces: Iterable[tuple[Tensor, Tensor]]) -> Moments:
        """The moments of samples in one or more pieces, such as one piece for each view."""
        return sum_moments(
            cls(len(x_cD), x_cD.sum(0), x_cD.T @ x_cD, x_cD.T @ y_cT, y_cT.sum(0))
            for x_cD, y_cT in ((x_cD.double(), y_cT.double()) for x_cD, y_cT in _chunks(pieces))
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.num + other.num,
            self.x_D + other.x_D,
            self.xx_DD + other.xx_DD,
            self.xy_DT + other.xy_DT,
            self.y_T + other.y_T,
        )

    def solve(self, ridges: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Weights ``(R, D, T)`` and biases ``(R, T)`` that minimise the squared error for each ridge.

        If the samples have a single target without its dimension, so have the results: ``(R, D)`` and ``(R,)``.
        Features are standardised with the moments of the samples, so that one ridge means the same for every encoder:
        it is added to a diagonal of ones. The bias is not shrunk.
        """
        mean_D, mean_T = self.x_D / self.num, self.y_T / self.num
        covariance_DD = self.xx_DD / self.num - torch.outer(mean_D, mean_D)
        variance_D = covariance_DD.diagonal()
        # a constant feature explains nothing: its weight stays zero
        alive_D = variance_D > 1e-12 * (mean_D.square() + 1e-12)
        scale_D = torch.where(alive_D, variance_D.clamp(min=0).sqrt().reciprocal(), 0.0)
        correlation_DD = covariance_DD * torch.outer(scale_D, scale_D)
        covariance_DT = self.xy_DT / self.num - torch.tensordot(mean_D, mean_T, 0)
        values_D, vectors_DD = torch.linalg.eigh(correlation_DD)
        turned_DT = vectors_DD.T @ torch.einsum("d...,d->d...", covariance_DT, scale_D)
        ridges_R1 = torch.tensor(ridges, dtype=torch.float64)[:, None]
        shrink_RD = (values_D.clamp(min=1e-12) + ridges_R1).reciprocal()
        shrunk_RDT = torch.einsum("re,e...->re...", shrink_RD, turned_DT)
        weights_RDT = torch.einsum("de,re...,d->rd...", vectors_DD, shrunk_RDT, scale_D)
        return weights_RDT, mean_T - torch.einsum("rd...,d->r...", weights_RDT, mean_D)


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """The moments of the samples of all parts together; at least one part is needed."""
    return reduce(add, parts)


def _chunks(pieces: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples of all pieces in chunks of one fixed size; the last chunk may be smaller."""
    waiting: list[tuple[Tensor, Tensor]] = []
    num = 0
    for piece in pieces:
        waiting.append(piece)
        num += len(piece[0])
        if num < _CHUNK:
            continue
        x_nD, y_nT = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        full = num - num % _CHUNK
        yield from zip(x_nD[:full].split(_CHUNK), y_nT[:full].split(_CHUNK), strict=True)
        waiting, num = [(x_nD[full:].clone(), y_nT[full:])], num - full
    x_nD, y_nT = (torch.cat(parts) for parts in zip(*waiting, strict=True))
    yield x_nD, y_nT
