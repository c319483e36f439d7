"""Make the requests for a batch of views, and turn the replies into facts of the views."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.extract.language import prompts
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.questions.checks.generated import FORM, LETTERS, check_form, check_pair, true_sentences
from spatialboost.scenes.questions.layout import measure_layout
from spatialboost.scenes.questions.view import layout_facts

WHAT = ("caption", "vqa", "both")
MAX_PAIRS = 20  # of each style
MAX_SENTENCES = 5  # of a caption; small models do not stop
NOT_JSON, WRONG_FIELDS, CUT = "it is not JSON", "it is JSON with other fields", "it is cut off"


@dataclass(frozen=True)
class Request:
    """One request to a language model."""

    view: int  # number of the view that gets the answer
    key: str  # the fact that the answer becomes: "caption", "vqa", or "scene_vqa" for questions about several views
    prompt: str  # the text of the user
    images_HW3: Sequence[np.ndarray] = ()  # the images, uint8 RGB; empty for a model that reads only text
    facts: Sequence[Mapping[str, Any]] = ()  # what is known of the views that it is about

    def hash(self, model: str) -> str:
        """A hash of everything that decides the answer: the model, the prompts and the pixels."""
        digest = hashlib.sha256(json.dumps([prompts.VERSION, model, prompts.SYSTEM, self.prompt]).encode())
        for image_HW3 in self.images_HW3:
            digest.update(str(image_HW3.shape).encode())
            digest.update(np.ascontiguousarray(image_HW3).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str  # its text; "" if it gave none
    cut: bool = False  # whether it stopped at its limit of tokens
    problem: str = ""  # why there is no answer, such as "no answer: timed out"; "" if there is one


@dataclass
class Texts:
    """The texts for one view, and what was dropped: reason -> number."""

    found: dict[str, Any] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)


def check_options(what: str, pairs: int, images: bool) -> None:
    """Raise SpatialBoostError if the kind of text is unknown or another option cannot be used."""
    if not isinstance(images, bool):
        raise SpatialBoostError(f"images is {images!r}; expected true or false")
    if what not in WHAT:
        raise SpatialBoostError(f"what is {what!r}; expected {', '.join(WHAT[:-1])} or {WHAT[-1]}")
    if isinstance(pairs, bool) or not isinstance(pairs, int) or not 1 <= pairs <= MAX_PAIRS:
        raise SpatialBoostError(f"pairs is {pairs!r}; expected the number of pairs of each style, 1 to {MAX_PAIRS}")


def make_requests(views: Sequence[PartialCues], *, what: str, pairs: int, images: bool) -> list[Request]:
    """The requests for a batch of views: a caption for each view, and pairs for each item.

    The pairs about an item with several views are about all of them, and its first view gets them. If ``views`` has an
    attribute ``items`` (the number of the item of each view), views with the same number belong together.
    """
    items: Sequence[int] = getattr(views, "items", range(len(views)))
    facts = [facts_of(view) for view in views]
    requests = []
    for number, view in enumerate(views):
        together = [other for other in range(len(views)) if items[other] == items[number]]
        if what != "vqa":
            about, shown = [facts[number]], [view.image_HW3] if images else []
            requests.append(Request(number, "caption", prompts.ask_caption(about, images=images), shown, about))
        if what != "caption" and number == together[0]:
            about = [facts[other] for other in together]
            shown = [views[other].image_HW3 for other in together] if images else []
            prompt = prompts.ask_pairs(about, count=pairs, images=images)
            requests.append(Request(number, "vqa" if len(together) == 1 else "scene_vqa", prompt, shown, about))
    return requests


def facts_of(view: PartialCues) -> dict[str, Any]:
    """The layout of a view; without objects if its depth is not known, so that no statement about geometry passes."""
    try:
        return layout_facts(measure_layout(view.to_cues()), view.depth_noise)
    except BAD_ITEM:
        return {"objects": [], "scene_box": [0.0] * 6, "depth_noise": 0.0}


def make_additions(
    views: Sequence[PartialCues], requests: Sequence[Request], replies: Sequence[Reply]
) -> list[Addition]:
    """The facts of each view with the texts that can be used, and with what was dropped and why."""
    texts = [Texts() for _ in views]
    for request, reply in zip(requests, replies, strict=True):
        _use(request, reply, texts[request.view])
    return [
        {
            "facts": {
                **view.facts,
                **text.found,
                **({"dropped": dict(Counter(view.facts.get("dropped", {})) + text.dropped)} if text.dropped else {}),
            }
        }
        for view, text in zip(views, texts, strict=True)
    ]


def _use(request: Request, reply: Reply, texts: Texts) -> None:
    """Take what is good of one reply."""
    problem = reply.problem or (CUT if reply.cut and request.key != "caption" else "")
    if problem:
        texts.dropped[f"{request.key}: {problem}"] += 1
    elif request.key == "caption":
        _use_caption(request, reply, texts)
    else:
        try:
            given = read_pairs(reply.text)
        except ValueError as error:
            texts.dropped[f"{request.key}: {error}"] += 1
            return
        good: list[dict[str, str]] = []
        for number, entry in enumerate(given):
            pair = as_pair(entry, seed=[int(request.hash("")[:8], 16), number])
            problems = [WRONG_FIELDS] if pair is None else list(check_pair(**pair, views=request.facts))
            if problems or pair is None:
                texts.dropped[f"{request.key}: {problems[0]}"] += 1
            elif all(pair["question"] != other["question"] for other in good):
                good.append(pair)
        if good:
            texts.found[request.key] = good


def _use_caption(request: Request, reply: Reply, texts: Texts) -> None:
    """The sentences of a caption that are true. The last one is left out if it is cut off."""
    text = " ".join(reply.text.split()).strip('"')
    if reply.cut:
        texts.dropped["caption: its end is cut off"] += 1
        text = re.match(r"(?:.*[.!?](?=\s))?", text)[0]  # type: ignore[index]
    kept, problems = true_sentences(text, request.facts)
    texts.dropped.update(f"caption: {problem}" for problem in problems)
    once = list(dict.fromkeys(kept))[:MAX_SENTENCES]
    if len(once) < len(kept):
        texts.dropped["caption: it repeats itself or is too long"] += len(kept) - len(once)
    caption = " ".join(once)
    if list(check_form(caption)) or len(caption.split()) < 3:
        if not problems:
            texts.dropped[f"caption: {FORM}"] += 1
    else:
        texts.found["caption"] = caption


def read_pairs(text: str) -> list[Any]:
    """The entries of a reply with pairs; JSON in a code block, or with words around it, is read, too.

    Example:
        >>> read_pairs('Here you are: {"pairs": [{"style": "common"}]}')
        [{'style': 'common'}]

    Raises:
        ValueError: it is not JSON, or JSON of another form; the message is one of the constants of this file.
    """
    start, end = text.find("{"), text.rfind("}")
    if text.lstrip().startswith("["):
        start, end = text.find("["), text.rfind("]")
    try:
        found = json.loads(text[start : end + 1]) if start >= 0 else None
    except (ValueError, RecursionError):
        raise ValueError(NOT_JSON) from None
    if found is None:
        raise ValueError(NOT_JSON)
    pairs = found.get("pairs") if isinstance(found, dict) else found
    if not isinstance(pairs, list) or not pairs:
        raise ValueError(WRONG_FIELDS)
    return pairs


def as_pair(entry: Any, *, seed: Sequence[int]) -> dict[str, str] | None:
    """One entry as question, answer and style. The options are shuffled, so that no letter is more frequent.

    Returns:
        None if the entry has other fields.
    """
    if not isinstance(entry, dict):
        return None
    given = [entry.get(key) for key in ("question", "answer", "style")]
    if not all(isinstance(text, str) for text in given):
        return None
    question, answer, style = (" ".join(str(text).split()) for text in given)
    if style != "multi-choice":
        return {"question": question, "answer": answer, "style": style}
    options = entry.get("options")
    if not isinstance(options, list) or len(options) != len(LETTERS) or not all(isinstance(o, str) for o in options):
        return None
    options = [re.sub(r"^\(?[A-D][.):] ?", "", " ".join(option.split())).strip(" .") for option in options]
    wanted = re.sub(r"^\(?[A-D][.):] ?", "", answer).strip(" .")
    if wanted in LETTERS and len(wanted) == 1:
        wanted = options[LETTERS.index(wanted)]
    if [option.lower() for option in options].count(wanted.lower()) != 1:
        return None
    order = np.random.default_rng(seed).permutation(len(options)).tolist()
    right = next(place for place, number in enumerate(order) if options[number].lower() == wanted.lower())
    shown = " ".join(f"{letter}. {options[number]}" for letter, number in zip(LETTERS, order, strict=True))
    return {
        "question": f"{question} {shown}",
        "answer": f"{wanted[:1].upper()}{wanted[1:]}. Answer: {LETTERS[right]}.",
        "style": style,
    }
