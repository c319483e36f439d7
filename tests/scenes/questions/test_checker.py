from __future__ import annotations

import copy
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.questions.checker import check_against_cues, check_conversation
from spatialboost.scenes.questions.conversation import build_conversation
from tiny_cues import tiny_cues

VIEWS = [tiny_cues(), tiny_cues((90, 60), holes=True), tiny_cues(noise=0.02)]
ORDERS = ["forward", "reverse", "random"]
talks = st.builds(
    lambda view, seed, order: build_conversation(view, seed=seed, order=order),
    st.sampled_from(VIEWS),
    st.integers(0, 10_000),
    st.sampled_from(ORDERS),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(VIEWS), st.integers(0, 10**9), st.sampled_from(ORDERS))
def test_what_is_built_is_right(view, seed, order):
    talk = build_conversation(view, seed=seed, order=order)
    assert check_conversation(talk.messages, talk.meta) == []
    assert check_against_cues(talk.messages, talk.meta, view) == []


@settings(max_examples=150, deadline=None)
@given(talks, st.data())
def test_any_other_digit_is_caught(talk, data):
    """All numbers in the answers and all coordinates in the questions."""
    messages = copy.deepcopy(talk.messages)
    places = [
        (i, match.start())
        for i, message in enumerate(messages)
        for match in re.finditer(r"\d", message["content"])
        if message["role"] == "assistant" or "(0." in message["content"]
    ]
    i, at = data.draw(st.sampled_from(places))
    text = messages[i]["content"]
    digit = data.draw(st.sampled_from([d for d in "0123456789" if d != text[at]]))
    messages[i]["content"] = text[:at] + digit + text[at + 1 :]
    assert check_conversation(messages, talk.meta), (text, messages[i]["content"])


SWAPS = [
    ("Yes", "No"),
    ("left", "right"),
    ("above", "below"),
    ("in front of", "behind"),
    ("larger", "smaller"),
    ("meters", "centimeters"),
    ("closest", "farthest"),
    ("red box", "green cone"),
    ("red box", "purple box"),
    ("Point 1", "Point 2"),
]


@settings(max_examples=200, deadline=None)
@given(talks, st.data())
def test_any_swapped_word_is_caught(talk, data):
    messages = copy.deepcopy(talk.messages)
    pairs = [*SWAPS, *(pair[::-1] for pair in SWAPS)]
    places = [
        (i, old, new)
        for i, message in enumerate(messages)
        for old, new in pairs
        if re.search(rf"\b{old}\b", message["content"])
    ]
    i, old, new = data.draw(st.sampled_from(places))
    messages[i]["content"] = re.sub(rf"\b{old}\b", new, messages[i]["content"], count=1)
    assert check_conversation(messages, talk.meta), (old, new, talk.messages[i]["content"])


@settings(max_examples=60, deadline=None)
@given(talks, st.data())
def test_exchanged_turns_are_caught(talk, data):
    turns = len(talk.messages) // 2
    i, j = data.draw(st.lists(st.integers(0, turns - 1), min_size=2, max_size=2, unique=True))
    messages = [dict(message) for message in talk.messages]
    answers = messages[2 * i + 1]["content"], messages[2 * j + 1]["content"]
    if answers[0] == answers[1]:
        return
    messages[2 * i + 1]["content"], messages[2 * j + 1]["content"] = answers[::-1]
    assert check_conversation(messages, talk.meta)


def test_a_dropped_message_or_another_order_is_caught():
    talk = build_conversation(VIEWS[0], seed=1)
    assert "expected 12 questions" in check_conversation(talk.messages[:-1], talk.meta)[0]
    assert "not the order 'reverse'" in check_conversation(talk.messages, {**talk.meta, "order": "reverse"})[0]
    assert check_conversation(
        [{**m, "content": m["content"].removeprefix("<image>\n")} for m in talk.messages], talk.meta
    )


@pytest.mark.parametrize(
    "broken", [{}, {"turns": 3}, {"turns": [{}], "images": 1}, {"turns": [{"kind": "depth"}] * 12}]
)
def test_a_broken_meta_is_a_problem_not_an_exception(broken):
    talk = build_conversation(VIEWS[0], seed=1)
    assert check_conversation(talk.messages, broken)
    assert check_conversation(talk.messages, {**talk.meta, **broken} if broken else {"version": 1})


def test_a_verdict_that_meta_records_wrongly_is_caught():
    talk = build_conversation(VIEWS[0], seed=2)
    for number, turn in enumerate(talk.meta["turns"]):
        for key in ("verdict", "holds", "distance", "depths", "closest"):
            if key not in turn:
                continue
            meta = copy.deepcopy(talk.meta)
            wrong = {
                "verdict": 9 if not isinstance(turn.get("verdict"), bool) else not turn["verdict"],
                "holds": "above" if turn.get("holds") != "above" else "below",
                "distance": 9.0,
                "depths": [9.0, 9.0],
                "closest": (turn.get("closest") or 0) + 1,
            }[key]
            meta["turns"][number][key] = wrong
            assert check_conversation(talk.messages, meta), (turn, key)


def changed(view: Cues, **parts) -> Cues:
    kept = {name: getattr(view, name) for name in ("image_HW3", "depth_HW", "intrinsics_33", "source", "objects")}
    return Cues(**{**kept, **parts})


def test_facts_are_verified_from_the_view_itself():
    view = VIEWS[0]
    talk = build_conversation(view, seed=5)
    assert check_against_cues(talk.messages, talk.meta, view) == []
    farther = changed(view, depth_HW=view.depth_HW + 0.01)
    assert any("the depth at" in problem for problem in check_against_cues(talk.messages, talk.meta, farther))
    mirrored = changed(view, objects=[type(o)(o.description, o.mask_HW[:, ::-1].copy()) for o in view.objects])
    assert any("spans" in problem for problem in check_against_cues(talk.messages, talk.meta, mirrored))
    wider = changed(view, intrinsics_33=view.intrinsics_33 * np.array([[0.5, 1, 1], [1, 0.5, 1], [1, 1, 1]]))
    assert any("box" in problem for problem in check_against_cues(talk.messages, talk.meta, wider))
    smaller = changed(
        view,
        image_HW3=view.image_HW3[:50],
        depth_HW=view.depth_HW[:50],
        objects=[],
    )
    assert "the view is (50, 128)" in check_against_cues(talk.messages, talk.meta, smaller)[0]
    renamed = changed(view, objects=[type(o)(f"old {o.description}", o.mask_HW) for o in view.objects])
    assert any("0 masks are called" in problem for problem in check_against_cues(talk.messages, talk.meta, renamed))
