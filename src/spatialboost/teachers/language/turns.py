"""The order of the turns of a conversation (the paper's Table 7), and the check of the kinds that a run names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.questions.kinds import KINDS, LEVELS
from spatialboost.teachers.protocol import BAD_DATA, Row, row_meta
from spatialboost.vlm.chat import IMAGE

Order = Literal["forward", "reverse", "random"]
Chat = tuple[list[dict[str, Any]], list[str]]  # messages, and the kind of each question-answer pair

OTHER = LEVELS.index("scene")  # the level of a kind that the library does not have
CAPTION = LEVELS.index("caption")
MOST_ROWS = 4096  # evenly spaced rows in which kinds that the library does not have are looked for


def arrange_turns(chat: Chat, order: Order, seed: Sequence[int]) -> Chat:
    """The same turns in another order; captions and the questions about them stay last, as in a build.

    Example:
        >>> texts = ["<image>\\nHow deep?", "1 m.", "How far?", "2 m.", "Explain this scene.", "A room."]
        >>> messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        >>> messages, kinds = arrange_turns((messages, ["depth", "distance", "caption"]), "reverse", [0])
        >>> kinds, messages[0]["content"], messages[2]["content"]
        (['distance', 'depth', 'caption'], '<image>\\nHow far?', 'How deep?')

    Args:
        chat: The messages, and the kind of each turn.
        order: ``forward``: pixel, object, scene. ``reverse``: scene, object, pixel. ``random``: shuffled. Kinds that
            the library does not have count as questions on the scene.
        seed: Seed of ``random``.

    Raises:
        SpatialBoostError: The kinds are not known, or images stand elsewhere than at the beginning.
    """
    messages, kinds = chat
    if not kinds:
        raise SpatialBoostError(
            "the order of the turns can only be set if user and assistant alternate and `meta` has the kind of each"
        )
    images, first = split_images(messages[0]["content"])
    texts = [{**messages[0], "content": first}, *messages[1:]]
    if any(IMAGE in str(message["content"]) for message in texts):
        raise SpatialBoostError("the order of the turns can only be set if all images stand before the first question")
    levels = [LEVELS.index(KINDS[kind].level) if kind in KINDS else OTHER for kind in kinds]
    places = [place for place, level in enumerate(levels) if level != CAPTION]
    captions = [place for place, level in enumerate(levels) if level == CAPTION]
    if order == "random":
        places = np.random.default_rng(list(seed)).permutation(np.array(places, np.int64)).tolist()
    else:
        places.sort(key=lambda place: levels[place], reverse=order == "reverse")
    places += captions
    arranged = [message for place in places for message in texts[2 * place : 2 * place + 2]]
    arranged[0] = {**arranged[0], "content": images + arranged[0]["content"]}
    return arranged, [kinds[place] for place in places]


def split_images(text: str) -> tuple[str, str]:
    """The images at the beginning of a message, and the rest of it."""
    end = re.match(rf"(?:{re.escape(IMAGE)}\n?)*", text).end()  # type: ignore[union-attr]
    return text[:end], text[end:]


def check_kinds(stages: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Refuse kinds of turn that neither the library nor the rows have, before anything is loaded.

    Args:
        stages: Stage name -> its settings.
        rows: All rows.

    Raises:
        SpatialBoostError: A kind is unknown; the message lists the known ones.
    """
    for name, stage in stages.items():
        strange = {kind for kind in stage.turns or () if kind not in KINDS}
        if not strange:
            continue
        found = kinds_in(rows, strange)
        if wrong := sorted(strange - found):
            error = unknown("kind of turn", wrong[0], {*KINDS, *found})
            seen = f"the rows have {', '.join(sorted(found))}" if found else "the rows do not tell theirs in `meta`"
            raise SpatialBoostError(f"{name}.turns: {error} ({seen})")


def kinds_in(rows: Sequence[Row], wanted: set[str]) -> set[str]:
    """The kinds of turn in evenly spaced rows, until the wanted ones are among them. Only ``meta`` is read."""
    metas: Any = rows
    if hasattr(rows, "select_columns"):
        if "meta" not in rows.column_names:  # type: ignore[attr-defined]
            return set()
        metas = rows.select_columns(["meta"])
    found: set[str] = set()
    for number in range(0, len(rows), max(1, -(-len(rows) // MOST_ROWS))):
        try:
            found |= set(row_meta(metas[number], "turns", "kind"))
        except BAD_DATA:
            continue  # training reports bad rows when it reads them
        if wanted <= found:
            break
    return found
