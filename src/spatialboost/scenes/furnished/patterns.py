"""Textures of walls, floors and grounds: images made of noise, so that nothing is of one plain colour."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from spatialboost.scenes.furnished.place import RGB, Surface
from spatialboost.scenes.furnished.textures import Texture, make_texture

_SIDE = 256
_VARIANTS = 3

# name -> (side of one repetition in metres, how the image is made)
FLOORS = ("wood", "parquet", "tiles", "carpet", "concrete", "marble")
WALLS = ("plaster", "wallpaper", "paint", "brick", "panelling")
GROUNDS = ("grass", "gravel", "paving", "asphalt", "sand")
_PERIOD = {
    "wood": 2.4,
    "parquet": 1.6,
    "tiles": 2.0,
    "carpet": 1.5,
    "concrete": 3.0,
    "marble": 2.4,
    "plaster": 2.5,
    "wallpaper": 1.1,
    "paint": 3.0,
    "brick": 2.0,
    "panelling": 1.6,
    "grass": 2.2,
    "gravel": 1.6,
    "paving": 2.4,
    "asphalt": 2.5,
    "sand": 3.0,
}
# sRGB colours that a surface may have
_COLOURS: dict[str, tuple[RGB, ...]] = {
    "wood": ((0.62, 0.44, 0.28), (0.74, 0.58, 0.40), (0.42, 0.27, 0.17), (0.80, 0.70, 0.56)),
    "parquet": ((0.66, 0.46, 0.28), (0.55, 0.36, 0.22), (0.78, 0.62, 0.43)),
    "tiles": ((0.86, 0.85, 0.82), (0.72, 0.66, 0.58), (0.55, 0.56, 0.58), (0.70, 0.50, 0.40)),
    "carpet": ((0.55, 0.52, 0.50), (0.42, 0.36, 0.33), (0.35, 0.40, 0.50), (0.66, 0.60, 0.50), (0.50, 0.30, 0.30)),
    "concrete": ((0.62, 0.61, 0.59), (0.50, 0.50, 0.50)),
    "marble": ((0.90, 0.89, 0.87), (0.80, 0.78, 0.74), (0.45, 0.46, 0.48)),
    "plaster": ((0.93, 0.91, 0.87), (0.88, 0.86, 0.80), (0.82, 0.84, 0.85), (0.90, 0.82, 0.70)),
    "wallpaper": ((0.86, 0.82, 0.74), (0.72, 0.78, 0.76), (0.82, 0.74, 0.74), (0.62, 0.70, 0.80), (0.76, 0.80, 0.66)),
    "paint": (
        (0.94, 0.93, 0.90),
        (0.86, 0.88, 0.90),
        (0.80, 0.86, 0.80),
        (0.90, 0.84, 0.72),
        (0.62, 0.68, 0.74),
        (0.84, 0.72, 0.64),
    ),
    "brick": ((0.64, 0.36, 0.28), (0.80, 0.76, 0.72), (0.56, 0.42, 0.36)),
    "panelling": ((0.80, 0.68, 0.52), (0.90, 0.89, 0.86), (0.52, 0.38, 0.26)),
    "grass": ((0.36, 0.50, 0.22), (0.44, 0.52, 0.26), (0.30, 0.44, 0.20)),
    "gravel": ((0.62, 0.59, 0.54), (0.52, 0.50, 0.48)),
    "paving": ((0.66, 0.63, 0.60), (0.68, 0.56, 0.48), (0.52, 0.52, 0.54)),
    "asphalt": ((0.34, 0.34, 0.35), (0.42, 0.41, 0.40)),
    "sand": ((0.80, 0.70, 0.52), (0.74, 0.62, 0.46)),
}


def sample_surface(rng: np.random.Generator, names: tuple[str, ...], lightest: float = 1.0) -> Surface:
    """Sample a surface: one of some patterns, one of its colours with a little noise.

    Args:
        rng: the only source of randomness.
        names: of the patterns.
        lightest: limit of the colour, sRGB.
    """
    name = names[int(rng.integers(len(names)))]
    colours = _COLOURS[name]
    colour = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.9, 1.06) * (1 + rng.normal(0, 0.02, 3))
    red, green, blue = np.square(np.clip(colour, 0.05, lightest * 0.97)).tolist()
    variant = int(rng.integers(_VARIANTS))
    return Surface(_pattern(name, variant), (red, green, blue), _PERIOD[name] * float(rng.uniform(0.85, 1.2)), name)


@functools.cache
def _pattern(name: str, variant: int) -> Texture:
    """The image of a pattern: around white, because a colour multiplies it."""
    rng = np.random.default_rng([variant, len(name), *name.encode()])
    shade_HW = _MAKERS[name](rng)
    shade_HW = np.clip(shade_HW / np.percentile(shade_HW, 90), 0.0, 1.0)
    hue_3HW = np.stack([shade_HW * (1 + 0.02 * _noise(rng, (2, 4))) for _ in range(3)])
    return make_texture(Image.fromarray((np.clip(hue_3HW, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)))


def _noise(rng: np.random.Generator, cells: tuple[int, int], octaves: int = 1, gain: float = 0.5) -> np.ndarray:
    """Noise that continues across the border of the image: a coarse grid of random numbers, in finer and finer steps.

    Args:
        rng: the only source of randomness.
        cells: number of cells of the coarsest grid, down and across.
        octaves: how many times the cells are halved.
        gain: weight of each step compared with the one before.
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


_MAKERS = {
    "wood": lambda rng: _boards(rng, int(rng.choice([8, 16])), 2),
    "parquet": lambda rng: _boards(rng, 16, 4),
    "tiles": lambda rng: _tiles(rng),
    "carpet": lambda rng: _speckle(rng, 0.05, 0.03, 8),
    "concrete": lambda rng: _speckle(rng, 0.015, 0.04, 4),
    "marble": _marble,
    "plaster": lambda rng: _speckle(rng, 0.012, 0.018, 16),
    "wallpaper": _wallpaper,
    "paint": lambda rng: _speckle(rng, 0.008, 0.012, 3),
    "brick": lambda rng: _grid(rng, 32, 8, offset=True, joint=0.8, spread=0.3),
    "panelling": lambda rng: _boards(rng, 16, 1).T,
    "grass": lambda rng: _speckle(rng, 0.10, 0.10, 16),
    "gravel": lambda rng: _speckle(rng, 0.09, 0.09, 64),
    "paving": lambda rng: _grid(rng, 8, int(rng.choice([4, 8])), offset=True, joint=0.6, spread=0.2),
    "asphalt": lambda rng: _speckle(rng, 0.06, 0.02, 4),
    "sand": lambda rng: _speckle(rng, 0.03, 0.05, 6),
}
