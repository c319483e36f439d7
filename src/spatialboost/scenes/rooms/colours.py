"""The palette: the named colours of procedural rooms."""

from __future__ import annotations

import numpy as np

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
