"""Materials of surfaces: named colours of a palette in solid textures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.rooms.room import Material, scale

# sRGB in [0, 1]. The colours are far apart, so that a shaded colour can still be named.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.93, 0.83, 0.13),
    "green": (0.15, 0.58, 0.18),
    "cyan": (0.15, 0.72, 0.76),
    "blue": (0.12, 0.24, 0.78),
    "purple": (0.48, 0.16, 0.66),
    "pink": (0.95, 0.52, 0.70),
    "brown": (0.45, 0.27, 0.13),
    "white": (0.93, 0.93, 0.91),
    "grey": (0.52, 0.52, 0.53),
    "black": (0.09, 0.09, 0.10),
}


def sample_shade(name: str, rng: np.random.Generator, spread: float = 0.035) -> tuple[float, float, float]:
    """A random shade of the named colour: the palette's entry plus a little noise, sRGB in [0, 1]."""
    shade = np.clip(np.array(PALETTE[name]) + rng.normal(0.0, spread, 3), 0.02, 0.98)
    return float(shade[0]), float(shade[1]), float(shade[2])


def pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    """Draw one of the options, all with the same probability."""
    return options[int(rng.integers(len(options)))]


def sample_material(
    rng: np.random.Generator, colour: str, textures: dict[str, float], coarse: float, pale: float = 0.0
) -> Material:
    """Sample a material: two shades of a named colour in a random texture.

    Args:
        rng: the only source of randomness.
        colour: name in the palette.
        textures: name of each texture, and its weight in the draw.
        coarse: typical size of the pattern, metres.
        pale: probability that the colour is mixed with white, as on walls.
    """
    texture = str(rng.choice(list(textures), p=np.array(list(textures.values())) / sum(textures.values())))
    first = sample_shade(colour, rng)
    if rng.random() < pale:
        first = tuple(np.clip(0.75 * np.array(first) + 0.25, 0, 1).tolist())
    # The second shade has a similar hue, so that the same colour name is right.
    shade = np.array(first)
    dark = shade * rng.uniform(0.45, 0.65) if colour != "black" else shade + rng.uniform(0.12, 0.2)
    light = shade + (1.0 - shade) * rng.uniform(0.4, 0.6) if colour not in ("white", "brown") else dark
    second = light if texture in ("striped", "checkered", "speckled") and rng.random() < 0.5 else dark
    period = coarse * rng.uniform(0.6, 1.5)
    axis = {0: (1.0, 0.0, 0.0), 1: (0.0, 1.0, 0.0), 2: (0.7, 0.7, 0.0), 3: (0.0, 0.0, 1.0)}[int(rng.integers(4))]
    if coarse < 0.3 and axis[2]:  # stripes across the depth would be invisible from the front of a panel
        axis = (0.0, 1.0, 0.0)
    frequency = np.full(3, 1.0 / period)
    if texture == "speckled":
        frequency *= 3.0
    if texture == "wooden":  # wood grain is stretched along one direction
        frequency = np.array([0.35, 1.2, 1.2]) / period
        frequency = frequency if rng.random() < 0.5 else frequency[::-1]
    phase = rng.uniform(0.0, 40.0, 3)
    return Material(
        colour=colour,
        texture=texture,
        first=first,
        second=tuple(second.tolist()),
        axis=scale(axis, 1.0 / period),
        frequency=tuple(frequency.tolist()),
        phase=tuple(phase.tolist()),
        gloss=float(rng.choice([0.0, 0.0, 0.25, 0.5])) if coarse < 0.3 else 0.0,
    )
