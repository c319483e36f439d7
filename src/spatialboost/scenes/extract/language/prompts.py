"""What language models are asked: all prompts, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, permutations
from typing import Any

from spatialboost.scenes.questions.checks.boxes import centre_of
from spatialboost.scenes.questions.checks.claims import Claim, Name

VERSION = 2  # change it when a prompt changes: stored answers are then asked for again

_RULES = """\
Use plain English and short sentences, without lists, brackets, quotation marks or special characters.
Call the objects exactly as they are called above.
Write about places, sizes, distances and numbers of things only as the sentences above do it.
Do not write words such as near, next to, between, large, small, background, two.
Write only what is certainly true."""

SYSTEM = "You describe images for people who cannot see them. You are exact, and you never guess."

_CAPTION = f"""\
{_RULES}

Describe {{what}} in two to four sentences. Reply with the description only."""

_PAIRS = f"""\
{_RULES}

Write questions about {{what}} with their answers, {{count}} of each of these three styles:
common: an ordinary question whose answer can be seen.
adversarial: a question that contains a mistake. It asks about a thing that is not there, or takes something for \
granted that is not true. The answer corrects the mistake.
multi-choice: a question with four options, of which exactly one is right.
Reply with JSON only, of this form, with your own questions:
{{{{"pairs": [
  {{{{"style": "common", "question": "What color is the ball?", "answer": "It is red."}}}},
  {{{{"style": "adversarial", "question": "Is the ball behind the box?", "answer": "No, the ball is in front of the \
box."}}}},
  {{{{"style": "multi-choice", "question": "Which object is the closest to the camera?", "options": ["the ball", \
"the box", "the lamp", "the chair"], "answer": "the box"}}}}
]}}}}"""

_RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "front": "in front of",
    "behind": "behind",
    "larger": "larger than",
}
_EXTREMES = {
    "closest": "the closest object to the camera",
    "farthest": "the farthest object from the camera",
    "largest": "the largest object",
}
MOST = 3  # true sentences of each kind

AGAIN = "This is not the asked JSON. Reply with the JSON object only, and with nothing before or after it."


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
        if true := list(_true_sentences(view)):
            lines += [f"These sentences about {where} are true:", *true]
    return "\n".join(lines)


def _true_sentences(view: Mapping[str, Any]) -> Iterator[str]:
    """Some sentences that the layout shows to be true, of every kind that can be checked."""
    names = [thing["description"] for thing in view["objects"]]
    for relation, words in _RELATIONS.items():
        pairs = ((a, b) for a, b in permutations(names, 2) if Claim(relation, (Name(a), Name(b))).truth([view]))
        yield from (f"The {a} is {words} the {b}." for a, b in islice(pairs, MOST))
    for relation, words in _EXTREMES.items():
        yield from (f"The {name} is {words}." for name in names if Claim(relation, (Name(name),)).truth([view]))
    for a, b in islice(zip(view["objects"], view["objects"][1:], strict=False), MOST):
        metres = math.dist(centre_of(a["extent_m"]), centre_of(b["extent_m"]))
        yield f"The distance between the {a['description']} and the {b['description']} is {metres:.1f} meters."


def _object(thing: Mapping[str, Any]) -> str:
    x, y = thing["centre_xy"]
    cube = ", ".join(f"{side:.2f}" for side in thing["cube"])
    return (
        f"- {thing['description']}: center at x {x:.2f}, y {y:.2f}; {thing['depth_m']:.2f} meters away from the "
        f"camera; cube {cube}"
    )
