"""The latents of a scene: what turns the views of a sample into a fixed number of tokens that the adapter reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders import feature_dim, image_preparation, read_tokens
from spatialboost.errors import SpatialBoostError

# Shape legend: S samples, K latents, D width of a latent, I frames of a sample, N patches, R and C rows and columns.

Views = Sequence[np.ndarray]  # the frames of one sample, each uint8 (height, width, 3)

NUM_LATENTS = 256  # as in the paper


class SceneEncoder(Protocol):
    """Turns the frames of some samples into scene latents. Any callable with these two members will do.

    Attributes:
        width: Width D of a latent.
    """

    @property
    def width(self) -> int: ...  # noqa: D102 - described above

    def __call__(self, samples: Sequence[Views], /) -> Tensor:
        """The latents ``(S, K, D)`` of S samples, which may have other numbers of frames and other image sizes."""


class EncoderLatents:
    """Scene latents from an image encoder: the tokens of all frames of a sample, pooled to 256.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> samples = [[np.zeros((60, 80, 3), np.uint8)] * 4, [np.zeros((40, 40, 3), np.uint8)]]
        >>> EncoderLatents(encoder, image_size=32)(samples).shape
        torch.Size([2, 256, 48])

    In this way a boosted encoder reaches a vision-language model that has a vision tower of its own. The 256 latents
    are divided equally among the frames, and the grid of each frame is averaged to that many cells. If this gives
    fewer than 256, some of them are repeated, evenly over all frames. Nothing here is trained, and no gradient flows
    to the encoder.

    Args:
        encoder: An image encoder, boosted or not, as `spatialboost.encoders.open_encoder` gives it.
        image_size: (height, width) in pixels that each frame is resized to, or one number for both.
        layer: The block whose tokens are read.
    """

    def __init__(self, encoder: nn.Module, *, image_size: tuple[int, int] | int, layer: int = -1) -> None:
        self.encoder, self.image_size, self.layer = encoder.eval(), image_size, layer
        self.width = feature_dim(encoder)
        self._prepare = image_preparation(encoder)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Views], /) -> Tensor:
        """The latents ``(S, 256, D)``."""
        if not samples or any(not len(views) for views in samples):
            raise SpatialBoostError("a sample without frames has no scene latents: give at least one frame")
        weight = next(self.encoder.parameters())
        frames = [frame for views in samples for frame in kept(views)]
        pixels = self._prepare(frames, self.image_size).to(weight)
        tokens = read_tokens(self.encoder, pixels, layer=self.layer)
        grids_DRC = tokens.patches.unflatten(1, tokens.grid).permute(0, 3, 1, 2)
        groups = grids_DRC.split([len(kept(views)) for views in samples])
        return torch.stack([_pooled(group_IDRC) for group_IDRC in groups])


def kept(views: Views) -> Views:
    """At most one frame for each latent, evenly chosen."""
    if len(views) <= NUM_LATENTS:
        return views
    return [views[i] for i in np.linspace(0, len(views) - 1, NUM_LATENTS).astype(int)]


def _pooled(grids_IDRC: Tensor) -> Tensor:
    """The latents ``(K, D)`` of one sample."""
    share = NUM_LATENTS // len(grids_IDRC)
    rows = isqrt(share)
    cells_ND = (
        nn.functional.adaptive_avg_pool2d(grids_IDRC, (rows, share // rows)).flatten(2).transpose(1, 2).flatten(0, 1)
    )
    return cells_ND[torch.arange(NUM_LATENTS, device=cells_ND.device) * len(cells_ND) // NUM_LATENTS]
