"""How numbers, places and lists are written in questions and answers, whatever their kind."""

from __future__ import annotations

from collections.abc import Sequence


def say_length(metres: float) -> str:
    """A depth or a distance in words: metres to the third decimal, below half a metre in centimetres.

    Example:
        >>> say_length(2.34149), say_length(0.3214)
        ('2.341 meters', '32.1 centimeters')

    Source: the paper's appendix (rounding to the third decimal, under 0.5 m in centimetres).
    """
    millimetres = round(metres * 1000)
    if millimetres < 500:
        return f"{millimetres // 10}.{millimetres % 10} centimeters"
    return f"{millimetres // 1000}.{millimetres % 1000:03d} meters"


def say_point(hundredths: Sequence[int]) -> str:
    """A point given in hundredths of the image's width and height.

    Example:
        >>> say_point((49, 60))
        '(0.49, 0.60)'
    """
    return f"({hundredths[0] / 100:.2f}, {hundredths[1] / 100:.2f})"


def say_cube(cube: Sequence[float]) -> str:
    """A cube ``[xmin, ymin, zmin, xmax, ymax, zmax]`` to two decimals.

    Example:
        >>> say_cube([0.471, 0.25, 0.59, 0.55, 0.38, 1.0])
        '[0.47, 0.25, 0.59, 0.55, 0.38, 1.00]'
    """
    return f"[{', '.join(f'{side:.2f}' for side in cube)}]"


def say_located(a: str, cube_a: Sequence[float], b: str, cube_b: Sequence[float]) -> str:
    """The rationale that every answer about two objects begins with: where both are."""
    return f"The {a} is located {say_cube(cube_a)} in the image. The {b} is located {say_cube(cube_b)} in the image."


def say_list(descriptions: Sequence[str]) -> str:
    """An English enumeration with articles.

    Example:
        >>> say_list(["red box", "orange ball", "lamp"])
        'a red box, an orange ball and a lamp'
    """
    named = [f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" for name in descriptions]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
