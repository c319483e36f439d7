"""Check the first training steps: trainable parameters must change, frozen parameters must not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.training.processes import anywhere

_CHUNK = 1 << 22  # elements per chunk, so that a large embedding needs no large copy
_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def state_digest(values: nn.Module | Tensor) -> tuple[int, ...]:
    """A checksum of the bits of a tensor, or of each parameter and buffer of a module.

    Example:
        >>> weight = torch.ones(3)
        >>> before = state_digest(weight)
        >>> weight[1] += 1e-6
        >>> state_digest(weight) == before
        False
    """
    if isinstance(values, nn.Module):
        sums = [state_digest(value) for value in (*values.parameters(), *values.buffers())]
        return tuple(number for pair in sums for number in pair)
    bits = local_part(values).detach().contiguous().view(-1)
    bits = bits.to(torch.uint8) if bits.dtype == torch.bool else bits.view(_INTEGER[bits.element_size()])
    total = squares = torch.zeros((), dtype=torch.int64, device=bits.device)
    for chunk in bits.split(_CHUNK):
        wide = chunk.to(torch.int64)
        total, squares = total + wide.sum(), squares + (wide * wide).sum()
    return int(total), int(squares)


class MovementCheck:
    """Compares the parameters before and after the first optimiser steps.

    A parameter whose first gradient is exactly zero need not change before the second step. This is so for the gates,
    as Attn and Attn+ are equal at the start.

    Args:
        module: The module that is trained.
        gradients: False: gradients cannot be read, as DeepSpeed keeps them; parameters are given two steps to change.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> check = MovementCheck(layer)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> check.before_step()
        >>> optimizer.step()
        >>> check.after_step()
    """

    def __init__(self, module: nn.Module, *, gradients: bool = True) -> None:
        self.module, self.gradients = module, gradients
        self.before = {name: state_digest(p) for name, p in module.named_parameters()}
        self.waiting: set[str] = set()
        self.moved: set[str] = set()
        self.steps = 0

    @property
    def done(self) -> bool:
        """Whether the check is complete."""
        return self.steps > 0 and (self.steps > 1 or not self.waiting)

    def before_step(self) -> None:
        """Check the gradients; call it after the backward pass."""
        trainable = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        if not self.gradients:
            self.waiting = {name for name, _ in trainable}
            return
        without = [name for name, p in trainable if p.grad is None]
        if without:
            raise SpatialBoostError(
                f"{_names(without)} should be trained but got no gradient: the loss does not depend on them. "
                "Boost only the blocks up to the one that is read, or freeze these parameters"
            )
        frozen = [name for name, p in self.module.named_parameters() if not p.requires_grad and p.grad is not None]
        if frozen:
            raise SpatialBoostError(f"{_names(frozen)} are frozen but have gradients: clear them before training")
        if not self.steps:
            self.waiting = _nowhere(
                [(name, bool(local_part(p.grad).any())) for name, p in trainable if p.grad is not None]
            )

    def after_step(self) -> None:
        """Check the parameters; call it after the optimiser step."""
        parameters = dict(self.module.named_parameters())
        moved = set(parameters) - _nowhere([(n, state_digest(p) != self.before[n]) for n, p in parameters.items()])
        trainable = {name for name, p in self.module.named_parameters() if p.requires_grad}
        if moved - trainable:
            raise SpatialBoostError(f"{_names(moved - trainable)} are frozen but have changed in the optimiser step")
        still = trainable - moved - (self.waiting if not self.steps else set())
        if still:
            when = "two steps" if self.steps else "the first step"
            raise SpatialBoostError(
                f"{_names(still)} should be trained but have not changed in {when}: check that they are in the "
                "optimiser, that the learning rate is above zero, and that they are not in half precision, which "
                "rounds small steps to zero"
            )
        self.steps += 1
        self.moved = moved


def local_part(values: Tensor) -> Tensor:
    """This process's part of a sharded tensor; another tensor as it is."""
    return values.to_local() if hasattr(values, "to_local") else values


def _nowhere(found: Sequence[tuple[str, bool]]) -> set[str]:
    """The names for which a condition holds in no process; a process may have an empty part of a sharded parameter."""
    true = anywhere(*(flag for _, flag in found)) if found else []
    return {name for (name, _), flag in zip(found, true, strict=True) if not flag}


def trainable_report(module: nn.Module) -> dict[str, tuple[int, int]]:
    """For each part of a module, the number of trainable parameters and of all parameters.

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False))
        >>> trainable_report(layers)
        {'0': (9, 9), '1': (0, 4)}
    """
    counts: dict[str, tuple[int, int]] = {}
    for name, parameter in module.named_parameters():
        part = name.partition(".")[0]
        trained, total = counts.get(part, (0, 0))
        counts[part] = (trained + parameter.numel() * parameter.requires_grad, total + parameter.numel())
    return counts


def _names(names: Iterable[Any], shown: int = 4) -> str:
    ordered = sorted(names)
    rest = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(ordered[:shown]) + rest
