"""Teach the encoder by depth itself, through a linear head: the paper's Table 6, "+ linear (depth)"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_dim, read_tokens
from spatialboost.errors import SpatialBoostError

# Shape legend: B images, N patches, H and W pixels, P pixels of one patch.


class PixelObjective(nn.Module):
    """Smooth L1 loss between log depth and what one linear layer reads off each patch token.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> objective = PixelObjective(encoder)
        >>> objective(pixel_values=torch.zeros(2, 3, 32, 32), depth=torch.ones(2, 40, 40))["loss"].shape
        torch.Size([])

    The head predicts the mean log depth of the valid pixels below each patch. Train it alone first, with the encoder
    frozen, then the boosted encoder: so do the authors (the paper's appendix E.1, as its reviews tell).

    Args:
        encoder: Anything that `spatialboost.encoders.tokens.read_tokens` reads.
        layer: Block of the encoder whose output is read.
    """

    def __init__(self, encoder: nn.Module, *, layer: int = -1) -> None:
        super().__init__()
        self.encoder, self.layer = encoder, layer
        self.head = nn.Linear(feature_dim(encoder), 1)

    def forward(self, pixel_values: Tensor, depth: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            pixel_values: Normalised images ``(B, 3, H, W)``.
            depth: Metres ``(B, H', W')`` over the same field of view, of any resolution of at least one pixel a patch.
            valid: Where `depth` is known ``(B, H', W')``; None is wherever it is finite and positive.
        """
        tokens = read_tokens(self.encoder, pixel_values, layer=self.layer)
        target_BN, known_BN = patch_log_depth(depth, valid, tokens.grid)
        if not known_BN.any():
            raise SpatialBoostError(
                "no patch of the batch has a valid depth: check the unit (metres) and the valid mask"
            )
        predicted_BN = self.head(tokens.patches)[..., 0]
        return {"loss": nn.functional.smooth_l1_loss(predicted_BN[known_BN], target_BN[known_BN])}

    @torch.no_grad()
    def predict(self, pixel_values: Tensor) -> Tensor:
        """Depth in metres of each patch ``(B, rows, columns)``."""
        tokens = read_tokens(self.encoder, pixel_values, layer=self.layer)
        return self.head(tokens.patches)[..., 0].exp().unflatten(1, tokens.grid)


def patch_log_depth(depth: Tensor, valid: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mean log depth of the valid pixels of each patch ``(B, N)``, and whether there were any.

    Example:
        >>> depth = torch.tensor([[[1.0, 0.0], [2.0, 2.0]]])
        >>> target, known = patch_log_depth(depth, None, (2, 1))
        >>> target.exp().tolist(), known.tolist()
        ([[1.0, 2.0]], [[True, True]])
    """
    usable = torch.isfinite(depth) & (depth > 0)
    usable = usable if valid is None else usable & valid.bool()
    log_BHW = torch.where(usable, depth, 1.0).log()
    share = nn.functional.adaptive_avg_pool2d(usable.float()[:, None], grid)
    mean = nn.functional.adaptive_avg_pool2d(torch.where(usable, log_BHW, 0.0)[:, None], grid) / share.clamp(min=1e-9)
    return mean.flatten(1), (share > 0).flatten(1)
