"""Common, adversarial and multi-choice questions, from a language model or from templates.

The three styles are those of the paper's set for visual instruction tuning (section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any, ClassVar

import numpy as np

from spatialboost.scenes.questions import wordings
from spatialboost.scenes.questions.checks.generated import LETTERS, STYLES, check_pair, readable_names
from spatialboost.scenes.questions.kinds.protocol import Context, Kind
from spatialboost.scenes.questions.layout import measure_distance
from spatialboost.scenes.questions.names import choose_names, noun_of, usable_names
from spatialboost.scenes.questions.phrases import format_length
from spatialboost.scenes.questions.turn import CannotAskError, Turn
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
_CLEAR = 0.1  # metres: smallest difference between two lengths that can be chosen, besides the noise


@dataclass(frozen=True)
class _Asked:
    """A question that can be asked: the form's name, its words, the answer and what it is about."""

    form: str
    words: dict[str, str]
    answer: str
    objects: list[Any]
    verdict: str
    relation: str = ""  # of two objects, so that no later question is about the same


class Vqa(Kind):
    """Question-answer pairs of an extractor (``facts["vqa"]``) that are true; otherwise, one from a template."""

    name = "vqa"
    title = "visual question answering"
    level = "caption"
    objects = 2
    texts = "vqa"
    forms: ClassVar[dict[str, dict[str, tuple[str, ...]]]] = wordings.VQA
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
                question, template = context.word(self.forms[style][form], rng, **found.words)
                template += self.wordings.index(self.forms[style][form][0])
                if _is_new(question, context):
                    about = {"style": style, "form": form, "objects": found.objects, "verdict": found.verdict}
                    about |= {"relation": found.relation} if found.relation else {}
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
    forms: ClassVar[dict[str, dict[str, tuple[str, ...]]]] = wordings.SCENE_VQA
    wordings = tuple(chain.from_iterable(texts for forms in forms.values() for texts in forms.values()))

    def _makers(self) -> dict[str, Callable[..., _Asked | None]]:
        return {"which": _which_across, "premise": _premise_across, "extreme": _extreme_across}


def _is_new(question: str, context: Context) -> bool:
    return not any(asked.lower().endswith(question.lower()) for asked in context.asked)


def _usable(view: AskedView) -> list[int]:
    """Objects whose descriptions can stand in a text."""
    return [i for i, thing in enumerate(view.objects) if thing.description in view.readable]


def _clear_pairs(
    context: Context, relations: Sequence[str], rng: np.random.Generator
) -> Iterator[tuple[str, tuple[int, int], dict[str, str]]]:
    """Relations of pairs of objects that are clear and not asked yet, with names that do not tell them."""
    earlier = [turn for turn in context.earlier if "form" in turn and "relation" in turn]
    asked = {(turn["relation"], frozenset(turn["objects"])) for turn in earlier}
    for relation in rng.permutation(relations).tolist():
        for pair, names in context.named_pairs(relation, rng):
            if context.view.readable.issuperset(names) and (relation, frozenset(pair)) not in asked:
                yield relation, pair, dict(zip("ab", names, strict=True))


def _tells_nothing(names: Mapping[str, str]) -> bool:
    """Whether two names say nothing about which of the things is closer."""
    chosen = choose_names("front_behind", (names["a"],), (names["b"],))
    return chosen is not None and chosen[2]


def _name_for(view: AskedView, i: int, relation: str) -> str | None:
    """A name of an object that does not tell a relation."""
    names = usable_names(relation, view.objects[i].names)
    return next((name for name in names if name in view.readable), None)


def _ask_which(context: Context, rng: np.random.Generator) -> _Asked | None:
    for relation, pair, names in _clear_pairs(context, list(_WHICH), rng):
        side = int(rng.integers(2))
        first = (context.view.compare(relation, *pair) == 1) == (side == 0)
        answer = f"The {names['a' if first else 'b']}."
        return _Asked("which", {**names, "word": _WHICH[relation][side]}, answer, [*pair], answer, relation)
    return None


def _ask_where(context: Context, rng: np.random.Generator) -> _Asked | None:
    for _, pair, names in _clear_pairs(context, ["left_right"], rng):
        across = _ACROSS[0 if context.view.compare("left_right", *pair) == 1 else 1].capitalize()
        deep = _tells_nothing(names) and context.view.compare("front_behind", *pair)
        answer = f"{across} and {_DEEP[0 if deep == 1 else 1]}." if deep else f"{across} of it."
        return _Asked("where", names, answer, [*pair], answer, "left_right")
    return None


