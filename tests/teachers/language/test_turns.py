from __future__ import annotations

import json

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.rooms.render import render_rooms
from spatialboost.teachers.language.chats import ChatExamples, read_chat
from spatialboost.teachers.language.config import BoostConfig
from spatialboost.teachers.language.turns import arrange_turns, check_kinds
from training_rows import make_rows, write_parquet

ROOM = render_rooms([3], size=64)[0]


def row(order: str, seed: int = 7) -> dict:
    made = build_conversation(ROOM, seed=seed, order=order)
    return {"messages": made.messages, "meta": json.dumps(made.meta)}


def pairs(messages: list[dict]) -> set[tuple[str, str]]:
    texts = [message["content"].removeprefix("<image>\n") for message in messages]
    return set(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("stored", ["forward", "reverse", "random"])
@pytest.mark.parametrize("wanted", ["forward", "reverse"])
def test_rows_of_any_order_are_trained_in_the_order_that_a_build_gives(stored, wanted):
    ours, theirs = arrange_turns(read_chat(row(stored)), wanted, [0]), read_chat(row(wanted))
    if stored == "random":  # turns of one level keep their order in the row
        assert sorted(ours[1]) == sorted(theirs[1])
        levels = [kind in ("depth", "closer") for kind in ours[1]]
        assert levels == [kind in ("depth", "closer") for kind in theirs[1]]
    else:
        assert ours == theirs


def test_random_is_drawn_by_row_and_keeps_captions_last():
    chat = read_chat(row("forward"))
    orders = [arrange_turns(chat, "random", [0, number])[1] for number in range(6)]
    assert len({tuple(each) for each in orders}) == 6
    assert all(each[-2:] == ["caption", "caption_question"] for each in orders)
    messages, kinds = arrange_turns(chat, "random", [0, 1])
    assert kinds == orders[1] and messages[0]["content"].startswith("<image>\n")
    assert sum(message["content"].count("<image>") for message in messages) == 1
    assert pairs(messages) == pairs(chat[0])


def test_examples_have_the_order_of_their_stage(parts):
    _, tokenizer, dataset = parts
    rows = dataset.rows
    chats = {o: ChatExamples(rows, tokenizer, 4, order=o).chat(0) for o in (None, "forward", "reverse", "random")}
    assert chats[None] == chats["forward"] == read_chat(rows[0])  # depth and closer are of one level
    drawn = [ChatExamples(rows, tokenizer, 4, order="random", seed=s).chat(n)[1][0] for s in (0, 1) for n in range(24)]
    assert set(drawn) == {"depth", "closer"} and drawn[:24] != drawn[24:]


def test_rows_without_kinds_or_with_images_in_between_are_bad():
    messages = [{"role": "user", "content": "<image>\na <image>"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(SpatialBoostError, match="all images stand before the first question"):
        arrange_turns((messages, ["depth"]), "forward", [0])
    with pytest.raises(SpatialBoostError, match="`meta` has the kind of each"):
        arrange_turns((messages, []), "forward", [0])


def test_kinds_are_those_of_the_library_or_of_the_rows(tmp_path):
    rows = make_rows(4)
    rows[3]["meta"] = json.dumps({"turns": [{"kind": "depth"}, {"kind": "how many doors"}]})
    rows[1]["meta"] = "no JSON"
    data = open_rows([write_parquet(rows, tmp_path / "data")])
    check_kinds({"stage3": BoostConfig(turns=["how many doors", "caption"]), "stage1": BoostConfig()}, data)
    with pytest.raises(
        SpatialBoostError,
        match=r"stage3.turns: unknown kind of turn 'depht'; known are .*Did you mean 'depth'.*rows have",
    ) as caught:
        check_kinds({"stage3": BoostConfig(turns=["depht"])}, data)
    assert "how many doors" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(SpatialBoostError, match="the rows do not tell theirs"):
        check_kinds({"stage3": BoostConfig(turns=["x"])}, data.select_columns(["images"]))
