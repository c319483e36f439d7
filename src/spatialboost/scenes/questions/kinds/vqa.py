"""Common, adversarial and multi-choice questions, from a language model or from templates.

The three styles are those of the paper's set for visual instruction tuning (section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.questions.checks.generated import LETTERS, STYLES, check_form, check_pair
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import measure_distance
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.turn import CannotAskError, Turn, choose_wording
from spatialboost.scenes.questions.view import AskedView

# For each relation: the words if the first object is the left, upper, nearer or larger one, and their opposites
_RELATIONS = {
    "left_right": ("to the left of", "to the right of"),
    "above_below": ("above", "below"),
    "front_behind": ("in front of", "behind"),
    "larger_smaller": ("larger than", "smaller than"),
}
_WHICH = {  # the same, in "which is closer, A or B?"
    "above_below": ("higher up", "lower down"),
    "front_behind": ("closer to the camera", "farther from the camera"),
    "larger_smaller": ("larger", "smaller"),
}
_ACROSS, _DEEP = ("to the left", "to the right"), ("in front of it", "behind it")
# Words in a description that may tell the answer to a question about a relation
_TELLING = {
    "left_right": ("left", "right", "middle"),
    "above_below": ("top", "bottom", "floor", "wall", "ceiling", "on", "hanging", "standing"),
    "front_behind": ("front", "back", "foreground", "background", "wall"),
    "larger_smaller": ("large", "small", "tall", "flat", "big", "tiny"),
}
_RATIO = 1.6  # between the lengths that can be chosen
_CLEAR = 0.05  # metres: smallest difference between two of them


@dataclass(frozen=True)
class _Asked:
    """A question that can be asked: the form's name, its words, the answer and what it is about."""

    form: str
    words: dict[str, str]
    answer: str
    objects: list[Any]
    verdict: str


class Vqa(Kind):
    """Question-answer pairs of an extractor (``facts["vqa"]``) that are true; otherwise, one from a template."""

    name = "vqa"
    title = "visual question answering"
    level = "caption"
    objects = 2
    texts = "vqa"
    forms: ClassVar[dict[str, dict[str, tuple[str, ...]]]] = {
        "common": {
            "which": (
                "Which is {word}, the {a} or the {b}?",
                "Which object is {word}, the {a} or the {b}?",
                "Which one is {word}: the {a} or the {b}?",
            ),
            "where": (
                "Where is the {a} relative to the {b}?",
                "Where is the {a}, seen from the {b}?",
                "Where is the {a} located compared with the {b}?",
            ),
        },
        "adversarial": {
            "premise": (
                "The {a} is {word} the {b}. Is that right?",
                "The {a} is {word} the {b}, isn't it?",
                "Is it true that the {a} is {word} the {b}?",
                "The {a} is {word} the {b}. Is this correct?",
            ),
            "there": (
                "Is there a {thing} in the image?",
                "Is there a {thing}?",
                "Is there a {thing} visible in this picture?",
            ),
        },
        "multi-choice": {
            "extreme": (
                "Which of these is {word}? {options}",
                "Which object is {word}? {options}",
                "Which of these objects is {word}? Choose A, B, C or D. {options}",
            ),
            "corner": (
                "Where is the {a} relative to the {b}? {options}",
                "Where is the {a}, seen from the {b}? Choose one. {options}",
            ),
            "length": (
                "How far is the {a} from the {b}? {options}",
                "What is the distance between the {a} and the {b}? Choose one. {options}",
            ),
        },
    }
    wordings = tuple(chain.from_iterable(texts for forms in forms.values() for texts in forms.values()))

    def ask(self, context: Context, rng: np.random.Generator) -> Turn:
        """Ask a generated question that is true and not yet asked, or one from a template of a random style."""
        facts = [view.facts for view in context.views]
        generated = context.view.cues.facts.get(self.texts) or []
        for number in rng.permutation(len(generated)):
            pair = generated[number]
            if _is_new(pair["question"], context) and not list(check_pair(**pair, views=facts)):
                turn: dict[str, Any] = {"style": pair["style"], "generated": True, "template": 0}
                return Turn(pair["question"], pair["answer"], turn)
        for style in rng.permutation(STYLES).tolist():
            for form in rng.permutation(list(self.forms[style])).tolist():
                makers: dict[str, Callable[..., _Asked | None]] = self._makers()
                found = makers[form](context, rng)
                if found is None:
                    continue
                question, template = choose_wording(self.forms[style][form], rng, **found.words)
                template += self.wordings.index(self.forms[style][form][0])
                if _is_new(question, context):
                    about = {"style": style, "form": form, "objects": found.objects, "verdict": found.verdict}
                    return Turn(question, found.answer, {**about, "template": template})
        raise CannotAskError("no question of a template has a clear answer, and there is none of a language model")

    def _makers(self) -> dict[str, Callable[..., _Asked | None]]:
        return {
            "which": _ask_which,
            "where": _ask_where,
            "premise": _ask_premise,
            "there": _ask_there,
            "extreme": _ask_extreme,
            "corner": _ask_corner,
            "length": _ask_length,
        }


