"""Which of two objects of different views is closer to the first camera, and how far apart are they?"""

from __future__ import annotations

from typing import Any

import numpy as np

from spatialboost.scenes.questions.across import Seen, objects_in, other_views
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import SIGMAS
from spatialboost.scenes.questions.names import choose_names
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.scoring import LENGTH
from spatialboost.scenes.questions.turn import CannotAskError, Turn

_MARGIN = 0.1  # the farther object is farther by at least this fraction


class CloserAcross(Kind):
    """Which of two objects is closer to the camera of image 1; one is named in image 1 and one in another image."""

    name = "closer_across"
    title = "closer object across views"
    level = "object"
    wordings = (
        "Which is closer to the camera of image 1: the {a} in image 1 or the {b} in image {k}?",
        "Seen from where image 1 was taken, which is nearer, the {a} in image 1 or the {b} in image {k}?",
        "Is the {a} in image 1 or the {b} in image {k} closer to the place where image 1 was taken?",
        "From the camera of image 1, which is the shorter way: to the {a} in image 1 or to the {b} in image {k}?",
        "Compare the {a} in image 1 with the {b} in image {k}. Which one is closer to the camera of image 1?",
        "To the camera of image 1, which object is nearer: the {a} in image 1 or the {b} in image {k}?",
        "Measured from the camera of image 1, is the {a} in image 1 or the {b} in image {k} nearer?",
        "Which of the two is less far from the camera of image 1, the {a} in image 1 or the {b} in image {k}?",
    )
    objects = 1
    views = 2

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask where both answers are possible with some pair of objects; both are right equally often."""
        first_closer = bool(rng.random() < 0.5)
        for k in other_views(context, rng):
            pairs = [pair for pair in pairs_of_views(context, k, rng) if _is_clear(*pair) and _names(*pair)]
            fitting = [pair for pair in pairs if (_metres(pair[0]) < _metres(pair[1])) == first_closer]
            if fitting and len(fitting) < len(pairs):
                return self._turn(*fitting[0], first_closer, rng)
        raise CannotAskError("no other image has a closer and a farther object than those of image 1")

    def _turn(self, a: Seen, b: Seen, first_closer: bool, rng: np.random.Generator) -> Turn:
        names, k = _names(a, b), str(b.view + 1)
        facts: dict[str, Any] = {"images": [0, b.view], "objects": [a.number, b.number], "names": names}
        facts |= {"distances": [round(_metres(a), 6), round(_metres(b), 6)], "verdict": 0 if first_closer else b.view}
        facts["known_by"] = "source" if a.knows(b) else "overlap"
        question, facts["template"] = a.context.word(self.wordings, rng, a=names[0], b=names[1], k=k)
        winner = f"the {names[0]} in image 1" if first_closer else f"the {names[1]} in image {k}"
        first, second = (format_length(metres) for metres in facts["distances"])
        answer = f"The {names[0]} in image 1 is {first} away, and the {names[1]} in image {k} is {second} away."
        return Turn(question, f"{answer} Answer: {winner}.", facts)


def _metres(seen: Seen) -> float:
    """Distance of the centre from the first view's camera."""
    return float(np.linalg.norm(seen.centre_3))


def _names(a: Seen, b: Seen) -> list[str]:
    """Names with the same noun that do not tell which object is closer; empty if there are none."""
    found = choose_names("front_behind", a.fact.names, b.fact.names)
    return [] if found is None or found[2] > 1 else list(found[:2])


def _is_clear(a: Seen, b: Seen) -> bool:
    gap = abs(_metres(a) - _metres(b))
    return gap > _MARGIN * min(_metres(a), _metres(b)) + SIGMAS * float(np.hypot(a.noise_m, b.noise_m)) + 0.01


CLOSER_ACROSS = CloserAcross()


class DistanceAcross(Kind):
    """The distance between the centres of two objects of different views. The answer begins with both positions."""

    name = "distance_across"
    title = "distance across views"
    level = "scene"
    wordings = (
        "How far is the {a} in image 1 from the {b} in image {k}?",
        "What is the distance between the {a} in image 1 and the {b} in image {k}?",
        "How far apart are the {a} in image 1 and the {b} in image {k}?",
        "How many meters are there between the {a} in image 1 and the {b} in image {k}?",
        "Measure the distance from the {a} in image 1 to the {b} in image {k}.",
        "How long is the straight line from the {a} in image 1 to the {b} in image {k}?",
        "What separates the {a} in image 1 from the {b} in image {k}, in meters?",
        "Give the distance of the {a} in image 1 to the {b} in image {k}.",
    )
    objects = 1
    views = 2
    scoring = LENGTH

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask about two different objects that are clearly apart."""
        for k in other_views(context, rng):
            for a, b in pairs_of_views(context, k, rng):
                metres = float(np.linalg.norm(a.centre_3 - b.centre_3))
                if metres > SIGMAS * float(np.hypot(a.noise_m, b.noise_m)) + 0.05:
                    return self._turn(a, b, metres, rng)
        raise CannotAskError("no object of image 1 and no different object of another image are clearly apart")

    def _turn(self, a: Seen, b: Seen, metres: float, rng: np.random.Generator) -> Turn:
        names, k = [seen.plain_name or seen.fact.description for seen in (a, b)], str(b.view + 1)
        facts: dict[str, Any] = {"images": [0, b.view], "objects": [a.number, b.number], "names": names}
        facts["distance"], facts["known_by"] = round(metres, 6), "source" if a.knows(b) else "overlap"
        question, facts["template"] = a.context.word(self.wordings, rng, a=names[0], b=names[1], k=k)
        first, second = (_format_place(seen.centre_3) for seen in (a, b))
        answer = (
            f"In the frame of image 1 (right, down, forward, in meters), the {names[0]} in image 1 is at {first} and "
            f"the {names[1]} in image {k} is at {second}. Answer: {format_length(facts['distance'])}."
        )
        return Turn(question, answer, facts)


def pairs_of_views(context: Context, view: int, rng: np.random.Generator) -> list[tuple[Seen, Seen]]:
    """Pairs of an object of the first view and a different object of another view, in random order.

    Pairs whose second object the first view does not show come first: only these need both views.
    """
    firsts, others = objects_in(context, 0), objects_in(context, view)
    pairs = [(a, b) for a in firsts for b in others if a.same_as(b) is False]
    hidden = {b.number: b.is_hidden_in(0) for b in others}
    shuffled = [pairs[i] for i in rng.permutation(len(pairs))]
    return sorted(shuffled, key=lambda pair: not hidden[pair[1].number])


def _format_place(place_3: np.ndarray) -> str:
    return f"({', '.join(f'{part + 0.0:.2f}' for part in place_3.round(2))})"


DISTANCE_ACROSS = DistanceAcross()
