"""Read the patch tokens of an encoder, its width, its patch size and its number of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from torch import Tensor, nn

from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.libraries.protocol import Tokens
from spatialboost.errors import SpatialBoostError

# Shape legend: B batch, H and W pixels, N patches, D width of the encoder.


@overload
def read_tokens(encoder: nn.Module, pixel_values: Tensor, *, layer: int = -1) -> Tokens: ...


@overload
def read_tokens(encoder: nn.Module, pixel_values: Tensor, *, layer: Sequence[int]) -> list[Tokens]: ...


def read_tokens(encoder: nn.Module, pixel_values: Tensor, *, layer: int | Sequence[int] = -1) -> Tokens | list[Tokens]:
    """Read the patch tokens after one block or several; class, register and detection tokens are left out.

    Example:
        >>> import torch
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> tokens = read_tokens(encoder, torch.zeros(5, 3, 32, 32))
        >>> tokens.patches.shape, tokens.grid, tokens.cls.shape
        (torch.Size([5, 4, 48]), (2, 2), torch.Size([5, 48]))
        >>> [each.grid for each in read_tokens(encoder, torch.zeros(5, 3, 32, 32), layer=[0, 1])]
        [(2, 2), (2, 2)]

    The encoder's final norm is applied only to the last layer (and not at all to a transformers CLIP tower, which has
    no such norm over its patches). In a hierarchical encoder (Swin, Hiera ...) only the last layer can be read.
    Gradients flow to the encoder.

    Args:
        encoder: An image encoder of timm, transformers, open_clip, torchvision, or DINO from torch.hub.
        pixel_values: Images ``(B, 3, H, W)``, resized and normalised by `prepare_images`.
        layer: Index of the block after which the tokens are read; negative ones count from the end. Several are read in
            one forward.

    Raises:
        SpatialBoostError: The encoder, the images or the layer are not as above, or the number of tokens does not fit
            the grid.
    """
    library, inner = find_reader(encoder)
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise SpatialBoostError(f"pixel_values are {tuple(pixel_values.shape)}; expected (images, 3, height, width)")
    several = not isinstance(layer, int)
    indices = [feature_layer(encoder, each) for each in ([layer] if isinstance(layer, int) else layer)]
    if library.hierarchical(inner):
        _check_last(encoder, indices)
    found = library.read(inner, pixel_values, indices) if indices else []
    for tokens in found:
        rows, columns = tokens.grid
        if tuple(tokens.patches.shape[:2]) != (len(pixel_values), rows * columns):
            raise SpatialBoostError(
                f"{type(encoder).__name__} gave tokens {tuple(tokens.patches.shape)} for {len(pixel_values)} images "
                f"of {rows}x{columns} patches, so they cannot be placed on a grid"
            )
    return found if several else found[0]


def _check_last(encoder: nn.Module, indices: Sequence[int]) -> None:
    last = num_layers(encoder) - 1
    for index in indices:
        if index != last:
            raise SpatialBoostError(
                f"layer {index} of {type(encoder).__name__} was asked for, but its layers have several grids: only the "
                f"last one (-1, which is {last}) can be read. Ask for layer -1"
            )


def feature_layer(encoder: nn.Module, layer: int) -> int:
    """The index of block `layer`, counted from 0; the tokens read there do not depend on later blocks.

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
    """Width D of the encoder's tokens; for a hierarchical encoder, in its last layer."""
    library, inner = find_reader(encoder)
    return library.feature_dim(inner)


def patch_size(encoder: nn.Module) -> int:
    """Distance of neighbouring tokens in pixels; for a hierarchical encoder, in its last layer."""
    library, inner = find_reader(encoder)
    return library.patch_size(inner)


def num_layers(encoder: nn.Module) -> int:
    """Number of blocks, counted as `boost` counts its layers."""
    library, inner = find_reader(encoder)
    return library.num_layers(inner)
