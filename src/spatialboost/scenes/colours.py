"""Names of colours: one palette, used to paint procedural things and to describe real ones."""

from __future__ import annotations

import numpy as np

# sRGB in [0, 1]. Anchors are far enough apart that a name survives shading.
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


def paint(name: str, rng: np.random.Generator, spread: float = 0.035) -> tuple[float, float, float]:
    """A shade of the named colour: the palette's entry with a little jitter, sRGB in [0, 1]."""
    shade = np.clip(np.array(PALETTE[name]) + rng.normal(0.0, spread, 3), 0.02, 0.98)
    return float(shade[0]), float(shade[1]), float(shade[2])


def name_colours(rgb: np.ndarray) -> np.ndarray:
    """What one would call colours, from their lightness, chroma and hue in CIELAB.

    Example:
        >>> import numpy as np
        >>> from spatialboost.scenes.colours import name_colours
        >>> name_colours(np.array([[0.7, 0.1, 0.1], [0.8, 0.72, 0.58]])).tolist()
        ['red', 'beige']

    Args:
        rgb: ``(..., 3)``, sRGB in [0, 1].

    Returns:
        ``(...)`` names of the palette, or "beige", which furniture often is and procedural things never are.
    """
    from skimage.color import rgb2lab

    lightness, a, b = np.moveaxis(rgb2lab(np.asarray(rgb, dtype=np.float64)), -1, 0)
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    # A dark colour needs less chroma to be seen as one, but below some lightness everything is black.
    neutral = (lightness < 14) | (chroma < 6 + 0.08 * lightness)
    dull = chroma < 0.85 * lightness
    reddish, warm = (hue < 40) | (hue >= 345), hue < 105
    return np.select(
        [
            neutral & (lightness < 27),
            neutral & (lightness < 76),
            neutral,
            reddish & dull & (lightness > 40) & ((lightness > 62) | (hue < 25) | (hue >= 345)),
            reddish & dull & (hue > 28) & (hue < 40),
            reddish,
            warm & (lightness > 45) & (chroma < 36) & (chroma < 0.6 * lightness),
            warm & (hue < 78) & ((lightness < 52) | (chroma < 36)),
            warm & (hue < 78),
            warm & (lightness > 45),
            warm & (hue < 92),
            hue < 180,
            (hue < 245) & (lightness > 20),
            hue < 305,
            lightness > 58,
        ],
        [
            "black",
            "grey",
            "white",
            "pink",
            "brown",
            "red",
            "beige",
            "brown",
            "orange",
            "yellow",
            "brown",
            "green",
            "cyan",
            "blue",
            "pink",
        ],
        "purple",
    )


def main_colour(rgb: np.ndarray) -> str:
    """The name that most of the pixels ``(N, 3)`` have; of equally frequent ones the first in the alphabet."""
    names, counts = np.unique(name_colours(rgb), return_counts=True)
    return str(names[counts.argmax()])
