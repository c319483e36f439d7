"""How to read an encoder: its patch tokens and its size."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spatialboost.errors import SpatialBoostError

# Shape legend: B batch, H and W pixels, N patches, D width of the encoder.


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
        >>> import torch
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
