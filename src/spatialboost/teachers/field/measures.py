"""How near the rendered features of unseen views are to the truth, beside two simple guesses; and pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.field.objective import FieldObjective
from spatialboost.teachers.field.views import stack_sequences
from spatialboost.teachers.protocol import Example

# Shape legend: R target views, N patches, D width of features, P patches of all target views.

GUESSES = ("rendered", "nearest view", "mean")


@dataclass(frozen=True)
class RenderedViews:
    """Rendered features of target views beside the truth, which is the base encoder's features of these views.

    Attributes:
        cosine: Mean cosine similarity to the truth, by guess. ``rendered``: what the field renders. ``nearest view``:
            the features of a context view at the same places in the image, of the one that is the most similar to the
            truth, which favours this guess. ``mean``: the mean of the features of all context views.
        distance: Mean length of the difference to the truth, divided by the mean length of the truth, by guess.
        wins: Share of patches at which a guess has the highest cosine similarity.
        depth_error: Mean of abs(depth - truth) / truth of the depth probe; NaN if no depth is known.
        depth_guess_error: The same for the median of all depths.
        depth_right: Share of patches whose depth by the probe is wrong by at most 25 %.
        depth_guess_right: The same for the median of all depths.
        views: Number of target views.
        patches: Number of their patches.
        depths: Number of patches with a known depth.
        loss: Mean loss.
    """

    cosine: Mapping[str, float]
    distance: Mapping[str, float]
    wins: Mapping[str, float]
    depth_error: float
    depth_guess_error: float
    depth_right: float
    depth_guess_right: float
    views: int
    patches: int
    depths: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured."""
        return asdict(self)


@torch.no_grad()
def measure_rendering(objective: FieldObjective, examples: Sequence[Example] | Any) -> RenderedViews:
    """Compare rendered features of target views with the truth and with two simple guesses.

    Args:
        objective: The encoder and the field.
        examples: Examples of `spatialboost.teachers.field.views.Views`.

    Raises:
        SpatialBoostError: There is no example, or the field does not render the encoder's features.
    """
    was_training, exchange = objective.training, objective.exchange
    objective.eval()
    objective.exchange = False
    device = next(objective.parameters()).device
    cosines: list[Tensor] = []
    lengths: list[Tensor] = []
    depths: list[Tensor] = []
    losses, views = [], 0
    for example in examples:
        batch = {name: value.to(device) for name, value in batch_of([example]).items()}
        losses.append(float(objective(**batch)["loss"]))
        found = objective.render(batch, targets_only=True)
        if "semantic" not in found.true:
            raise SpatialBoostError("teacher.semantic_weight is 0, so the field does not render the encoder's features")
        true_RND = found.true["semantic"].float()
        guesses = [found.predicted["semantic"].float(), *_simple_guesses(objective, batch, true_RND)]
        cosines.append(torch.stack([nn.functional.cosine_similarity(g, true_RND, dim=-1).flatten() for g in guesses]))
        lengths.append(torch.stack([(g - true_RND).norm(dim=-1).flatten() for g in (*guesses, 0 * true_RND)]))
        known = found.true_depths > 0
        depths.append(torch.stack([found.depths[known], found.true_depths[known]]))
        views += len(true_RND)
    objective.train(was_training)
    objective.exchange = exchange
    if not cosines:
        raise SpatialBoostError("no sequence was given, so nothing is measured")
    cosine_3P, length_4P = torch.cat(cosines, 1).cpu(), torch.cat(lengths, 1).cpu()
    predicted_K, true_K = torch.cat(depths, 1).cpu().numpy()
    best = cosine_3P.argmax(0).bincount(minlength=3) / cosine_3P.shape[1]
    error_K = np.abs(predicted_K - true_K) / true_K
    guess_K = np.abs(np.median(true_K) - true_K) / true_K if len(true_K) else true_K
    return RenderedViews(
        cosine=dict(zip(GUESSES, cosine_3P.mean(1).tolist(), strict=True)),
        distance=dict(zip(GUESSES, (length_4P[:3].mean(1) / length_4P[3].mean()).tolist(), strict=True)),
        wins=dict(zip(GUESSES, best.tolist(), strict=True)),
        depth_error=_mean(error_K),
        depth_guess_error=_mean(guess_K),
        depth_right=_mean(error_K <= 0.25),
        depth_guess_right=_mean(guess_K <= 0.25),
        views=views,
        patches=cosine_3P.shape[1],
        depths=len(true_K),
        loss=float(np.mean(losses)),
    )


@torch.no_grad()
def feature_maps(objective: FieldObjective, example: Example) -> dict[str, Tensor]:
    """The features of the target views of one example as maps ``(R, rows, columns, D)``: the truth and each guess."""
    was_training, exchange = objective.training, objective.exchange
    objective.eval()
    objective.exchange = False
    device = next(objective.parameters()).device
    batch = {name: value.to(device) for name, value in batch_of([example]).items()}
    found = objective.render(batch, targets_only=True)
    objective.train(was_training)
    objective.exchange = exchange
    true_RND = found.true["semantic"].float()
    maps = dict(
        zip(GUESSES, (found.predicted["semantic"].float(), *_simple_guesses(objective, batch, true_RND)), strict=True)
    )
    return {name: each.unflatten(1, objective.geometry.grid).cpu() for name, each in {"true": true_RND, **maps}.items()}


def batch_of(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch of examples with their images, without what only the data set needs."""
    return stack_sequences([{name: value for name, value in each.items() if name != "row"} for each in examples])


def _simple_guesses(objective: FieldObjective, batch: Mapping[str, Tensor], true_RND: Tensor) -> tuple[Tensor, Tensor]:
    """The features of the context view that is the most similar to each target view, and the mean of all; one row."""
    views = torch.arange(int(batch["contexts"][0]), device=true_RND.device)
    context_VND = objective.base_features(batch, views).float()
    similar_RV = nn.functional.cosine_similarity(true_RND[:, None], context_VND[None], dim=-1).mean(-1)
    return context_VND[similar_RV.argmax(1)], context_VND.mean((0, 1)).expand_as(true_RND)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
