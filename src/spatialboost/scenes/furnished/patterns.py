"""Textures of walls, floors and grounds: images made of noise, so that nothing is of one plain colour."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image

from spatialboost.scenes.furnished.place import Surface
from spatialboost.scenes.furnished.textures import Texture, make_texture

_SIDE = 256
_VARIANTS = 3

FLOORS = ("wood", "parquet", "tiles", "carpet", "concrete", "marble")
WALLS = ("plaster", "wallpaper", "paint", "brick", "panelling")
GROUNDS = ("grass", "gravel", "paving", "asphalt", "sand")


def sample_surface(rng: np.random.Generator, names: tuple[str, ...]) -> Surface:
    """Sample a surface: one of some patterns, one of its colours with a little noise."""
    name = names[int(rng.integers(len(names)))]
    period, text, _ = _PATTERNS[name]
    colours = [[int(percent) / 100 for percent in colour.split()] for colour in text.split(",")]
    colour = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.9, 1.06) * (1 + rng.normal(0, 0.02, 3))
    red, green, blue = np.square(np.clip(colour, 0.05, 0.97)).tolist()
    variant = int(rng.integers(_VARIANTS))
    return Surface(_pattern(name, variant), (red, green, blue), period * float(rng.uniform(0.85, 1.2)), name)


@functools.cache
def _pattern(name: str, variant: int) -> Texture:
    """The image of a pattern: around white, because a colour multiplies it."""
    rng = np.random.default_rng([variant, len(name), *name.encode()])
    shade_HW = _PATTERNS[name][2](rng)
    shade_HW = np.clip(shade_HW / np.percentile(shade_HW, 90), 0.0, 1.0)
    hue_3HW = np.stack([shade_HW * (1 + 0.02 * _noise(rng, (2, 4))) for _ in range(3)])
    return make_texture(Image.fromarray((np.clip(hue_3HW, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)))


def _noise(rng: np.random.Generator, cells: tuple[int, int], octaves: int = 1, gain: float = 0.5) -> np.ndarray:
    """Noise that continues across the border of the image: a coarse grid of random numbers, in finer and finer steps.

    The coarsest grid has so many cells down and across; ``gain`` is the weight of a step compared with the one before.
    """
    total = np.zeros((_SIDE, _SIDE))
    weight = 1.0
    for octave in range(octaves):
        rows, columns = (min(count << octave, _SIDE) for count in cells)
        grid = rng.standard_normal((rows, columns))
        total += weight * _stretch(_stretch(grid, 0), 1)
        weight *= gain
    return total


def _stretch(grid: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate along an axis to the side of the image; the end continues at the beginning."""
    count = grid.shape[axis]
    at = np.arange(_SIDE) * count / _SIDE
    low = at.astype(int)
    share = at - low
    share = share * share * (3 - 2 * share)
    shape = (-1, 1) if axis == 0 else (1, -1)
    share = share.reshape(shape)
    return np.take(grid, low, axis) * (1 - share) + np.take(grid, (low + 1) % count, axis) * share


def _boards(rng: np.random.Generator, rows: int, lengths: int) -> np.ndarray:
    """Boards side by side along x, each with its own shade and grain, and dark joints."""
    high = _SIDE // rows
    image = 0.86 + 0.025 * _noise(rng, (64, 4), 3) + 0.02 * _noise(rng, (8, 2), 2)
    for row in range(rows):
        shift = int(rng.integers(_SIDE))
        long = _SIDE // lengths
        band = np.roll(image[row * high : (row + 1) * high], shift, axis=1)
        for board in range(lengths):
            band[:, board * long : (board + 1) * long] *= rng.uniform(0.82, 1.08)
            band[:, board * long] *= 0.6
        band[0] *= 0.6
        image[row * high : (row + 1) * high] = band
    return image


