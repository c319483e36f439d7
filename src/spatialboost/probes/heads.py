"""Linear heads on frozen features, trained by gradient descent: one head for each rate of a grid, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from spatialboost.errors import SpatialBoostError

# Shape legend: B views of a batch, N tokens of a view, D width of the tokens, C outputs.

RATES = (0.0003, 0.001, 0.003, 0.01)


@dataclass(frozen=True)
class HeadTraining:
    """How heads are trained: AdamW, and a cosine schedule down to zero.

    Attributes:
        steps: steps of the optimiser.
        batch_size: views in a batch.
        rates: learning rates; the best head on held-out training views is taken.
        weight_decay: weight decay.
        held_out: share of the training views, at the end, that choose the rate.

    Raises:
        SpatialBoostError: a number is out of its range.
    """

    steps: int = 1000
    batch_size: int = 16
    rates: Sequence[float] = RATES
    weight_decay: float = 0.01
    held_out: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or not len(self.rates) or min(self.rates) <= 0:
            raise SpatialBoostError(
                f"steps are {self.steps}, batch_size {self.batch_size} and rates {list(self.rates)}; expected at least "
                "1, and rates above 0"
            )
        if not 0 < self.held_out < 1 or self.weight_decay < 0:
            raise SpatialBoostError(
                f"held_out is {self.held_out} and weight_decay {self.weight_decay}; expected a share between 0 and 1, "
                "and at least 0"
            )


class LinearHead(nn.Module):
    """Batch normalisation of the features, then a linear map.

    Example:
        >>> LinearHead(48, 3)(torch.randn(2, 16, 48)).shape
        torch.Size([2, 16, 3])

    Source: the linear segmentation head of DINOv2 (arXiv 2304.07193).
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, outputs)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Outputs ``(B, N, C)``."""
        flat = self.norm(tokens_BND.flatten(0, 1))
        return self.linear(flat).unflatten(0, tokens_BND.shape[:2])


def train_heads(
    make: Callable[[], nn.Module],
    batch: Callable[[Sequence[int]], Any],
    loss: Callable[[nn.Module, Any], Tensor],
    items: Sequence[int],
    training: HeadTraining,
    *,
    seed: int,
) -> tuple[nn.Module, float]:
    """Train a head with each rate, and return the one with the least loss on held-out items, and its rate.

    Args:
        make: makes a new head.
        batch: gives what `loss` needs of some items.
        loss: loss of a head on a batch.
        items: training items in their natural order; the last ones choose the rate, as neighbours are alike.
        training: steps, rates and the like.
        seed: seed for the heads and the order of the items.

    Raises:
        SpatialBoostError: fewer than two items.
    """
    if len(items) < 2:
        raise SpatialBoostError(f"there are {len(items)} training items; expected at least 2")
    cut = min(len(items) - 1, round((1 - training.held_out) * len(items)))
    fitted, chosen = list(items[: max(1, cut)]), list(items[max(1, cut) :])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make()
        heads = [head] + [make() for _ in training.rates[1:]]
        for other in heads[1:]:
            other.load_state_dict(head.state_dict())
        order = _endless(fitted, training.batch_size)
        optimisers = [
            torch.optim.AdamW(each.parameters(), lr=rate, weight_decay=training.weight_decay)
            for each, rate in zip(heads, training.rates, strict=True)
        ]
        schedules = [CosineAnnealingLR(each, training.steps) for each in optimisers]
        for _ in range(training.steps):
            given = batch(next(order))
            for each, optimiser, schedule in zip(heads, optimisers, schedules, strict=True):
                optimiser.zero_grad()
                loss(each.train(), given).backward()
                optimiser.step()
                schedule.step()
    with torch.no_grad():
        losses = [
            sum(float(loss(each.eval(), batch(part))) * len(part) for part in _parts(chosen, training.batch_size))
            for each in heads
        ]
    best = min(range(len(heads)), key=lambda place: losses[place])
    return heads[best].eval(), training.rates[best]


def _endless(items: Sequence[int], size: int) -> Any:
    """Batches of items in random order, one epoch after the other."""
    while True:
        yield from _parts([items[place] for place in torch.randperm(len(items)).tolist()], size)


def _parts(items: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
