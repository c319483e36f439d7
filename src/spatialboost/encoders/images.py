"""Images as an encoder wants them: resized, rescaled, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders.photographs import open_photograph, to_rgb
from spatialboost.encoders.tokens import _is_timm, patch_size
from spatialboost.errors import SpatialBoostError

__all__ = ["ImagePreparation", "image_preparation", "normalisation", "open_photograph", "prepare_images"]

# Shape legend: B batch, H and W pixels.

RGB = tuple[float, float, float]

IMAGENET: tuple[RGB, RGB] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: tuple[RGB, RGB] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: tuple[RGB, RGB] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

# transformers keeps the normalisation in the image processor, not in the model: by type of configuration.
_TRANSFORMERS_NORMALISATION = {"clip": CLIP, "siglip": HALF, "vit": HALF, "beit": HALF}


@dataclass(frozen=True)
class ImagePreparation:
    """How images become the input of one encoder; it pickles, so that worker processes can do it without the encoder.

    Attributes:
        mean: Of each channel, for pixels in [0, 1].
        std: Likewise.
        patch: Side of a patch in pixels, of which height and width are multiples.
    """

    mean: RGB
    std: RGB
    patch: int

    def __call__(self, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
        """Resize and normalise: see `prepare_images`."""
        height, width = (size, size) if isinstance(size, int) else size
        if height % self.patch or width % self.patch or min(height, width) < self.patch:
            raise SpatialBoostError(
                f"image size {height}x{width} is not a multiple of the encoder's patch size {self.patch}"
            )
        if not images:
            return torch.empty(0, 3, height, width)
        mean, std = torch.tensor((self.mean, self.std)).view(2, 3, 1, 1)
        return torch.stack([_resize(_pixels(image), height, width) for image in images]).sub_(mean).div_(std)


def image_preparation(encoder: nn.Module) -> ImagePreparation:
    """How the encoder wants its images."""
    return ImagePreparation(*normalisation(encoder), patch_size(encoder))


def normalisation(encoder: nn.Module) -> tuple[RGB, RGB]:
    """Mean and standard deviation per channel that the encoder was trained with, for pixels in [0, 1].

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> normalisation(VisionTransformer(embed_dim=48, depth=1, num_heads=2)) == IMAGENET
        True

    timm models say it in ``pretrained_cfg`` (set ``encoder.pretrained_cfg = {"mean": ..., "std": ...}`` for one of your
    own); transformers models by the type of their configuration. ImageNet's values where nothing is known.
    """
    host: Any = encoder
    if _is_timm(host):
        config = getattr(host, "pretrained_cfg", None) or {}
        return tuple(config.get("mean", IMAGENET[0])), tuple(config.get("std", IMAGENET[1]))
    kind = host.config.model_type
    return _TRANSFORMERS_NORMALISATION.get(kind.split("_")[0].rstrip("2"), IMAGENET)


def prepare_images(encoder: nn.Module, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
    """Resize and normalise images as the encoder wants them: float32 ``(B, 3, H, W)``.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2)
        >>> prepare_images(encoder, [np.zeros((60, 80, 3), np.uint8)], 32).shape
        torch.Size([1, 3, 32, 32])

    The whole image is squeezed into the size, never cropped: the questions speak of its coordinates.

    Args:
        encoder: Says the normalisation and the patch size.
        images: ``uint8`` arrays ``(H, W, 3)`` or PIL images, of any sizes.
        size: (height, width) in pixels, or one number for both; multiples of the patch size.
    """
    return image_preparation(encoder)(images, size)


def _pixels(image: Any) -> Tensor:
    """An image as float ``(3, H, W)`` in [0, 1]."""
    pixels = np.asarray(to_rgb(image) if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SpatialBoostError(f"an image is {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _resize(image_3HW: Tensor, height: int, width: int) -> Tensor:
    if image_3HW.shape[1:] == (height, width):
        return image_3HW
    return nn.functional.interpolate(
        image_3HW[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]