def _ask_premise(context: Context, rng: np.random.Generator) -> _Asked | None:
    for relation, pair, names in _clear_pairs(context, list(_RELATIONS), rng):
        true, false = _RELATIONS[relation][:: context.view.compare(relation, *pair)]
        verdict = "Yes" if rng.random() < 0.5 else "No"
        answer = f"{verdict}, the {names['a']} is {true} the {names['b']}. Answer: {verdict}."
        return _Asked(
            "premise", {**names, "word": true if verdict == "Yes" else false}, answer, [*pair], verdict, relation
        )
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
    view = context.view
    names = {i: name for i in _usable(view) if (name := _name_for(view, i, "front_behind")) is not None}
    closest = bool(rng.integers(2))
    winner = view.extreme(list(range(len(view.objects))), closest=closest)
    if len(names) < len(LETTERS) or winner not in names:
        return None
    others = [i for i in rng.permutation(list(names)).tolist() if i != winner]
    # Pictures are far away and cups are near: another thing of the winner's noun is always among the options
    others.sort(key=lambda i: noun_of(names[i]) != noun_of(names[winner]))
    if noun_of(names[others[0]]) != noun_of(names[winner]):
        return None
    others = others[: len(LETTERS) - 1]
    words, answer, letter = _options(rng, [f"the {names[i]}" for i in (winner, *others)])
    word = "the closest to the camera" if closest else "the farthest from the camera"
    return _Asked("extreme", {"word": word, **words}, answer, [winner, *others], letter)


def _ask_corner(context: Context, rng: np.random.Generator) -> _Asked | None:
    view = context.view
    for _, pair, names in _clear_pairs(context, ["left_right"], rng):
        across, deep = view.compare("left_right", *pair), view.compare("front_behind", *pair)
        if not deep or not _tells_nothing(names):
            continue
        sides, depths = _ACROSS[::across], _DEEP[::deep]
        words, answer, letter = _options(rng, [f"{side} and {depth}" for side in sides for depth in depths])
        return _Asked("corner", {**names, **words}, answer, [*pair], letter, "left_right")
    return None


def _ask_length(context: Context, rng: np.random.Generator) -> _Asked | None:
    """The wrong lengths are those of other pairs, so that no option is a more usual length than another."""
    view, usable = context.view, set(_usable(context.view))
    found: list[tuple[float, tuple[int, int]]] = []
    for i, j in view.pairs(rng):
        a, b = view.objects[i], view.objects[j]
        metres = measure_distance(a, b, view.cues.depth_noise)
        if metres is None or not usable.issuperset((i, j)):
            continue
        sigma = view.cues.depth_noise * float(np.hypot(a.depth_m, b.depth_m))
        apart = [abs(metres - other) - _CLEAR - 6 * sigma for other, _ in found]
        if all(gap > 0 for gap in apart):
            found.append((metres, (i, j)))
        if len(found) == len(LETTERS):
            words, answer, letter = _options(rng, [format_length(metres) for metres, _ in found])
            pair = found[0][1]
            names = {"a": view.objects[pair[0]].description, "b": view.objects[pair[1]].description}
            return _Asked("length", {**names, **words}, answer, [*pair], letter)
    return None


def _options(rng: np.random.Generator, texts: Sequence[str]) -> tuple[dict[str, str], str, str]:
    """The text of four options in random order, the answer and its letter. The first of the given ones is right."""
    order = rng.permutation(len(texts)).tolist()
    shown = " ".join(f"{letter}. {texts[k]}" for letter, k in zip(LETTERS, order, strict=True))
    letter = LETTERS[order.index(0)]
    return {"options": shown}, f"{texts[0][:1].upper()}{texts[0][1:]}. Answer: {letter}.", letter


# --- several views. An object is [view, number]; depths are compared, each from its own camera.


def _candidates(context: Context, rng: np.random.Generator) -> list[tuple[int, int]]:
    readable = readable_names([view.facts for view in context.views])  # an object may have other names in other views
    places = [(k, i) for k, view in enumerate(context.views) for i in range(len(view.objects))]
    found = [(k, i) for k, i in places if _name_for(context.views[k], i, "front_behind") in readable]
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
    return f"{_name_for(context.views[place[0]], place[1], 'front_behind')} in image {place[0] + 1}"


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
