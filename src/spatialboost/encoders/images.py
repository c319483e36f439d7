"""Images as an encoder wants them: resized, rescaled, normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.photographs import open_photograph, to_rgb
from spatialboost.encoders.preprocessing import CLIP, HALF, IMAGENET, read_preprocessing
from spatialboost.encoders.spec import RGB
from spatialboost.errors import SpatialBoostError

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
    """How images become the input of one encoder; it pickles, so that worker processes can do it without the encoder.

    Example:
        >>> preparation = ImagePreparation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), patch=16)
        >>> preparation([np.zeros((60, 80, 3), np.uint8)], (32, 48)).shape
        torch.Size([1, 3, 32, 48])

    Attributes:
        mean: Of each channel, for pixels in [0, 1].
        std: Likewise.
        patch: Side of a patch in pixels, of which height and width are multiples.
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

        PIL resizes, and so pixels are rounded to 8 bits afterwards. The pipelines of timm, transformers and open_clip
        do the same: it is what the encoders were trained on, and it makes a cache of resized images a quarter as large.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if height % self.patch or width % self.patch or min(height, width) < self.patch:
            raise SpatialBoostError(
                f"image size {height}x{width} is not a multiple of the encoder's patch size {self.patch}"
            )
        if not images:
            return torch.empty(0, 3, height, width, dtype=torch.uint8)
        return torch.stack([_resized(_pixels(image), height, width, self.interpolation) for image in images])

    def normalise(self, pixels_B3HW: Tensor) -> Tensor:
        """8-bit images as the float32 numbers that the encoder was trained on."""
        mean, std = torch.tensor((self.mean, self.std), device=pixels_B3HW.device).view(2, 3, 1, 1)
        return pixels_B3HW.float().div_(255).sub_(mean).div_(std)


def image_preparation(encoder: nn.Module) -> ImagePreparation:
    """How the encoder wants its images: `spatialboost.encoders.preprocessing.read_preprocessing` and its patch size."""
    library, inner = find_reader(encoder)
    patch = library.patch_size(inner)
    if library.hierarchical(inner):
        # some round up on the way to the last grid, so that the size they are built for is no multiple
        patch = math.gcd(patch, *library.native_size(inner))
    told = read_preprocessing(encoder)
    return ImagePreparation(told.mean, told.std, patch, told.interpolation)


def normalisation(encoder: nn.Module) -> tuple[RGB, RGB]:
    """Mean and standard deviation per channel that the encoder was trained with, for pixels in [0, 1].

    Example:
        >>> import timm
        >>> normalisation(timm.create_model("vit_tiny_patch16_224", depth=1)) == HALF
        True
    """
    told = read_preprocessing(encoder)
    return told.mean, told.std


def prepare_images(encoder: nn.Module, images: Sequence[Any], size: tuple[int, int] | int) -> Tensor:
    """Resize and normalise images as the encoder wants them: float32 ``(B, 3, H, W)``.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2)
        >>> prepare_images(encoder, [np.zeros((60, 80, 3), np.uint8)], 32).shape
        torch.Size([1, 3, 32, 32])

    The whole image is squeezed into the size, never cropped: the questions speak of its coordinates. An EXIF
    orientation is not applied here, since frames of an RGB-D camera must stay as they are; photographs are opened with
    `open_photograph`, which applies it.

    Args:
        encoder: Says the normalisation, the interpolation and the patch size.
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
    """``uint8 (3, H, W)``, by PIL, whose filters smooth an image before they make it smaller."""
    from PIL import Image

    if pixels_HW3.shape[:2] != (height, width):
        image = Image.fromarray(pixels_HW3).resize((width, height), Image.Resampling[interpolation.upper()])
        pixels_HW3 = np.asarray(image)
    return torch.from_numpy(pixels_HW3.copy()).permute(2, 0, 1).contiguous()