def _grid(rng: np.random.Generator, rows: int, columns: int, offset: bool, joint: float, spread: float) -> np.ndarray:
    """Tiles or bricks with joints."""
    y, x = np.mgrid[:_SIDE, :_SIDE]
    high, wide = _SIDE // rows, _SIDE // columns
    row = y // high
    x = (x + (row % 2) * (wide // 2 if offset else 0)) % _SIDE
    shades = rng.uniform(1 - spread, 1.0, (rows, columns))
    image = shades[row, x // wide] * (0.95 + 0.03 * _noise(rng, (16, 16), 3))
    return np.where((y % high < 2) | (x % wide < 2), joint, image)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.choice([4, 8]))
    return _grid(rng, count, count, offset=False, joint=0.62, spread=0.06)


def _wallpaper(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE] * (2 * np.pi / _SIDE)
    down, across = rng.integers(2, 7), rng.integers(3, 9)
    kind = rng.integers(3)
    if kind == 0:
        pattern = np.sign(np.sin(across * x))
    elif kind == 1:
        pattern = np.clip(3 * np.sin(across * x) * np.sin(down * y), -1, 1)
    else:
        pattern = np.clip(4 * (np.sin(across * x + 1.2 * np.sin(down * y))), -1, 1)
    return 0.9 + rng.uniform(0.03, 0.09) * pattern + 0.012 * _noise(rng, (64, 64))


def _speckle(rng: np.random.Generator, fine: float, coarse: float, cells: int) -> np.ndarray:
    image = 0.85 + coarse * _noise(rng, (cells, cells), 3) + fine * _noise(rng, (_SIDE, _SIDE))
    return np.maximum(image, 0.2)


def _marble(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE] * (2 * np.pi / _SIDE)
    veins = np.abs(np.sin(2 * x + 3 * y + 1.6 * _noise(rng, (3, 3), 5)))
    return 0.75 + 0.25 * np.sqrt(veins)


# name -> side of one repetition in metres, sRGB colours that it may have in percent, how its image is made
_PATTERNS: dict[str, tuple[float, str, Callable[[np.random.Generator], np.ndarray]]] = {
    "wood": (2.4, "62 44 28, 74 58 40, 42 27 17, 80 70 56", lambda rng: _boards(rng, int(rng.choice([8, 16])), 2)),
    "parquet": (1.6, "66 46 28, 55 36 22, 78 62 43", lambda rng: _boards(rng, 16, 4)),
    "tiles": (2.0, "86 85 82, 72 66 58, 55 56 58, 70 50 40", _tiles),
    "carpet": (1.5, "55 52 50, 42 36 33, 35 40 50, 66 60 50, 50 30 30", lambda rng: _speckle(rng, 0.05, 0.03, 8)),
    "concrete": (3.0, "62 61 59, 50 50 50", lambda rng: _speckle(rng, 0.015, 0.04, 4)),
    "marble": (2.4, "90 89 87, 80 78 74, 45 46 48", _marble),
    "plaster": (2.5, "93 91 87, 88 86 80, 82 84 85, 90 82 70", lambda rng: _speckle(rng, 0.012, 0.018, 16)),
    "wallpaper": (1.1, "86 82 74, 72 78 76, 82 74 74, 62 70 80, 76 80 66", _wallpaper),
    "paint": (
        3.0,
        "94 93 90, 86 88 90, 80 86 80, 90 84 72, 62 68 74, 84 72 64",
        lambda rng: _speckle(rng, 0.008, 0.012, 3),
    ),
    "brick": (2.0, "64 36 28, 80 76 72, 56 42 36", lambda rng: _grid(rng, 32, 8, offset=True, joint=0.8, spread=0.3)),
    "panelling": (1.6, "80 68 52, 90 89 86, 52 38 26", lambda rng: _boards(rng, 16, 1).T),
    "grass": (2.2, "36 50 22, 44 52 26, 30 44 20", lambda rng: _speckle(rng, 0.10, 0.10, 16)),
    "gravel": (1.6, "62 59 54, 52 50 48", lambda rng: _speckle(rng, 0.09, 0.09, 64)),
    "paving": (
        2.4,
        "66 63 60, 68 56 48, 52 52 54",
        lambda rng: _grid(rng, 8, int(rng.choice([4, 8])), offset=True, joint=0.6, spread=0.2),
    ),
    "asphalt": (2.5, "34 34 35, 42 41 40", lambda rng: _speckle(rng, 0.06, 0.02, 4)),
    "sand": (3.0, "80 70 52, 74 62 46", lambda rng: _speckle(rng, 0.03, 0.05, 6)),
}
