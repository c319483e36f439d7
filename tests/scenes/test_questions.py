from __future__ import annotations

import json

from tiny_cues import tiny_cues

from spatialboost.scenes.questions import build_conversation


def test_twelve_turns_in_the_papers_order():
    talk = build_conversation(tiny_cues(), seed=3)
    kinds = [turn["kind"] for turn in talk.meta["turns"]]
    assert kinds[:5] == ["depth"] * 3 + ["closer"] * 2
    assert kinds[5:9] == ["left_right", "above_below", "front_behind", "larger_smaller"]
    assert kinds[9:] == ["distance", "caption", "caption_question"]
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 12
    assert talk.messages[0]["content"].startswith("<image>\n")
    assert sum("<image>" in message["content"] for message in talk.messages) == 1
    assert json.loads(json.dumps(talk.meta)) == talk.meta
