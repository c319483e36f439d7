"""The wording of questions and answers: few phrasings, for small language models have to learn them."""

from __future__ import annotations

from collections.abc import Sequence

# Questions by kind of turn. The first one of each kind is the paper's own wording where one is known (Fig. 1 and 2);
# the paper's other templates (its Tables 10-14) are not public.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "depth": (
        "What is the depth value at coordinate {point}?",
        "What is the depth at point {point}?",
    ),
    "closer": (
        "Which point is close to a viewer? Point 1 : {point1} Point 2 : {point2}",
        "Which point is closer to the viewer? Point 1 : {point1} Point 2 : {point2}",
    ),
    "left_right": ("Is the {a} on the {word} side of the {b}?", "Is the {a} to the {word} of the {b}?"),
    "above_below": ("Is the {a} located {word} the {b}?", "Is the {a} {word} the {b}?"),
    "front_behind": ("Is the {a} located {word} the {b}?", "Is the {a} {word} the {b}?"),
    "larger_smaller": ("Is the {a} {word} than the {b}?", "Does the {a} look {word} than the {b}?"),
    "distance": ("How far is the {a} from the {b}?", "What is the distance between the {a} and the {b}?"),
    "caption": ("Explain this scene.", "Describe this scene."),
    "caption_closest": ("Which of them is the closest to the viewer?", "Which of these objects is nearest?"),
    "caption_farthest": ("Which of them is the farthest from the viewer?", "Which of these objects is farthest away?"),
    "caption_count": ("How many objects does this description name?", "How many objects are named?"),
}

# The words of each relation: what holds when the first object comes first, and its opposite.
WORDS: dict[str, tuple[str, str]] = {
    "left_right": ("left", "right"),
    "above_below": ("above", "below"),
    "front_behind": ("in front of", "behind"),
    "larger_smaller": ("larger", "smaller"),
}

_COMPARISON = {
    "left_right": "the {a} is on the {word} side of the {b}",
    "above_below": "the {a} is {word} the {b}",
    "front_behind": "the {a} is {word} the {b}",
    "larger_smaller": "the {a} is {word} than the {b}",
}


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


def say_comparison(kind: str, a: str, b: str, word: str) -> str:
    """What comparing both cubes shows, such as ``the red box is on the left side of the blue ball``."""
    compared = "sizes" if kind == "larger_smaller" else "positions"
    return f"Comparing their 3D {compared}, {_COMPARISON[kind].format(a=a, b=b, word=word)}."


def say_list(descriptions: Sequence[str]) -> str:
    """An English enumeration with articles.

    Example:
        >>> say_list(["red box", "orange ball", "lamp"])
        'a red box, an orange ball and a lamp'
    """
    named = [f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" for name in descriptions]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
