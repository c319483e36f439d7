"""Resize and normalise images as an encoder needs them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.preprocessing import CLIP, HALF, IMAGENET, read_preprocessing
from spatialboost.encoders.spec import RGB
from spatialboost.errors import SpatialBoostError
from spatialboost.photographs import open_photograph, to_rgb

__all__ = [
    "CLIP",
    "HALF",
    "IMAGENET",
    "ImagePreparation",
    "image_preparation",
    "normalisation",
    "open_photograph",
    "prepare_images",
]

# Shape legend: B batch, H and W pixels.


@dataclass(frozen=True)
class ImagePreparation:
    """How images are prepared for one encoder. It can be pickled, so worker processes do not need the encoder.

    Example:
        >>> preparation = ImagePreparation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), patch=16)
        >>> preparation([np.zeros((60, 80, 3), np.uint8)], (32, 48)).shape
        torch.Size([1, 3, 32, 48])

    Attributes:
        mean: Mean of each colour channel, for pixels in [0, 1].
        std: Standard deviation of each colour channel, for pixels in [0, 1].
        patch: Side of a patch in pixels; height and width must be multiples of it.
        interpolation: How images of another size are resized: nearest, bilinear, bicubic or lanczos.
    """

    mean: RGB
    std: RGB
    patch: int
    interpolation: str = "bilinear"

    def __call__(self, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
        """Resize and normalise: see `prepare_images`."""
        return self.normalise(self.resize(images, size))

    def resize(self, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
        """Images of any sizes as ``uint8 (B, 3, H, W)``.

        PIL resizes them and rounds the pixels to 8 bits. The pipelines of timm, transformers and open_clip do the same,
        so the encoders were trained on such pixels. A cache of them is a quarter as large as one of float32.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if height % self.patch or width % self.patch or min(height, width) < self.patch:
            raise SpatialBoostError(
                f"image size {height}x{width} is not a multiple of the encoder's patch size {self.patch}. "
                "Give a height and a width that are multiples of it"
            )
        if not images:
            return torch.empty(0, 3, height, width, dtype=torch.uint8)
        return torch.stack([_resized(_pixels(image), height, width, self.interpolation) for image in images])

    def normalise(self, pixels_B3HW: Tensor) -> Tensor:
        """Normalise 8-bit images, as float32."""
        mean, std = torch.tensor((self.mean, self.std), device=pixels_B3HW.device).view(2, 3, 1, 1)
        return pixels_B3HW.float().div_(255).sub_(mean).div_(std)


def image_preparation(encoder: nn.Module) -> ImagePreparation:
    """The preparation for an encoder: what `read_preprocessing` returns, and the patch size."""
    library, inner = find_reader(encoder)
    patch = library.patch_size(inner)
    if library.hierarchical(inner):
        # some round the size of the last grid up, so their own image size need not be a multiple of the patch size
        patch = math.gcd(patch, *library.native_size(inner))
    preprocessing = read_preprocessing(encoder)
    return ImagePreparation(preprocessing.mean, preprocessing.std, patch, preprocessing.interpolation)


def normalisation(encoder: nn.Module) -> tuple[RGB, RGB]:
    """Mean and standard deviation per channel that the encoder was trained with, for pixels in [0, 1].

    Example:
        >>> import timm
        >>> normalisation(timm.create_model("vit_tiny_patch16_224", depth=1)) == HALF
        True
    """
    preprocessing = read_preprocessing(encoder)
    return preprocessing.mean, preprocessing.std


def prepare_images(encoder: nn.Module, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
    """Resize and normalise images as the encoder needs them: float32 ``(B, 3, H, W)``.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2)
        >>> prepare_images(encoder, [np.zeros((60, 80, 3), np.uint8)], 32).shape
        torch.Size([1, 3, 32, 32])

    The whole image is resized, even if its aspect ratio changes. It is never cropped, because questions contain
    coordinates of the whole image. The EXIF orientation is not applied here, because frames of an RGB-D camera must not
    be rotated. Open photographs with `open_photograph`, which applies it.

    Args:
        encoder: The encoder that will read the images.
        images: ``uint8`` arrays ``(H, W, 3)`` or PIL images, of any sizes.
        size: (height, width) in pixels, or one number for both; multiples of the patch size.
    """
    return image_preparation(encoder)(images, size)


def _pixels(image: Any) -> np.ndarray:
    """An image as ``uint8 (H, W, 3)``."""
    pixels = np.asarray(to_rgb(image) if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SpatialBoostError(f"an image is {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")
    return pixels


def _resized(pixels_HW3: np.ndarray, height: int, width: int, interpolation: str) -> Tensor:
    """``uint8 (3, H, W)``, resized by PIL, which smooths an image before it makes it smaller."""
    from PIL import Image

    if pixels_HW3.shape[:2] != (height, width):
        image = Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling[interpolation.upper()])
        pixels_HW3 = np.asarray(image)
    return torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1).contiguous()