class SceneVqa(Vqa):
    """The same about all views of a scene, from ``facts["scene_vqa"]`` of its first view."""

    name = "scene_vqa"
    title = "question on several views"
    views = 2
    objects = 1
    texts = "scene_vqa"
    forms: ClassVar[dict[str, dict[str, tuple[str, ...]]]] = {
        "common": {
            "which": (
                "Which is {word} its camera, the {a} or the {b}?",
                "Which object is {word} its camera, the {a} or the {b}?",
            ),
        },
        "adversarial": {
            "premise": (
                "The {a} is {word} its camera than the {b}. Is that right?",
                "Is it true that the {a} is {word} its camera than the {b}?",
                "The {a} is {word} its camera than the {b}, isn't it?",
            ),
        },
        "multi-choice": {
            "extreme": (
                "Which of these is the {word} its camera? {options}",
                "Which of these objects is the {word} its camera? Choose A, B, C or D. {options}",
            ),
        },
    }
    wordings = tuple(chain.from_iterable(texts for forms in forms.values() for texts in forms.values()))

    def _makers(self) -> dict[str, Callable[..., _Asked | None]]:
        return {"which": _which_across, "premise": _premise_across, "extreme": _extreme_across}


def _is_new(question: str, context: Context) -> bool:
    return not any(asked.lower().endswith(question.lower()) for asked in context.asked)


def _usable(view: AskedView) -> list[int]:
    """Objects whose descriptions can stand in a text."""
    return [i for i, thing in enumerate(view.objects) if not list(check_form(thing.description))]


def _names(view: AskedView, i: int, j: int) -> dict[str, str]:
    return {"a": view.objects[i].description, "b": view.objects[j].description}


def _tells(view: AskedView, relation: str, *objects: int) -> bool:
    """Whether the descriptions may tell the answer."""
    words = " ".join(view.objects[i].description.lower() for i in objects).split()
    return any(word in words for word in _TELLING[relation])


def _clear_pairs(view: AskedView, relations: Sequence[str], rng: np.random.Generator) -> Iterator[tuple[str, int, int]]:
    """Pairs of usable objects with a relation that is clear and that their names do not tell, in random order."""
    usable = set(_usable(view))
    for i, j in view.pairs(rng):
        for relation in rng.permutation(relations).tolist() if {i, j} <= usable else []:
            if view.compare(relation, i, j) and not _tells(view, relation, i, j):
                yield relation, i, j


def _ask_which(context: Context, rng: np.random.Generator) -> _Asked | None:
    view = context.view
    for relation, i, j in _clear_pairs(view, list(_WHICH), rng):
        side = int(rng.integers(2))
        winner = i if (view.compare(relation, i, j) == 1) == (side == 0) else j
        answer = f"The {view.objects[winner].description}."
        return _Asked("which", {**_names(view, i, j), "word": _WHICH[relation][side]}, answer, [i, j], answer)
    return None


def _ask_where(context: Context, rng: np.random.Generator) -> _Asked | None:
    view = context.view
    for _, i, j in _clear_pairs(view, ["left_right"], rng):
        across = _ACROSS[0 if view.compare("left_right", i, j) == 1 else 1].capitalize()
        deep = view.compare("front_behind", i, j)
        answer = f"{across} and {_DEEP[0 if deep == 1 else 1]}." if deep else f"{across} of it."
        return _Asked("where", _names(view, i, j), answer, [i, j], answer)
    return None


