"""The encoder, the heads of its layers, and the loss over the sequences of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_layer, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.correspondence.attention import query_weight
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.heads import build_heads
from spatialboost.teachers.correspondence.losses import (
    at_points,
    contrast,
    counted_negatives,
    depth_agreement,
    matches,
)
from spatialboost.teachers.protocol import Example, Objective

# Shape legend: B sequences, F views of a sequence, I views of all sequences, T points, N patches, E width of an
# embedding, L layers, R further negatives.


class CorrespondenceObjective(Objective):
    """Teach the tokens of several blocks to find the same point of a place again in another view.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> objective = CorrespondenceObjective(encoder, CorrespondenceOptions(width=16))
        >>> sorted(objective.heads)
        ['0', '1']

    Args:
        encoder: Anything that `spatialboost.encoders.read_tokens` reads.
        options: The options of the teacher.
        layer: Block of the encoder whose output is read: the last one with a head.

    Raises:
        SpatialBoostError: The layers with heads do not fit the encoder, or have no known query projection.
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes `num_items_in_batch` to forward

    def __init__(self, encoder: nn.Module, options: CorrespondenceOptions, *, layer: int = -1) -> None:
        super().__init__()
        self.encoder, self.options, self.layer = encoder, options, layer
        self.layers = supervised_layers(encoder, options.layers, layer)
        queries = {each: query_weight(encoder, each).detach() for each in self.layers}
        self.heads = build_heads(queries, options.width, norm=options.head_norm, start=options.head_start)

    def num_items(self, batch: Mapping[str, Any]) -> Tensor:
        """The number of matches."""
        return torch.stack([matches(visible_FT).sum() for visible_FT in batch["visible"]]).sum()

    def forward(
        self,
        pixel_values: Tensor,
        frames: Tensor,
        points: Tensor,
        visible: Tensor,
        depths: Tensor,
        patch_depths: Tensor,
        far: Tensor | None = None,
        far_valid: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch, which `stack_sequences` makes: sequences with fewer views or points are filled up.

        Args:
            pixel_values: The views of all sequences, one after another ``(I, 3, H, W)``.
            frames: Views of each sequence ``(B,)``.
            points: (x, y) as shares of each view's width and height ``(B, F, T, 2)``.
            visible: Whether a view sees a point ``(B, F, T)``.
            depths: z of each point in each view ``(B, F, T)``.
            patch_depths: Depth of each patch, 0 where unknown ``(I, N)``.
            far: Places of further negatives ``(B, F, T, R, 2)``.
            far_valid: Which of these count ``(B, F, T, R)``.
            num_items_in_batch: The number of matches that the sums are divided by; None takes those of this batch.
        """
        tokens = read_tokens(self.encoder, pixel_values, layer=self.layers)
        heads: Any = self.heads
        maps_LINE = torch.stack(
            [heads[str(layer)](each.patches).float() for layer, each in zip(self.layers, tokens, strict=True)]
        )
        sums = sequence_losses(
            maps_LINE,
            tokens[0].grid,
            self.options,
            frames=frames,
            points=points,
            visible=visible,
            depths=depths,
            patch_depths=patch_depths,
            far=far,
            far_valid=far_valid,
        )
        items = self.num_items({"visible": visible}) if num_items_in_batch is None else num_items_in_batch
        contrast_loss, depth_loss = sums / items.clamp(min=1)
        options = self.options
        loss = options.contrast_weight * contrast_loss + options.depth_weight * depth_loss
        return {"loss": loss, "contrast": contrast_loss.detach(), "depth": depth_loss.detach()}


def sequence_losses(
    maps_LINE: Tensor,
    grid: tuple[int, int],
    options: CorrespondenceOptions,
    *,
    frames: Tensor,
    points: Tensor,
    visible: Tensor,
    depths: Tensor,
    patch_depths: Tensor,
    far: Tensor | None = None,
    far_valid: Tensor | None = None,
) -> Tensor:
    """Sums of both losses over the matches of the sequences of a batch ``(2,)``, put together over layers.

    Args:
        maps_LINE: Embeddings of the patches of all views, for each layer with a head.
        grid: Rows and columns of patches.
        options: The options of the teacher.
        frames: As for `CorrespondenceObjective`, and so are the others.
        points: ``(B, F, T, 2)``.
        visible: ``(B, F, T)``.
        depths: ``(B, F, T)``.
        patch_depths: ``(I, N)``.
        far: ``(B, F, T, R, 2)``.
        far_valid: ``(B, F, T, R)``.
    """
    sums = maps_LINE.new_zeros(2)
    sizes: Sequence[int] = [maps_LINE.shape[1]] if len(frames) == 1 else frames.tolist()
    for b, (maps_LFNE, depth_FN) in enumerate(zip(maps_LINE.split(sizes, 1), patch_depths.split(sizes), strict=True)):
        count = sizes[b]
        more = (None, None) if far is None or far_valid is None else (far[b, :count], far_valid[b, :count])
        own = (points[b, :count], visible[b, :count], depths[b, :count])
        sums = sums + _losses(maps_LFNE, grid, options, *own, depth_FN, *more)
    return sums


def _losses(
    maps_LFNE: Tensor,
    grid: tuple[int, int],
    options: CorrespondenceOptions,
    points_FT2: Tensor,
    visible_FT: Tensor,
    depths_FT: Tensor,
    patch_depths_FN: Tensor,
    far_FTR2: Tensor | None,
    far_valid_FTR: Tensor | None,
) -> Tensor:
    """The same of one sequence."""
    points_LFTE = at_points(maps_LFNE, grid, points_FT2, options.sample)
    far_LGTRE = None
    if far_FTR2 is not None and far_valid_FTR is not None:
        found = at_points(maps_LFNE[:, 1:], grid, far_FTR2[1:].flatten(1, 2), options.sample)
        far_LGTRE, far_valid_FTR = found.unflatten(2, far_FTR2.shape[1:3]), far_valid_FTR[1:]
    contrast_L = contrast(
        points_LFTE,
        visible_FT,
        counted_negatives(points_FT2, visible_FT, grid, options.apart),
        temperature=options.temperature,
        across=options.negatives == "frames",
        far_LGTRE=far_LGTRE,
        far_valid_GTR=far_valid_FTR,
    )
    depth_L = depth_agreement(
        points_LFTE,
        maps_LFNE,
        visible_FT,
        depths_FT,
        patch_depths_FN,
        temperature=options.temperature,
        epsilon=options.epsilon,
    )
    both_L2 = torch.stack([contrast_L, depth_L], 1)
    return both_L2.mean(0) if options.over_layers == "mean" else both_L2.sum(0)


def supervised_layers(encoder: nn.Module, wanted: Sequence[int] | None, layer: int) -> list[int]:
    """Indices of the blocks with a head, in order; None is all up to the block that is read.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> supervised_layers(VisionTransformer(embed_dim=48, depth=4, num_heads=2), [1, -2], -2)
        [1, 2]

    Raises:
        SpatialBoostError: A block does not exist, or the last one is not the one that is read.
    """
    last = feature_layer(encoder, layer)
    if wanted is None:
        return list(range(last + 1))
    layers = sorted({feature_layer(encoder, each) for each in wanted})
    if layers[-1] != last:
        raise SpatialBoostError(
            f"teacher.layers ends at block {layers[-1]}, and layer: {layer} reads block {last}: those between them "
            f"would get no gradient. Set layer: {layers[-1]}, or add {last} to teacher.layers"
        )
    return layers


def stack_sequences(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch of sequences: filled up to the largest number of views and points, with points that no view sees."""
    views, points = (max(example["visible"].shape[axis] for example in examples) for axis in (0, 1))
    batch = {"frames": torch.tensor([len(example["visible"]) for example in examples])}
    batch["patch_depths"] = torch.cat([example["patch_depths"] for example in examples])
    for name in ("points", "visible", "depths", "far", "far_valid"):
        if name not in examples[0]:
            continue
        rest = examples[0][name].shape[2:]
        filled = torch.zeros((len(examples), views, points, *rest), dtype=examples[0][name].dtype)
        for place, example in enumerate(examples):
            own = example[name]
            filled[place, : own.shape[0], : own.shape[1]] = own
        batch[name] = filled
    return batch
