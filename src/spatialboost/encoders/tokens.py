"""How to read an encoder: its patch tokens, its size, and how it wants its images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError

# Shape legend: B batch, H and W pixels, N patches, D width of the encoder.

RGB = tuple[float, float, float]

IMAGENET: tuple[RGB, RGB] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: tuple[RGB, RGB] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: tuple[RGB, RGB] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

# transformers keeps the normalisation in the image processor, not in the model: by type of configuration.
_TRANSFORMERS_NORMALISATION = {"clip": CLIP, "siglip": HALF, "vit": HALF, "beit": HALF}


@dataclass(frozen=True)
class Tokens:
    """What an encoder says about a batch of images.

    Attributes:
        patches: Patch tokens ``(B, N, D)``, row by row from the top left.
        grid: Rows and columns of patches; their product is N.
        cls: The class token ``(B, D)``, or None where the encoder has none.
    """

    patches: Tensor
    grid: tuple[int, int]
    cls: Tensor | None


def read_tokens(encoder: nn.Module, pixel_values: Tensor, *, layer: int = -1) -> Tokens:
    """Read the tokens after one block; class and register tokens are taken out of the patches.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> tokens = read_tokens(encoder, torch.zeros(5, 3, 32, 32))
        >>> tokens.patches.shape, tokens.grid, tokens.cls.shape
        (torch.Size([5, 4, 48]), (2, 2), torch.Size([5, 48]))

    The encoder's final norm is applied where the last layer is read and nowhere else (a transformers CLIP tower has no
    such norm over its patches, so there it is not applied at all). Gradients flow.

    Args:
        encoder: A timm vision transformer or a transformers vision model.
        pixel_values: Images ``(B, 3, H, W)``, resized and normalised as `prepare_images` does it.
        layer: Block after which to read; negative counts from the end.
    """
    index = feature_layer(encoder, layer)
    rows, columns = _grid(encoder, pixel_values)
    is_last = index == num_layers(encoder) - 1
    if _is_timm(encoder):
        return _read_timm(encoder, pixel_values, (rows, columns), index, norm=is_last)
    return _read_transformers(encoder, pixel_values, (rows, columns), index, is_last=is_last)


def feature_layer(encoder: nn.Module, layer: int) -> int:
    """Index from 0 of the block that `layer` names; blocks after it do not touch what is read there.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> feature_layer(VisionTransformer(embed_dim=48, depth=4, num_heads=2), -2)
        2
    """
    depth = num_layers(encoder)
    if not -depth <= layer < depth:
        raise SpatialBoostError(
            f"layer {layer} was asked for, but the encoder has {depth}: give {-depth} to {depth - 1}"
        )
    return layer % depth


def feature_dim(encoder: nn.Module) -> int:
    """Width D of the encoder's tokens."""
    host: Any = encoder
    return int(host.embed_dim if _is_timm(host) else host.config.hidden_size)


def patch_size(encoder: nn.Module) -> int:
    """Side of a patch in pixels."""
    host: Any = encoder
    side = host.patch_embed.patch_size if _is_timm(host) else host.config.patch_size
    return int(side[0] if isinstance(side, (tuple, list)) else side)


def num_layers(encoder: nn.Module) -> int:
    """Number of blocks."""
    host: Any = encoder
    return len(host.blocks) if _is_timm(host) else int(host.config.num_hidden_layers)


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
    height, width = (size, size) if isinstance(size, int) else size
    patch = patch_size(encoder)
    if height % patch or width % patch or min(height, width) < patch:
        raise SpatialBoostError(f"image size {height}x{width} is not a multiple of the encoder's patch size {patch}")
    if not images:
        return torch.empty(0, 3, height, width)
    mean, std = torch.tensor(normalisation(encoder)).view(2, 3, 1, 1)
    return torch.stack([_resize(_pixels(image), height, width) for image in images]).sub_(mean).div_(std)


def _pixels(image: Any) -> Tensor:
    """An image as float ``(3, H, W)`` in [0, 1]."""
    pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SpatialBoostError(f"an image is {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255)


def _resize(image_3HW: Tensor, height: int, width: int) -> Tensor:
    if image_3HW.shape[1:] == (height, width):
        return image_3HW
    return nn.functional.interpolate(
        image_3HW[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )[0]


def _is_timm(encoder: nn.Module) -> bool:
    """True for a timm transformer, False for a transformers vision model; anything else is refused."""
    if hasattr(encoder, "forward_intermediates") and hasattr(encoder, "blocks") and hasattr(encoder, "patch_embed"):
        return True
    config = getattr(encoder, "config", None)
    if all(hasattr(config, name) for name in ("hidden_size", "num_hidden_layers", "patch_size")):
        return False
    hint = ""
    if hasattr(encoder, "vision_model"):
        hint = ": it holds a vision model, so give that one (`model.vision_model`)"
    raise SpatialBoostError(
        f"cannot read patch tokens of {type(encoder).__module__}.{type(encoder).__name__}{hint}. "
        "Expected a timm vision transformer (blocks, patch_embed, forward_intermediates) or a transformers vision "
        "model (a config with hidden_size, num_hidden_layers and patch_size)"
    )


def _grid(encoder: nn.Module, pixel_values: Tensor) -> tuple[int, int]:
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise SpatialBoostError(f"pixel_values are {tuple(pixel_values.shape)}; expected (images, 3, height, width)")
    patch = patch_size(encoder)
    height, width = pixel_values.shape[2:]
    if height % patch or width % patch:
        raise SpatialBoostError(f"images of {height}x{width} pixels do not divide into patches of {patch}")
    return height // patch, width // patch


def _read_timm(encoder: Any, pixel_values: Tensor, grid: tuple[int, int], index: int, *, norm: bool) -> Tokens:
    try:
        read = encoder.forward_intermediates(
            pixel_values,
            indices=[index],
            norm=norm,
            stop_early=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
            intermediates_only=True,
        )[0]
    except AssertionError as error:  # timm asserts the image size that the position grid was built for
        raise SpatialBoostError(
            f"{error} Give images of that size, or build the encoder with `img_size=` or `dynamic_img_size=True`"
        ) from None
    patches, prefix = read if isinstance(read, tuple) else (read, None)
    has_cls = prefix is not None and prefix.shape[1] > 0 and getattr(encoder, "cls_token", None) is not None
    return Tokens(patches, grid, prefix[:, 0] if has_cls else None)


def _read_transformers(
    encoder: Any, pixel_values: Tensor, grid: tuple[int, int], index: int, *, is_last: bool
) -> Tokens:
    options: dict[str, Any] = {} if is_last else {"output_hidden_states": True}
    native = encoder.config.image_size
    native = tuple(native) if isinstance(native, (tuple, list)) else (native, native)
    if (
        tuple(pixel_values.shape[2:]) != native
        and "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    ):
        options["interpolate_pos_encoding"] = True
    output = encoder(pixel_values=pixel_values, **options)
    # hidden_states[0] is what enters the first block
    tokens = output.last_hidden_state if is_last else output.hidden_states[index + 1]
    num_prefix = tokens.shape[1] - grid[0] * grid[1]
    if num_prefix < 0:
        raise SpatialBoostError(
            f"{type(encoder).__name__} gave {tokens.shape[1]} tokens for a grid of {grid[0]}x{grid[1]} patches"
        )
    return Tokens(tokens[:, num_prefix:], grid, tokens[:, 0] if num_prefix else None)