def _ask_premise(context: Context, rng: np.random.Generator) -> _Asked | None:
    view = context.view
    for relation, i, j in _clear_pairs(view, list(_RELATIONS), rng):
        true, false = _RELATIONS[relation][:: view.compare(relation, i, j)]
        verdict = "Yes" if rng.random() < 0.5 else "No"
        names = _names(view, i, j)
        answer = f"{verdict}, the {names['a']} is {true} the {names['b']}. Answer: {verdict}."
        words = {**names, "word": true if verdict == "Yes" else false}
        return _Asked("premise", words, answer, [i, j], verdict)
    return None


def _ask_there(context: Context, rng: np.random.Generator) -> _Asked | None:
    """A thing of the view, or one of the same noun that the source knows to be absent (``facts["absent"]``)."""
    view = context.view
    absent = [str(name) for name in view.cues.facts.get("absent", [])]
    vocabulary = {word for name in absent for word in name.split()}
    for i in rng.permutation(_usable(view)).tolist() if absent else []:
        # Only words that absent things have, too: a text-only model must not know the present ones by their words.
        words = [word for word in view.objects[i].description.split() if word in vocabulary]
        others = [name for name in absent if name.split()[-1:] == words[-1:] and len(name.split()) == len(words)]
        if not others:
            continue
        verdict = "Yes" if rng.random() < 0.5 else "No"
        thing = " ".join(words) if verdict == "Yes" else others[int(rng.integers(len(others)))]
        answer = f"{verdict}, there is {'a' if verdict == 'Yes' else 'no'} {thing}. Answer: {verdict}."
        return _Asked("there", {"thing": thing}, answer, [i] if verdict == "Yes" else [], verdict)
    return None


def _ask_extreme(context: Context, rng: np.random.Generator) -> _Asked | None:
    view, usable = context.view, _usable(context.view)
    if len(usable) < len(LETTERS):
        return None
    closest = bool(rng.integers(2))
    winner = view.extreme(list(range(len(view.objects))), closest=closest)
    if winner is None or winner not in usable or _tells(view, "front_behind", *usable):
        return None
    others = [i for i in rng.permutation(usable).tolist() if i != winner][: len(LETTERS) - 1]
    words, answer, letter = _options(rng, [f"the {view.objects[i].description}" for i in (winner, *others)])
    word = "the closest to the camera" if closest else "the farthest from the camera"
    return _Asked("extreme", {"word": word, **words}, answer, [winner, *others], letter)


def _ask_corner(context: Context, rng: np.random.Generator) -> _Asked | None:
    view = context.view
    for _, i, j in _clear_pairs(view, ["left_right"], rng):
        across, deep = view.compare("left_right", i, j), view.compare("front_behind", i, j)
        if not deep or _tells(view, "front_behind", i, j):
            continue
        sides, depths = _ACROSS[::across], _DEEP[::deep]
        texts = [f"{side} and {depth}" for side in sides for depth in depths]
        words, answer, letter = _options(rng, texts)
        return _Asked("corner", {**_names(view, i, j), **words}, answer, [i, j], letter)
    return None


def _ask_length(context: Context, rng: np.random.Generator) -> _Asked | None:
    """The true length is the shortest, the longest or between the others with the same chance."""
    view, usable = context.view, _usable(context.view)
    for i, j in view.pairs(rng):
        metres = measure_distance(view.objects[i], view.objects[j], view.cues.depth_noise)
        if metres is None or i not in usable or j not in usable:
            continue
        rank = int(rng.integers(len(LETTERS)))
        lengths = [metres * _RATIO ** (step - rank) for step in range(len(LETTERS))]
        sigma = view.cues.depth_noise * float(np.hypot(view.objects[i].depth_m, view.objects[j].depth_m))
        if metres * (1 - 1 / _RATIO) < _CLEAR + 6 * sigma:  # the same limit for every rank
            continue
        texts = [format_length(length) for length in lengths]
        words, answer, letter = _options(rng, [texts[rank], *texts[:rank], *texts[rank + 1 :]])
        return _Asked("length", {**_names(view, i, j), **words}, answer, [i, j], letter)
    return None


