"""The format of numbers, places and lists in questions and answers of all kinds."""

from __future__ import annotations

from collections.abc import Sequence

# Words that say which of several things is meant
_ORDER_WORDS = {"leftmost", "rightmost", "middle", "second", "third", "fourth", "fifth", "sixth"}


def format_length(metres: float) -> str:
    """Format a depth or a distance: metres with three decimals; below half a metre, centimetres with one decimal.

    Example:
        >>> format_length(2.34149), format_length(0.3214)
        ('2.341 meters', '32.1 centimeters')

    Source: the paper's appendix (rounding to the third decimal, under 0.5 m in centimetres).
    """
    millimetres = round(metres * 1000)
    if millimetres < 500:
        return f"{millimetres // 10}.{millimetres % 10} centimeters"
    return f"{millimetres // 1000}.{millimetres % 1000:03d} meters"


def format_angles(degrees: Sequence[float]) -> str:
    """Format the fields of view of one image, or of several images in their order.

    Example:
        >>> format_angles([61.2]), format_angles([61.2, 70.0])
        ('61.2 degrees', '61.2 degrees in image 1 and 70.0 degrees in image 2')
    """
    if len(degrees) == 1:
        return f"{degrees[0]:.1f} degrees"
    return join_parts([f"{angle:.1f} degrees in image {i + 1}" for i, angle in enumerate(degrees)])


def format_point(hundredths: Sequence[int]) -> str:
    """Format a point that is given in hundredths of the image's width and height.

    Example:
        >>> format_point((49, 60))
        '(0.49, 0.60)'
    """
    return f"({hundredths[0] / 100:.2f}, {hundredths[1] / 100:.2f})"


def format_cube(cube: Sequence[float]) -> str:
    """Format a cube ``[xmin, ymin, zmin, xmax, ymax, zmax]`` with two decimals.

    Example:
        >>> format_cube([0.471, 0.25, 0.59, 0.55, 0.38, 1.0])
        '[0.47, 0.25, 0.59, 0.55, 0.38, 1.00]'
    """
    return f"[{', '.join(f'{side:.2f}' for side in cube)}]"


def format_locations(a: str, cube_a: Sequence[float], b: str, cube_b: Sequence[float]) -> str:
    """Format the locations of two objects. Every answer about two objects begins with this text."""
    return (
        f"The {a} is located {format_cube(cube_a)} in the image. The {b} is located {format_cube(cube_b)} in the image."
    )


def format_list(descriptions: Sequence[str]) -> str:
    """Format an English list with articles.

    Example:
        >>> format_list(["red box", "orange ball", "lamp"])
        'a red box, an orange ball and a lamp'
        >>> format_list(["leftmost chair", "second chair from the left"])
        'the leftmost chair and the second chair from the left'
    """
    return join_parts([f"{_article(name)} {name}" for name in descriptions])


def join_parts(parts: Sequence[str]) -> str:
    """A list in words: "one", "one and two", "one, two and three"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _article(name: str) -> str:
    first = name.partition(" ")[0].lower()
    if first in _ORDER_WORDS:
        return "the"
    return "an" if first[:1] in "aeiou" else "a"
