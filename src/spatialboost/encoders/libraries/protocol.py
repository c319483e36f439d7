"""The methods that a library needs so that its encoders can be opened and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from spatialboost.encoders.preprocessing import Preprocessing
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError

# Shape legend: B batch, H and W pixels, N patches, D width of the encoder.


@dataclass(frozen=True)
class Tokens:
    """The tokens of an encoder for a batch of images.

    Attributes:
        patches: Patch tokens ``(B, N, D)``, row by row from the top left.
        grid: Rows and columns of patches; their product is N.
        cls: The class token ``(B, D)``, or None if the encoder has none.
    """

    patches: Tensor
    grid: tuple[int, int]
    cls: Tensor | None


class Library(Protocol):
    """One library of encoders. Methods that read an encoder get one for which `reads` is true, boosted or not."""

    def build(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        """Build the encoder that a configuration names (only its image tower) on the CPU.

        Random weights are drawn from torch's generator, which the caller has seeded. `config.weights` is not loaded
        here: the caller does that.
        """
        ...

    def loads_weights(self, config: EncoderConfig) -> bool | None:
        """Whether `build` loads pretrained weights for this configuration; None if only the model's code knows."""
        ...

    def reads(self, encoder: nn.Module) -> bool:
        """Whether the encoder is one of this library and has patch tokens."""
        ...

    def feature_dim(self, encoder: nn.Module) -> int:
        """Width D of the tokens of the last layer."""
        ...

    def patch_size(self, encoder: nn.Module) -> int:
        """Distance of neighbouring tokens of the last grid in pixels."""
        ...

    def num_layers(self, encoder: nn.Module) -> int:
        """Number of blocks, counted as `boost` counts its layers."""
        ...

    def hierarchical(self, encoder: nn.Module) -> bool:
        """Whether the layers have different grids; then only the last layer can be read."""
        ...

    def native_size(self, encoder: nn.Module) -> tuple[int, int]:
        """Height and width in pixels that the encoder was built for."""
        ...

    def read(self, encoder: nn.Module, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        """Tokens after each of these blocks (indices from 0), in the order of `layers`.

        For a hierarchical encoder, `layers` contains only the last layer.
        """
        ...

    def preprocessing(self, encoder: nn.Module) -> Preprocessing | None:
        """The preprocessing that is stored with the model, or None."""
        ...

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        """The usual preprocessing for this kind of model; used if `preprocessing` returns None."""
        ...


def patch_grid(pixel_values: Tensor, patch: int, native: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of patches of images; an error if the size is not a multiple of the patch size.

    At the size `native` that it was built for, an encoder may ignore the last pixels at the right and at the bottom
    (SigLIP's 384 pixels are 27 patches of 14).
    """
    height, width = pixel_values.shape[2:]
    if (height % patch or width % patch) and (height, width) != native:
        raise SpatialBoostError(
            f"images of {height}x{width} pixels do not divide into patches of {patch}. Give a height and "
            f"a width that are multiples of {patch}"
        )
    return height // patch, width // patch


def split_tokens(tokens_BTD: Tensor, grid: tuple[int, int], before: int, after: int, *, cls: bool, name: str) -> Tokens:
    """Separate the patch tokens of a sequence from the other tokens before and after them."""
    total, patches = tokens_BTD.shape[1], grid[0] * grid[1]
    if total != before + patches + after:
        others = f"{before} tokens before and {after} after the patches"
        raise SpatialBoostError(
            f"{name} gave {total} tokens; expected {patches} for a grid of {grid[0]}x{grid[1]} patches and {others}, "
            "so its tokens cannot be placed on a grid"
        )
    return Tokens(tokens_BTD[:, before : before + patches], grid, tokens_BTD[:, 0] if cls else None)


def tokens_of_map(map_BDHW: Tensor) -> Tokens:
    """Tokens of a feature map ``(B, D, rows, columns)``."""
    rows, columns = map_BDHW.shape[2:]
    return Tokens(map_BDHW.flatten(2).transpose(1, 2), (rows, columns), None)


def pair(size: Any, default: int = 224) -> tuple[int, int]:
    """Height and width, from one number for both, from a pair, or from the default if `size` is None."""
    if size is None:
        return default, default
    return (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
