"""The encoder and linear heads: depth of each patch, class of each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_dim, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.pixel.targets import IGNORE, patch_log_depth
from spatialboost.teachers.protocol import Objective

# Shape legend: B images, N patches, D width of the encoder, C classes, H and W pixels.

Grid = tuple[int, int]


class PixelObjective(Objective):
    """Predict log depth, object classes, or both, from each patch token with one linear layer each.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> objective = PixelObjective(encoder)
        >>> objective(pixel_values=torch.zeros(2, 3, 32, 32), depth=torch.ones(2, 40, 40))["loss"].shape
        torch.Size([])

    Depth: smooth L1 loss on the mean log depth of the valid pixels in each patch. Segmentation: cross entropy of class
    scores, resized bilinearly to the label map. With both, the losses are added. As in the paper's appendix E.1, train
    first the heads alone on the frozen encoder, then the boosted encoder.

    Args:
        encoder: Anything that `spatialboost.encoders.read_tokens` reads.
        layer: Block of the encoder whose output is read.
        depth: Add a head for depth.
        num_classes: Classes of the head for segmentation; 0 adds no such head.
        grid: Rows and columns of patches; needed for cached features.
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes `num_items_in_batch` to forward

    def __init__(
        self,
        encoder: nn.Module,
        *,
        layer: int = -1,
        depth: bool = True,
        num_classes: int = 0,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.layer, self.grid = encoder, layer, grid
        if not depth and not num_classes:
            raise SpatialBoostError("the objective has no head: set depth=True or num_classes of at least 1")
        width = feature_dim(encoder)
        self.depth_head = nn.Linear(width, 1) if depth else None
        self.class_head = nn.Linear(width, num_classes) if num_classes else None

    def num_items(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Patches with a known depth, and pixels with a class ``(2,)``; None if the patch grid is unknown."""
        if self.grid is None:
            return None
        depth, classes = batch.get("depth"), batch.get("classes")
        known = 0 if depth is None else int(patch_log_depth(depth, batch.get("valid"), self.grid)[1].sum())
        return torch.tensor([known, 0 if classes is None else int((classes != IGNORE).sum())])

    @property
    def heads(self) -> nn.ModuleDict:
        """Target name -> head."""
        heads = {"depth": self.depth_head, "segmentation": self.class_head}
        return nn.ModuleDict({name: head for name, head in heads.items() if head is not None})

    def forward(
        self,
        pixel_values: Tensor | None = None,
        depth: Tensor | None = None,
        valid: Tensor | None = None,
        classes: Tensor | None = None,
        patch_features: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            pixel_values: Normalised images ``(B, 3, H, W)``.
            depth: Depth in metres ``(B, H', W')`` for the same field of view, with at least one pixel for each patch.
            valid: Where `depth` is known ``(B, H', W')``; None uses all finite depths above 0.
            classes: Number of each pixel's class ``(B, H', W')``, -100 where there is none.
            patch_features: Patch tokens of the encoder ``(B, N, D)``, instead of `pixel_values`.
            num_items_in_batch: The numbers that the sums of the losses are divided by, as `num_items` counts them over
                all batches of an optimiser step; None takes the means over this batch.
        """
        depth_items, class_items = (None, None) if num_items_in_batch is None else num_items_in_batch
        patches_BND, grid = self._patches(pixel_values, patch_features)
        loss = patches_BND.new_zeros(())
        if self.depth_head is not None:
            if depth is None:
                raise SpatialBoostError("the objective has a head for depth, and the batch has no `depth`")
            loss = loss + self._depth_loss(patches_BND, depth, valid, grid, depth_items)
        if self.class_head is not None:
            if classes is None:
                raise SpatialBoostError("the objective has a head for segmentation, and the batch has no `classes`")
            logits_BCHW = self.class_logits(patches_BND, grid, (classes.shape[1], classes.shape[2]))
            reduction = "mean" if class_items is None else "sum"
            entropy = nn.functional.cross_entropy(
                logits_BCHW.float(), classes, ignore_index=IGNORE, reduction=reduction
            )
            loss = loss + (entropy if class_items is None else entropy / class_items)
        return {"loss": loss}

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> Tensor:
        """Depth in metres of each patch ``(B, rows, columns)``."""
        patches_BND, grid = self._patches(pixel_values, None)
        return self.log_depth(patches_BND).exp().unflatten(1, grid)

    @torch.no_grad()
    def predict_classes(self, pixel_values: Tensor, size: tuple[int, int]) -> Tensor:
        """The most probable class of each pixel, for maps of this size ``(B, H', W')``."""
        patches_BND, grid = self._patches(pixel_values, None)
        return self.class_logits(patches_BND, grid, size).argmax(1)

    def log_depth(self, patches_BND: Tensor) -> Tensor:
        """Log depth of each patch ``(B, N)``."""
        assert self.depth_head is not None
        return self.depth_head(patches_BND)[..., 0]

    def class_logits(self, patches_BND: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
        """Class scores ``(B, C, H', W')``, resized to this size."""
        assert self.class_head is not None
        logits_BCN = self.class_head(patches_BND).transpose(1, 2)
        return nn.functional.interpolate(logits_BCN.unflatten(2, grid), size=size, mode="bilinear", align_corners=False)

    def _depth_loss(
        self, patches_BND: Tensor, depth: Tensor, valid: Tensor | None, grid: Grid, items: Tensor | None
    ) -> Tensor:
        target_BN, known_BN = patch_log_depth(depth, valid, grid)
        if not known_BN.any():
            raise SpatialBoostError(
                "no patch of the batch has a valid depth: check the unit (metres) and the valid mask"
            )
        predicted_A, true_A = self.log_depth(patches_BND)[known_BN], target_BN[known_BN]
        if items is None:
            return nn.functional.smooth_l1_loss(predicted_A, true_A)
        return nn.functional.smooth_l1_loss(predicted_A, true_A, reduction="sum") / items

    def _patches(self, pixel_values: Tensor | None, patch_features: Tensor | None) -> tuple[Tensor, Grid]:
        if patch_features is not None:
            if self.grid is None:
                raise SpatialBoostError("the patch grid is unknown for cached features: give the objective `grid`")
            return patch_features, self.grid
        if pixel_values is None:
            raise SpatialBoostError("the batch has neither pixel_values nor patch_features")
        tokens = read_tokens(self.encoder, pixel_values, layer=self.layer)
        return tokens.patches, tokens.grid
