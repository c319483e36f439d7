"""The policy of the control probe: a small perceptron from features of the last frames to the expert's action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError

# Shape legend: n frames, D width of the input, A numbers of an action.


@dataclass(frozen=True)
class PolicyTraining:
    """How policies are trained: Adam on the squared error of the action, without a schedule.

    Attributes:
        epochs: passes over the frames of the demonstrations.
        evaluations: the policy is measured so often, evenly spaced over the epochs.
        batch_size: frames in a step.
        rate: learning rate.
        widths: widths of the hidden layers.

    Raises:
        SpatialBoostError: a number is out of its range.
    """

    epochs: int = 100
    evaluations: int = 5
    batch_size: int = 256
    rate: float = 0.001
    widths: Sequence[int] = (256, 256, 256)

    def __post_init__(self) -> None:
        if not 1 <= self.evaluations <= self.epochs or self.batch_size < 2 or self.rate <= 0:
            raise SpatialBoostError(
                f"epochs are {self.epochs}, evaluations {self.evaluations}, batch {self.batch_size} and rate "
                f"{self.rate}; expected 1 <= evaluations <= epochs, a batch of at least 2, and a rate above 0"
            )


def make_policy(width: int, actions: int, widths: Sequence[int]) -> nn.Sequential:
    """Batch normalisation of the input, then a perceptron.

    Example:
        >>> make_policy(48, 4, (256,)).eval()(torch.zeros(2, 48)).shape
        torch.Size([2, 4])
    """
    sizes = [width, *widths]
    layers: list[nn.Module] = [nn.BatchNorm1d(width)]
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], actions))


def train_policy(x_nD: Tensor, action_nA: Tensor, training: PolicyTraining, *, seed: int) -> Iterator[nn.Sequential]:
    """Train a policy, and yield it in evaluation mode at each evaluation; it is the same object each time.

    Args:
        x_nD: input of each frame.
        action_nA: the expert's action.
        training: how it is trained.
        seed: seed of the weights and of the order of the frames.

    Raises:
        SpatialBoostError: fewer than two frames.
    """
    if len(x_nD) < 2:
        raise SpatialBoostError(f"there are {len(x_nD)} frames to imitate; expected at least 2: give more --demos")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = make_policy(x_nD.shape[1], action_nA.shape[1], training.widths)
    order = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=training.rate)
    stops = {round(training.epochs * (k + 1) / training.evaluations) for k in range(training.evaluations)}
    for epoch in range(1, training.epochs + 1):
        policy.train()
        for frames in torch.randperm(len(x_nD), generator=order).split(training.batch_size):
            if len(frames) < 2:
                continue  # batch normalisation needs two
            optimiser.zero_grad()
            nn.functional.mse_loss(policy(x_nD[frames]), action_nA[frames]).backward()
            optimiser.step()
        if epoch in stops:
            yield policy.eval()
