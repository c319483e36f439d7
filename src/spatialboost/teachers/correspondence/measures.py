"""How well the attention itself matches points: share of correct matches (PCK) by layer, from its queries and keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders import image_preparation, num_layers
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.correspondence.attention import queries_and_keys
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.sequences import Sequences

# Model, images of a sequence and layers -> layer -> queries and keys ``(F, N, H, C)``; and the grid of patches
ReadAttention = Callable[[Any, Tensor, Sequence[int]], tuple[Mapping[int, tuple[Tensor, Tensor]], tuple[int, int]]]

# Shape legend: F views, N patches, K points that a view and the first one see, H heads, C width of a head.


@dataclass(frozen=True)
class AttentionMatches:
    """How often a patch's query is most similar to the key of the patch at the same point of another view.

    Attributes:
        layers: The measured blocks.
        pck: For each layer, the share of correct matches, within `radius` patches.
        chance: The share that a patch drawn at random gets right, on the same points.
        confidence: For each layer, the correlation (Pearson) between the largest attention weight on the other view and
            being right. NaN where all are right or all wrong.
        by_distance: Number of frames between the two views -> share of correct matches, mean over layers.
        chance_by_distance: The same for a patch drawn at random.
        radius: Distance in patches (Euclidean) up to which a match is right.
        grid: Rows and columns of patches.
        points: Number of matches.
        skipped: Sequences without a match -> the reason.
    """

    layers: Sequence[int]
    pck: Sequence[float]
    chance: float
    confidence: Sequence[float]
    by_distance: Mapping[int, float]
    chance_by_distance: Mapping[int, float]
    radius: float
    grid: tuple[int, int]
    points: int
    skipped: Mapping[str, str]

    @property
    def mean(self) -> float:
        """Mean share of correct matches over the layers: the paper's "Avg PCK"."""
        return float(np.mean(self.pck))

    @property
    def robustness(self) -> dict[int, float]:
        """Frames between the two views -> share of correct matches, divided by that at the smallest distance.

        The paper's Y(dt). It is a ratio: an encoder that is wrong at every distance has a high one.
        """
        nearest = self.by_distance[min(self.by_distance)]
        return {dt: share / nearest if nearest else math.nan for dt, share in sorted(self.by_distance.items())}

    def to_dict(self) -> dict[str, Any]:
        """Everything that was measured, JSON-able."""
        finite = [None if math.isnan(each) else each for each in self.confidence]
        return {**asdict(self), "confidence": finite, "mean": self.mean, "robustness": self.robustness}


class Tally:
    """Adds up matches, sequence by sequence.

    Args:
        encoder: The encoder, or another model.
        layers: Indices of the blocks to measure.
        radius: A match is right if it is at most this many patches away.
        read: How queries and keys of its layers are read; None: as those of an encoder (`queries_and_keys`).
    """

    def __init__(
        self, encoder: nn.Module, layers: Sequence[int], radius: float, *, read: ReadAttention | None = None
    ) -> None:
        self.encoder, self.layers, self.radius = encoder, list(layers), radius
        self.read = read
        self.grid = (0, 0)
        self.right: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        self.sure: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        self.chance: list[np.ndarray] = []
        self.distance: list[np.ndarray] = []

    @torch.no_grad()
    def add(self, example: Mapping[str, Tensor]) -> None:
        """Add the matches of a sequence, an example of `Sequences(..., whole=True)`."""
        was_training = self.encoder.training
        self.encoder.eval()
        device = next(self.encoder.parameters()).device
        read = self.read or queries_and_keys
        found, self.grid = read(self.encoder, example["pixel_values"].to(device), self.layers)
        self.encoder.train(was_training)
        visible_FN = example["visible"]
        places = example["places"] if "places" in example else torch.arange(len(visible_FN))
        rows, columns = self.grid
        y_N, x_N = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        patches_N2 = torch.stack([x_N.flatten(), y_N.flatten()], -1).float()
        for view in range(1, len(visible_FN)):
            points_K = (visible_FN[0] & visible_FN[view]).nonzero()[:, 0]
            if not len(points_K):
                continue
            truth_K2 = example["points"][view, points_K] * torch.tensor([columns, rows]) - 0.5
            near_KN = torch.cdist(truth_K2, patches_N2) <= self.radius
            self.chance.append(near_KN.float().mean(1).numpy())
            self.distance.append(np.full(len(points_K), abs(int(places[view] - places[0]))))
            for layer, (queries, keys) in found.items():
                best_K, sure_K = _best(queries[0, points_K.to(device)], keys[view])
                self.right[layer].append(near_KN[torch.arange(len(points_K)), best_K.cpu()].numpy())
                self.sure[layer].append(sure_K.float().cpu().numpy())

    def result(self, skipped: Mapping[str, str]) -> AttentionMatches:
        """The shares over all matches.

        Raises:
            SpatialBoostError: There was no match.
        """
        if not self.chance:
            first = next(iter(skipped.values()), "no sequence was given")
            raise SpatialBoostError(f"no sequence has a point that two views see, so nothing is measured: {first}")
        right_LM = np.stack([np.concatenate(self.right[layer]) for layer in self.layers]).astype(float)
        sure_LM = np.stack([np.concatenate(self.sure[layer]) for layer in self.layers])
        chance_M, distance_M = np.concatenate(self.chance), np.concatenate(self.distance)
        apart = [int(dt) for dt in np.unique(distance_M)]
        return AttentionMatches(
            layers=self.layers,
            pck=right_LM.mean(1).tolist(),
            chance=float(chance_M.mean()),
            confidence=[correlation(sure, right) for sure, right in zip(sure_LM, right_LM, strict=True)],
            by_distance={dt: float(right_LM[:, distance_M == dt].mean()) for dt in apart},
            chance_by_distance={dt: float(chance_M[distance_M == dt].mean()) for dt in apart},
            radius=self.radius,
            grid=self.grid,
            points=len(chance_M),
            skipped=dict(skipped),
        )


