"""Heads on frozen features, trained by gradient descent: one head for each rate of a grid, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from spatialboost.errors import SpatialBoostError

# Shape legend: B views of a batch, N tokens of a view, D width of the tokens, C outputs.

RATES = (0.0003, 0.001, 0.003, 0.01)
HELD_OUT = 0.1  # share of the training items, at the end, that choose the rate

Optimiser = Literal["adamw", "sgd"]


@dataclass(frozen=True)
class HeadTraining:
    """How heads are trained; a probe that trains heads has these options. The rate falls to zero as a cosine.

    Raises:
        SpatialBoostError: a number is out of its range.
    """

    steps: Annotated[int, "Steps of the optimiser."] = 1000
    batch: Annotated[int, "Images in a training step of the head."] = 16
    rates: Annotated[list[float], "Learning rate to choose from; repeat it for several."] = field(
        default_factory=lambda: list(RATES)
    )
    optimiser: Annotated[Optimiser, "AdamW, or SGD with momentum 0.9."] = "adamw"
    weight_decay: Annotated[float, "Weight decay."] = 0.01
    beta2: Annotated[float, "Memory of AdamW for the size of gradients."] = 0.999
    warmup: Annotated[float, "Share of the steps in which the rate rises, at the start."] = 0.0
    clip: Annotated[float, "Largest norm of the gradient; 0 is no limit."] = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not len(self.rates) or min(self.rates) <= 0:
            raise SpatialBoostError(
                f"steps are {self.steps}, batch {self.batch} and rates {list(self.rates)}; expected at least 1, and "
                "rates above 0"
            )
        if self.optimiser not in get_args(Optimiser):
            raise SpatialBoostError(f"optimiser is {self.optimiser!r}; expected one of {get_args(Optimiser)}")
        if self.weight_decay < 0 or self.clip < 0 or not 0 <= self.beta2 < 1 or not 0 <= self.warmup < 1:
            raise SpatialBoostError(
                f"weight_decay is {self.weight_decay}, clip {self.clip}, beta2 {self.beta2} and warmup {self.warmup}; "
                "expected at least 0, and the last two below 1"
            )

    def about_training(self) -> dict[str, Any]:
        """The options as text for a result."""
        betas = f", betas 0.9 and {self.beta2:g}" if self.optimiser == "adamw" else ", momentum 0.9"
        several = len(self.rates) > 1
        return {
            "steps": self.steps,
            "batch": self.batch,
            "rates": list(self.rates),
            "rate chosen by": "the loss on the last tenth of the drawn items" if several else "nothing, there is one",
            "optimiser": f"{self.optimiser}{betas}, weight decay {self.weight_decay:g}",
            "schedule": f"cosine to 0, warm-up {round(self.warmup * self.steps)} steps",
            "largest gradient": self.clip or "no limit",
        }


class LinearHead(nn.Module):
    """Batch normalisation of the features, then a linear map.

    Example:
        >>> LinearHead(48, 3)(torch.randn(2, 16, 48)).shape
        torch.Size([2, 16, 3])

    Source: the linear segmentation head of DINOv2 (arXiv 2304.07193).

    Args:
        width: width D of the tokens.
        outputs: number C of outputs.
        norm: False leaves out the batch normalisation.
    """

    def __init__(self, width: int, outputs: int, *, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.linear = nn.Linear(width, outputs)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Outputs ``(B, N, C)``."""
        flat = self.norm(tokens_BND.flatten(0, 1))
        return self.linear(flat).unflatten(0, tokens_BND.shape[:2])


def as_maps(tokens_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens as maps ``(B, C, rows, columns)``."""
    return tokens_BNC.transpose(1, 2).unflatten(2, grid)


def enlarge(maps_BChw: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(B, C, *size)``, enlarged bilinearly."""
    return nn.functional.interpolate(maps_BChw, size=size, mode="bilinear", align_corners=False)


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

    If there is one rate only, nothing is held out.

    Args:
        make: makes a new head, on the device on which it is trained.
        batch: gives what `loss` needs of some items.
        loss: loss of a head on a batch.
        items: training items in their natural order; the last ones choose the rate, as neighbours are alike.
        training: steps, rates and the like.
        seed: seed for the heads, the order of the items, and what `batch` draws from torch's global generator.

    Raises:
        SpatialBoostError: fewer than two items.
    """
    if len(items) < 2:
        raise SpatialBoostError(f"there are {len(items)} training items; expected at least 2")
    cut = len(items)
    if len(training.rates) > 1:
        cut = max(1, min(len(items) - 1, round((1 - HELD_OUT) * len(items))))
    fitted, chosen = list(items[:cut]), list(items[cut:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = make()
        heads = [head] + [make() for _ in training.rates[1:]]
        for other in heads[1:]:
            other.load_state_dict(head.state_dict())
        order = _endless(fitted, training.batch)
        optimisers = [_optimiser(each, rate, training) for each, rate in zip(heads, training.rates, strict=True)]
        schedules = [_schedule(each, training) for each in optimisers]
        for _ in range(training.steps):
            given = batch(next(order))
            for each, optimiser, schedule in zip(heads, optimisers, schedules, strict=True):
                optimiser.zero_grad()
                loss(each.train(), given).backward()
                if training.clip:
                    nn.utils.clip_grad_norm_(each.parameters(), training.clip)
                optimiser.step()
                schedule.step()
        losses = [0.0] * len(heads)
        with torch.no_grad():
            for part in _parts(chosen, training.batch):
                given = batch(part)
                for place, each in enumerate(heads):
                    losses[place] += float(loss(each.eval(), given)) * len(part)
    best = min(range(len(heads)), key=lambda place: losses[place])
    return heads[best].eval(), training.rates[best]


def _optimiser(head: nn.Module, rate: float, training: HeadTraining) -> torch.optim.Optimizer:
    if training.optimiser == "sgd":
        return torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9, weight_decay=training.weight_decay)
    betas = 0.9, training.beta2
    return torch.optim.AdamW(head.parameters(), lr=rate, betas=betas, weight_decay=training.weight_decay)


def _schedule(optimiser: torch.optim.Optimizer, training: HeadTraining) -> LRScheduler:
    rising = round(training.warmup * training.steps)
    falling = CosineAnnealingLR(optimiser, max(1, training.steps - rising))
    if not rising:
        return falling
    return SequentialLR(optimiser, [LinearLR(optimiser, 1 / (rising + 1), total_iters=rising), falling], [rising])


def _endless(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Batches of items in random order, one epoch after the other."""
    while True:
        mixed = [items[place] for place in torch.randperm(len(items)).tolist()]
        # no batch normalisation over a single item, unless there is no other
        yield from (part for part in _parts(mixed, size) if len(part) > 1 or min(size, len(items)) == 1)


def _parts(items: Sequence[int], size: int) -> Iterable[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
