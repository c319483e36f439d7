"""Textures: images in several sizes, and the colours of many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

# Shape legend: H, W = size of an image, T = texels of all images, N = points, M = materials.

_MAX_SIDE = 256  # texels; larger images are reduced


@dataclass(frozen=True, eq=False)
class Texture:
    """An image and its halves, quarters, ... as one list of texels.

    Attributes:
        texels_T4: uint8 RGBA, row by row from the bottom row (v = 0), the largest image first.
        log_size: base-2 logarithms of height and width.
        cutout: whether some texels are transparent.
    """

    texels_T4: np.ndarray
    log_size: tuple[int, int]
    cutout: bool = False


PLAIN = Texture(np.full((1, 4), 255, np.uint8), (0, 0))


def make_texture(image: Image.Image) -> Texture:
    """Make a texture of an image: sides are powers of two, at most 256.

    Example:
        >>> make_texture(Image.new("RGB", (100, 40), "red")).log_size
        (5, 6)
    """
    # Transparency in a palette or a single colour becomes a channel.
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    image = image.convert("RGBA")
    width, height = (1 << int(np.clip(np.round(np.log2(side)), 0, np.log2(_MAX_SIDE))) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BOX if min(image.size) > 2 * _MAX_SIDE else 1)
    level = np.asarray(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)).astype(np.float32)
    cutout = bool(has_alpha and (level[..., 3] < 128).mean() > 0.01)
    levels = []
    while True:
        levels.append((level + 0.5).astype(np.uint8).reshape(-1, 4))
        if level.shape[:2] == (1, 1):
            break
        if level.shape[0] > 1:
            level = (level[0::2] + level[1::2]) / 2
        if level.shape[1] > 1:
            level = (level[:, 0::2] + level[:, 1::2]) / 2
    return Texture(np.concatenate(levels), (height.bit_length() - 1, width.bit_length() - 1), cutout)


class TextureTable:
    """The textures of a scene in one table, so that all pixels are looked up at once.

    Args:
        textures: one for each material.
    """

    def __init__(self, textures: Sequence[Texture]) -> None:
        unique = list({id(texture): texture for texture in textures}.values())
        place = {id(texture): number for number, texture in enumerate(unique)}
        self.number_M = np.array([place[id(texture)] for texture in textures], np.int32)
        self.texels_T4 = np.concatenate([texture.texels_T4 for texture in unique])
        starts = np.cumsum([0, *(len(texture.texels_T4) for texture in unique)])[:-1]
        sides = np.array([texture.log_size for texture in unique], np.int64)
        self.levels_M = sides.max(1) + 1
        top = int(self.levels_M.max())
        # For each texture and level: where it starts, and the logarithms of its height and width
        self.start_ML = np.zeros((len(unique), top), np.int64)
        self.rows_ML = np.zeros((len(unique), top), np.int64)
        self.columns_ML = np.zeros((len(unique), top), np.int64)
        at = starts.astype(np.int64)
        for level in range(top):
            rows, columns = np.maximum(sides[:, 0] - level, 0), np.maximum(sides[:, 1] - level, 0)
            self.start_ML[:, level], self.rows_ML[:, level], self.columns_ML[:, level] = at, rows, columns
            at = np.where(level + 1 < self.levels_M, at + (1 << (rows + columns)), at)

    def look_up(self, material_N: np.ndarray, uv_N2: np.ndarray, width_N: np.ndarray) -> np.ndarray:
        """Colours at texture coordinates: uint8 RGBA ``(N, 4)``.

        Args:
            material_N: number of the material.
            uv_N2: texture coordinates; images repeat.
            width_N: how much of a texture, as a fraction of its longer side, is as wide as a pixel.
        """
        number_N = self.number_M[material_N]
        longest_N = np.exp2(self.levels_M[number_N] - 1)
        level_N = np.log2(np.maximum(width_N * longest_N, 1.0)) + 0.25
        level_N = np.minimum(level_N.astype(np.int64), self.levels_M[number_N] - 1)
        log_h, log_w = self.rows_ML[number_N, level_N], self.columns_ML[number_N, level_N]
        fraction_N2 = uv_N2 - np.floor(uv_N2)
        column = np.minimum((fraction_N2[:, 0] * (1 << log_w)).astype(np.int64), (1 << log_w) - 1)
        row = np.minimum((fraction_N2[:, 1] * (1 << log_h)).astype(np.int64), (1 << log_h) - 1)
        return self.texels_T4[self.start_ML[number_N, level_N] + (row << log_w) + column]
