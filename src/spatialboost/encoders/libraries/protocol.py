"""What a library has to answer so that its encoders can be opened and read."""

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
    """What an encoder says about a batch of images.

    Attributes:
        patches: Patch tokens ``(B, N, D)``, row by row from the top left.
        grid: Rows and columns of patches; their product is N.
        cls: The class token ``(B, D)``, or None where the encoder has none.
    """

    patches: Tensor
    grid: tuple[int, int]
    cls: Tensor | None


class Library(Protocol):
    """One library of encoders. Methods get encoders for which `reads` is true, boosted or not."""

    def open(self, config: EncoderConfig, dtype: Any) -> nn.Module:
        """Build the encoder that a configuration names, its image tower alone, on the CPU.

        New weights are drawn from torch's generator, which the caller has seeded. Whether `config.weights` is to be
        loaded afterwards is the caller's matter.
        """
        ...

    def loads_weights(self, config: EncoderConfig) -> bool | None:
        """Whether `open` loads pretrained weights for this configuration; None where only the model's code knows."""
        ...

    def reads(self, encoder: nn.Module) -> bool:
        """Whether the encoder is one of this library's with patch tokens."""
        ...

    def feature_dim(self, encoder: nn.Module) -> int:
        """Width D of the tokens of the last layer."""
        ...

    def patch_size(self, encoder: nn.Module) -> int:
        """Pixels between one token of the last grid and the next."""
        ...

    def num_layers(self, encoder: nn.Module) -> int:
        """Number of blocks, counted as `boost` counts its layers."""
        ...

    def hierarchical(self, encoder: nn.Module) -> bool:
        """Whether the layers have grids of their own; then only the last can be read."""
        ...

    def native_size(self, encoder: nn.Module) -> tuple[int, int]:
        """Height and width in pixels that the encoder was built for."""
        ...

    def read(self, encoder: nn.Module, pixel_values: Tensor, layers: Sequence[int]) -> list[Tokens]:
        """Tokens after each of these blocks (indices from 0), in the order that is asked for.

        Of a hierarchical encoder, only the last is asked for.
        """
        ...

    def preprocessing(self, encoder: nn.Module) -> Preprocessing | None:
        """What the checkpoint says of its images; None where the model carries no such word."""
        ...

    def usual_preprocessing(self, encoder: nn.Module) -> Preprocessing:
        """What is usual for models of this kind, for where `preprocessing` gives None."""
        ...


def divided(pixel_values: Tensor, patch: int, native: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of patches of images; refused where they do not divide.

    At the size that it was built for, an encoder may leave out a rest at the right and at the bottom (SigLIP's 384
    pixels are 27 patches of 14).
    """
    height, width = pixel_values.shape[2:]
    if (height % patch or width % patch) and (height, width) != native:
        raise SpatialBoostError(f"images of {height}x{width} pixels do not divide into patches of {patch}")
    return height // patch, width // patch


def split(tokens_BTD: Tensor, grid: tuple[int, int], before: int, after: int, *, cls: bool, name: str) -> Tokens:
    """Take the patches out of a row of tokens with others before and after them."""
    total, patches = tokens_BTD.shape[1], grid[0] * grid[1]
    if total != before + patches + after:
        others = f"{before} tokens before and {after} after the patches"
        raise SpatialBoostError(
            f"{name} gave {total} tokens; expected {patches} for a grid of {grid[0]}x{grid[1]} patches and {others}, "
            "so its tokens cannot be placed on a grid"
        )
    return Tokens(tokens_BTD[:, before : before + patches], grid, tokens_BTD[:, 0] if cls else None)


def of_map(map_BDHW: Tensor) -> Tokens:
    """Tokens of a feature map ``(B, D, rows, columns)``."""
    rows, columns = map_BDHW.shape[2:]
    return Tokens(map_BDHW.flatten(2).transpose(1, 2), (rows, columns), None)


def pair(size: Any, default: int = 224) -> tuple[int, int]:
    """Height and width of a number or a pair."""
    if size is None:
        return default, default
    return (size, size) if isinstance(size, int) else (int(size[-2]), int(size[-1]))
