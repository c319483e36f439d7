"""Sample materials of surfaces from a palette of named colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spatialboost.scenes.rooms.colours import sample_shade
from spatialboost.scenes.rooms.room import Material, scale


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
