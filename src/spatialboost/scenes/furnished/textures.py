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
    """An image and its halves, quarters, ... as one list of texels."""

    texels_T4: np.ndarray  # uint8 RGBA, row by row from the bottom row (v = 0), the largest image first
    log_size: tuple[int, int]  # base-2 logarithms of height and width
    cutout: bool = False  # whether some texels are transparent


PLAIN = Texture(np.full((1, 4), 255, np.uint8), (0, 0))


def make_texture(image: Image.Image) -> Texture:
    """Make a texture of an image: sides are powers of two, at most 256.

    Example:
        >>> make_texture(Image.new("RGB", (100, 40), "red")).log_size
        (5, 7)
    """
    # Transparency in a palette or a single colour becomes a channel.
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    image = image.convert("RGBA")
    width, height = (1 << int(np.clip(np.round(np.log2(side)), 0, np.log2(_MAX_SIDE))) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BOX if min(image.size) > 2 * _MAX_SIDE else 1)
    level: np.ndarray = np.asarray(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)).astype(np.float32)
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
    """The textures of a scene in one table, so that all pixels are looked up at once."""

    def __init__(self, textures: Sequence[Texture]) -> None:
        unique = list({id(texture): texture for texture in textures}.values())
        place = {id(texture): number for number, texture in enumerate(unique)}
        self.number_M = np.array([place[id(texture)] for texture in textures], np.int32)
        self.texels_T4 = np.concatenate([texture.texels_T4 for texture in unique])
        starts = np.cumsum([0, *(len(texture.texels_T4) for texture in unique)])[:-1]
        sides = np.array([texture.log_size for texture in unique], np.int64)
        self.levels_M = (sides.max(1) + 1).astype(np.int32)
        top = int(self.levels_M.max())
        # For each texture and level: where it starts, its height and its width
        self.start_ML = np.zeros((len(unique), top), np.int32)
        self.rows_ML = np.zeros((len(unique), top), np.int64)
        self.columns_ML = np.zeros((len(unique), top), np.int64)
        at = starts.astype(np.int64)
        for level in range(top):
            rows, columns = np.maximum(sides[:, 0] - level, 0), np.maximum(sides[:, 1] - level, 0)
            self.start_ML[:, level], self.rows_ML[:, level], self.columns_ML[:, level] = at, 1 << rows, 1 << columns
            at = np.where(level + 1 < self.levels_M, at + (1 << (rows + columns)), at)

    def look_up(self, material_N: np.ndarray, u_N: np.ndarray, v_N: np.ndarray, width_N: np.ndarray) -> np.ndarray:
        """Colours at texture coordinates: uint8 RGBA ``(N, 4)``.

        Args:
            material_N: number of the material.
            u_N: texture coordinates along the image's width; images repeat.
            v_N: texture coordinates upwards.
            width_N: how much of a texture, as a fraction of its longer side, is as wide as a pixel.
        """
        number_N = self.number_M.take(material_N)
        levels_N = self.levels_M.take(number_N)
        level_N = np.log2(np.maximum(width_N, 2.0**-20)) + (levels_N - np.float32(0.75))
        level_N = np.minimum(np.maximum(level_N, 0.0).astype(np.int32), levels_N - 1)
        entry_N = number_N * self.start_ML.shape[1] + level_N
        wide_N, high_N = self.columns_ML.take(entry_N), self.rows_ML.take(entry_N)
        column_N = ((u_N - np.floor(u_N)) * wide_N).astype(np.int32)
        row_N = ((v_N - np.floor(v_N)) * high_N).astype(np.int32)
        np.minimum(column_N, wide_N - 1, out=column_N)
        np.minimum(row_N, high_N - 1, out=row_N)
        return self.texels_T4.take(self.start_ML.take(entry_N) + row_N * wide_N + column_N, 0)