def attention_matches(
    encoder: nn.Module,
    scenes: Sequence[Scene] | Any,
    *,
    image_size: int | tuple[int, int] = 224,
    layers: Sequence[int] | None = None,
    radius: float = 2.0,
    options: CorrespondenceOptions | None = None,
    base: bool = False,
) -> AttentionMatches:
    """Measure how often the attention's own queries and keys match the same point of two views, layer by layer.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms.render import render_scenes
        >>> encoder = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> found = attention_matches(encoder, render_scenes([2, 3], views=3, size=64), image_size=64)
        >>> found.layers, found.grid, sorted(found.by_distance), 0.1 < found.chance < 0.2
        ([0, 1], (8, 8), [1, 2], True)

    The query of each patch of the first view, whose centre another view sees too, is compared by cosine with the keys
    of all patches of that view (all heads together, before rotary positions). The most similar patch is the answer.
    Chance depends on the grid: within two patches it is about 16 % on 8 x 8 patches and 2 % on 24 x 24, so a share says
    nothing without it. Nothing is fitted, and no head of the teacher is used.

    Args:
        encoder: The encoder; a boosted one has the heads of both channels.
        scenes: Scenes of several views with depth and poses, in the order of time.
        image_size: (height, width) to which the whole view is resized, or one number for both.
        layers: Indices of blocks; None is all.
        radius: A match is right if it is at most this many patches away.
        options: How points are followed; of its other fields, only the largest number of `frames` counts.
        base: Measure a boosted encoder as if it were not boosted.

    Raises:
        SpatialBoostError: No scene has a point that two views see, or the projections of a layer are not known.

    Source: GASP (arXiv 2605.30231): layer-wise PCK, confidence against accuracy, robustness over time.
    """
    from spatialboost.boosting import disabled

    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    preparation = image_preparation(encoder)
    grid = (size[0] // preparation.patch, size[1] // preparation.patch)
    chosen = list(range(num_layers(encoder))) if layers is None else [each % num_layers(encoder) for each in layers]
    options = options or CorrespondenceOptions(frames=(2, 1000))
    sequences = Sequences(lambda row: preparation(row["images"], size), grid, options, whole=True)
    tally = Tally(encoder, chosen, radius)
    off: Callable[[], AbstractContextManager[Any]] = (lambda: disabled(encoder)) if base else nullcontext
    with off():
        return count_matches(tally, sequences, scenes)


def count_matches(tally: Tally, sequences: Sequences, scenes: Sequence[Scene] | Any) -> AttentionMatches:
    """The matches of scenes; one that cannot be used is named.

    Args:
        tally: Adds them up.
        sequences: Makes a sequence of a scene; it takes all views.
        scenes: Scenes of several views.

    Raises:
        SpatialBoostError: No scene has a point that two views see.
    """
    skipped: dict[str, str] = {}
    for i in range(len(scenes)):
        try:
            scene = scenes[i]
            views = scene.views[: sequences.options.frames[1]]
            example = sequences.of_scene(Scene(views), np.random.default_rng(0))
        except BAD_ITEM as error:
            skipped[str(i)] = " ".join(str(error).split())
            continue
        tally.add(example)
    return tally.result(skipped)


def correlation(confidence: np.ndarray, right: np.ndarray) -> float:
    """Pearson's correlation; NaN if one of them is constant.

    Example:
        >>> round(correlation(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0, 1, 1])), 2)
        0.99
    """
    if confidence.std() == 0 or right.std() == 0:
        return math.nan
    return float(np.corrcoef(confidence, right)[0, 1])


def _best(queries_KHC: Tensor, keys_NHC: Tensor) -> tuple[Tensor, Tensor]:
    """The most similar patch of each point ``(K,)``, and the largest attention weight on the view, mean over heads."""
    flat_q, flat_k = (nn.functional.normalize(each.float().flatten(1), dim=-1) for each in (queries_KHC, keys_NHC))
    best_K = (flat_q @ flat_k.T).argmax(1)
    scores_HKN = torch.einsum("khc,nhc->hkn", queries_KHC.float(), keys_NHC.float()) * queries_KHC.shape[-1] ** -0.5
    return best_K, scores_HKN.softmax(-1).mean(0).max(1).values