def _options(rng: np.random.Generator, texts: Sequence[str]) -> tuple[dict[str, str], str, str]:
    """The text of four options in random order, the answer and its letter. The first of the given ones is right."""
    order = rng.permutation(len(texts)).tolist()
    shown = " ".join(f"{letter}. {texts[k]}" for letter, k in zip(LETTERS, order, strict=True))
    letter = LETTERS[order.index(0)]
    return {"options": shown}, f"{texts[0][:1].upper()}{texts[0][1:]}. Answer: {letter}.", letter


# --- several views. An object is [view, number]; depths are compared, each from its own camera.


def _candidates(context: Context, rng: np.random.Generator) -> list[tuple[int, int]]:
    found = [
        (k, i) for k, view in enumerate(context.views) for i in _usable(view) if not _tells(view, "front_behind", i)
    ]
    return [found[k] for k in rng.permutation(len(found))]


def _depth(context: Context, place: tuple[int, int]) -> tuple[float, float]:
    """Depth in metres, and its noise."""
    metres = context.views[place[0]].objects[place[1]].depth_m
    return metres, metres * context.views[place[0]].cues.depth_noise


def _is_closer(context: Context, a: tuple[int, int], b: tuple[int, int]) -> bool | None:
    """Whether ``a`` is closer to its camera than ``b``; None if it is not clear."""
    if a[0] == b[0]:
        return {1: True, -1: False, 0: None}[context.views[a[0]].compare("front_behind", a[1], b[1])]
    (first, noise_a), (second, noise_b) = _depth(context, a), _depth(context, b)
    if abs(first - second) <= 0.05 * min(first, second) + 2 * float(np.hypot(noise_a, noise_b)):
        return None
    return first < second


def _placed(context: Context, place: tuple[int, int]) -> str:
    return f"{context.views[place[0]].objects[place[1]].description} in image {place[0] + 1}"


def _pair_across(context: Context, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]] | None:
    for a, b in combinations(_candidates(context, rng), 2):
        if a[0] != b[0] and _is_closer(context, a, b) is not None:
            return a, b
    return None


def _which_across(context: Context, rng: np.random.Generator) -> _Asked | None:
    pair = _pair_across(context, rng)
    if pair is None:
        return None
    closer = bool(rng.integers(2))
    winner = pair[0] if _is_closer(context, *pair) == closer else pair[1]
    answer = f"The {_placed(context, winner)}."
    words = {"a": _placed(context, pair[0]), "b": _placed(context, pair[1])}
    word = "closer to" if closer else "farther from"
    return _Asked("which", {**words, "word": word}, answer, [list(place) for place in pair], answer)


def _premise_across(context: Context, rng: np.random.Generator) -> _Asked | None:
    pair = _pair_across(context, rng)
    if pair is None:
        return None
    true, false = ("closer to", "farther from")[:: 1 if _is_closer(context, *pair) else -1]
    verdict = "Yes" if rng.random() < 0.5 else "No"
    a, b = (_placed(context, place) for place in pair)
    words = {"a": a, "b": b, "word": true if verdict == "Yes" else false}
    answer = f"{verdict}, the {a} is {true} its camera than the {b}. Answer: {verdict}."
    return _Asked("premise", words, answer, [list(place) for place in pair], verdict)


def _extreme_across(context: Context, rng: np.random.Generator) -> _Asked | None:
    closest = bool(rng.integers(2))
    for winner in (found := _candidates(context, rng)):
        beaten = [place for place in found if _is_closer(context, winner, place) is closest and place != winner]
        beaten = [place for place in beaten if place[0] != winner[0]][:1] + beaten  # at least two images
        others = list(dict.fromkeys(beaten))[: len(LETTERS) - 1]
        if len(others) == len(LETTERS) - 1 and any(place[0] != winner[0] for place in others):
            words, answer, letter = _options(rng, [f"the {_placed(context, place)}" for place in (winner, *others)])
            word = "closest to" if closest else "farthest from"
            places = [list(place) for place in (winner, *others)]
            return _Asked("extreme", {"word": word, **words}, answer, places, letter)
    return None


VQA = Vqa()
SCENE_VQA = SceneVqa()
