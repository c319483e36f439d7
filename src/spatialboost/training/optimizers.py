"""The optimisers: AdamW, and Muon for the matrices of new weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from spatialboost.boosting.channel import full_value
from spatialboost.training.sharding import shards_like


def build_optimizer(groups: Sequence[dict[str, Any]], *, beta2: float, fused: bool) -> Optimizer:
    """An optimiser for parameter groups: `Muon` for the groups marked ``muon``, AdamW for the others.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> groups = [{"params": [layer.weight], "lr": 0.02, "muon": True}, {"params": [layer.bias], "lr": 1e-3}]
        >>> [type(part).__name__ for part in build_optimizer(groups, beta2=0.95, fused=False).parts]
        ['Muon', 'AdamW']
    """
    plain = [{key: value for key, value in group.items() if key != "muon"} for group in groups]
    matrices = [group for group, marked in zip(plain, groups, strict=True) if marked.get("muon")]
    others = [group for group, marked in zip(plain, groups, strict=True) if not marked.get("muon")]
    adamw = AdamW(others, betas=(0.9, beta2), fused=fused)
    return MuonAdamW(Muon(matrices), adamw) if matrices else adamw


def optimizer_state(optimizer: Any) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Each parameter that an optimiser has a state for, and this state.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> optimizer = build_optimizer([{"params": [weight], "lr": 0.1}], beta2=0.95, fused=False)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> [(parameter is weight, sorted(state)) for parameter, state in optimizer_state(optimizer)]
        [(True, ['exp_avg', 'exp_avg_sq', 'step'])]
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper
    for part in getattr(optimizer, "parts", (optimizer,)):
        yield from part.state.items()


def muon_groups(
    groups: Sequence[dict[str, Any]], lr: float, *, tables: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Split parameter groups: matrices are marked for Muon, all other parameters stay with AdamW.

    Example:
        >>> groups = [{"params": list(nn.Linear(2, 2).parameters()), "lr": 1e-3, "weight_decay": 0.0}]
        >>> [(len(group["params"]), group["lr"], group.get("muon", False)) for group in muon_groups(groups, 0.02)]
        [(1, 0.001, False), (1, 0.02, True)]

    Args:
        groups: Parameter groups for AdamW.
        lr: Highest learning rate of the matrices.
        tables: A module. Its embeddings, and the output heads of its transformers language models, stay with AdamW.

    Source: Muon (Jordan et al., 2024).
    """
    parts: list[Any] = [] if tables is None else list(tables.modules())
    heads = [part.get_output_embeddings() for part in parts if hasattr(part, "get_output_embeddings")]
    embeddings = [part for part in parts if isinstance(part, nn.Embedding)]
    kept = {id(part.weight) for part in (*embeddings, *heads) if part is not None}
    split: list[dict[str, Any]] = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim == 2 and id(p) not in kept]
        rest = [p for p in group["params"] if p.ndim != 2 or id(p) in kept]
        split += [{**group, "params": rest}, {**group, "params": matrices, "lr": lr, "muon": True}]
    return [group for group in split if group["params"]]


class Muon(Optimizer):
    """Momentum made orthogonal before each step, computed in the precision of the parameters.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2, 2))
        >>> (weight * torch.tensor([[3.0, 0.0], [0.0, 1.0]])).sum().backward()
        >>> Muon([weight], lr=0.1).step()
        >>> bool((weight.diagonal() < -0.05).all())  # a step of nearly the same size in both directions
        True

    `torch.optim.Muon` takes the same steps but always computes the orthogonal matrix in bfloat16. On a CPU without
    bfloat16 instructions it is many times slower.

    Args:
        params: Matrices, or parameter groups of matrices.
        lr: Learning rate. For a matrix with more rows than columns it is multiplied by sqrt(rows / columns).
        momentum: Nesterov momentum.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay before the step.

    Source: Muon (Jordan et al., 2024).
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic polynomial that moves singular values towards 1
    ROUNDS = 5

    def __init__(self, params: Any, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                mean = state["momentum_buffer"]
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                # A sharded matrix is gathered, as its orthogonal matrix depends on all of it
                update = self._orthogonal(full_value(parameter.grad.lerp(mean, group["momentum"])))
                update = shards_like(parameter, update)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                rows, columns = parameter.shape
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        """The Newton-Schulz iteration, on the matrix with its shorter side first."""
        tall = matrix.shape[0] > matrix.shape[1]
        x = matrix.T if tall else matrix
        x = x / (x.norm() + 1e-7)
        a, b, c = self.COEFFICIENTS
        for _ in range(self.ROUNDS):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if tall else x


class MuonAdamW(Optimizer):
    """Two optimisers as one. Each has its own parameters; a schedule changes the groups of both.

    Example:
        >>> a, b = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
        >>> both = MuonAdamW(Muon([a], lr=0.1), AdamW([b], lr=0.1))
        >>> (a.sum() + b.sum()).backward()
        >>> both.step()
        >>> bool((a < 1).all()), bool((b < 1).all())
        (True, True)
    """

    def __init__(self, muon: Optimizer, adamw: Optimizer) -> None:
        self.parts = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both optimisers."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        # load_state_dict of the parts makes new group dictionaries
        self.param_groups = [*self.parts[0].param_groups, *self.parts[1].param_groups]


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: matrices with weight decay; biases and norms without.

    Example:
        >>> [(len(g["params"]), g["weight_decay"]) for g in decay_groups(nn.Linear(2, 2), 1e-3, 0.1)]
        [(1, 0.1), (1, 0.0)]
    """
    return groups_of(list(module.parameters()), lr, weight_decay)


def groups_of(parameters: Sequence[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """`decay_groups` of single parameters."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def cosine_schedule(steps: int, warmup: float, lowest: float) -> Callable[[int], float]:
    """Share of the highest learning rate at each step: linear warm-up, then a cosine down to `lowest`.

    Example:
        >>> shape = cosine_schedule(10, warmup=0.2, lowest=0.1)
        >>> [round(shape(step), 2) for step in range(10)]
        [0.5, 1.0, 1.0, 0.97, 0.87, 0.72, 0.55, 0.38, 0.23, 0.13]

    Unlike in transformers' schedule, the first value is above zero. So the first step changes the parameters and can be
    checked.
    """
    rising = math.ceil(warmup * steps)

    def shape(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = min(1.0, (step - rising) / max(1, steps - rising))
        return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * done))

    return shape
