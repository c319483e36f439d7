"""What language models are asked: all prompts, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1  # change it when a prompt changes: stored answers are then asked for again

_FORMS = """\
The A is to the left of the B.
The A is to the right of the B.
The A is above the B.
The A is below the B.
The A is in front of the B.
The A is behind the B.
The A is larger than the B.
The A is closer to the camera than the B.
The A is the closest object to the camera.
The A is 2.3 meters away from the camera.
The distance between the A and the B is 1.5 meters."""

_RULES = f"""\
Use plain English and short sentences, without lists, brackets, quotation marks or special characters.
Use the names of the objects exactly as they stand in the list.
Write about places, sizes, distances and numbers of things only in these forms:
{_FORMS}
Do not write "near", "next to", "between", "in the background", "large", "two" and the like.
Write only what is certainly true."""

SYSTEM = "You describe images for people who cannot see them. You are exact, and you never guess."

_CAPTION = f"""\
Describe {{what}} in two to four sentences.
{_RULES}
Reply with the description only."""

_PAIRS = f"""\
Write {{count}} questions about {{what}}, with their answers: {{count}} of each of these three styles.
common: an ordinary question whose answer can be seen.
adversarial: a question that contains a mistake. It asks about a thing that is not there, or takes something for \
granted that is not true. The answer corrects the mistake.
multi-choice: a question with four options, of which exactly one is right.
{_RULES}
Reply with JSON only, of this form:
{{{{"pairs": [
  {{{{"style": "common", "question": "What color is the A?", "answer": "The A is red."}}}},
  {{{{"style": "adversarial", "question": "Is the A behind the B?", "answer": "No, the A is in front of the B."}}}},
  {{{{"style": "multi-choice", "question": "Which object is the closest to the camera?", "options": ["the A", "the B", \
"the C", "the D"], "answer": "the B"}}}}
]}}}}"""

_AGAIN = "This is not the asked JSON. Reply with the JSON object only, and with nothing before or after it."


def ask_caption(facts: Sequence[Mapping[str, Any]], *, images: bool) -> str:
    """The request for a description of one view.

    Args:
        facts: the facts of the view, as in ``meta``.
        images: whether the model also gets the image.
    """
    return f"{_intro(facts, images=images)}\n\n{_CAPTION.format(what=_what(facts))}"


def ask_pairs(facts: Sequence[Mapping[str, Any]], *, count: int, images: bool) -> str:
    """The request for ``count`` question-answer pairs of each style about one or several views."""
    return f"{_intro(facts, images=images)}\n\n{_PAIRS.format(what=_what(facts), count=count)}"


def ask_again() -> str:
    """The request after a reply that was no JSON."""
    return _AGAIN


def _what(facts: Sequence[Mapping[str, Any]]) -> str:
    return "the image" if len(facts) == 1 else f"the {len(facts)} images together"


def _intro(facts: Sequence[Mapping[str, Any]], *, images: bool) -> str:
    """What is known of the views."""
    lines = []
    if len(facts) > 1:
        lines.append(f"There are {len(facts)} images of one place. Call them image 1, image 2 and so on.")
    if not images:
        lines.append("You cannot see it. Everything that is known is in the list of objects.")
    for number, view in enumerate(facts, 1):
        where = "the image" if len(facts) == 1 else f"image {number}"
        if not view["objects"]:
            lines.append(f"No object of {where} has been measured. Do not write about places, sizes and distances.")
            continue
        lines.append(
            f"The objects of {where} that have been measured. x grows to the right and y downwards, from 0 to 1 over "
            "the image. A cube is xmin, ymin, zmin, xmax, ymax, zmax in the space of the scene; z grows away from the "
            "camera."
        )
        lines += [_object(thing) for thing in view["objects"]]
    return "\n".join(lines)


def _object(thing: Mapping[str, Any]) -> str:
    x, y = thing["centre_xy"]
    cube = ", ".join(f"{side:.2f}" for side in thing["cube"])
    return (
        f"- {thing['description']}: center at x {x:.2f}, y {y:.2f}; {thing['depth_m']:.2f} meters away from the "
        f"camera; cube {cube}"
    )
