from __future__ import annotations

import pytest

from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.language import ChatDataset
from spatialboost.teachers.language.chats import ShuffledAnswers, read_chat
from spatialboost.training import RowDataset
from training_rows import build, make_rows


def test_bad_rows_are_left_out_and_named():
    rows = make_rows(7)
    _, _, dataset = build(rows)
    rows[1]["images"] = [{"bytes": b"not an image", "path": None}]
    rows[2]["messages"] = rows[2]["messages"][:1]
    rows[3]["images"] = []
    rows[5]["messages"] = None
    rows[6]["meta"] = "[]"
    taken = {int(dataset[i]["row"]) for i in range(7)}
    assert taken == {0, 4} and set(dataset.skipped) == {1, 2, 3, 5, 6}
    assert "not an image format" in dataset.skipped[1] and "no assistant message" in dataset.skipped[2]
    assert "1 <image> marks, but there are 0 images" in dataset.skipped[3]
    bad = RowDataset(rows, dataset.images, dataset.make_example, numbers=[1])
    with pytest.raises(SpatialBoostError, match="none can be used; the first: row 1: its bytes are not an image"):
        bad[0]


def test_too_long_is_left_out(rows):
    _, _, dataset = build(rows, max_length=8)
    with pytest.raises(SpatialBoostError, match="not even the first answer fits into 8 tokens"):
        dataset[0]


def test_an_image_that_does_not_fit_is_named(rows):
    """It ended the training: the tokens of the image were left out, and its features were not."""
    _, tokenizer, dataset = build(rows)
    row = {**rows[0], "images": rows[0]["images"] * 2, "messages": [dict(each) for each in rows[0]["messages"]]}
    row["messages"][2]["content"] = "<image>" + row["messages"][2]["content"]
    length = len(ChatDataset([row], dataset.images, tokenizer)[0]["input_ids"])
    cut = ChatDataset([row, rows[1]], dataset.images, tokenizer, max_length=length - 1)
    assert int(cut[0]["row"]) == 1 and "an image stands after the turns that fit" in cut.skipped[0]


def test_turns_are_chosen_by_kind(rows, parts):
    _, tokenizer, dataset = parts
    closer = ChatDataset(rows, dataset.images, tokenizer, turns=["closer"])
    messages, kinds = closer.make_example.chat(0)
    assert kinds == ["closer"] and messages[0]["content"] == "<image>\n" + rows[0]["messages"][2]["content"]
    with pytest.raises(SpatialBoostError, match="no turn of kind size; there are closer, depth"):
        read_chat(rows[0], ["size"])
    with pytest.raises(SpatialBoostError, match="turns can only be chosen"):
        read_chat({**rows[0], "meta": "{}", "messages": rows[0]["messages"][1:3]}, ["depth"])


def shuffle(rows, seed, numbers=None):
    shuffled = ShuffledAnswers(range(len(rows)) if numbers is None else numbers, seed)
    return [shuffled(i, read_chat(rows[i]), lambda j: read_chat(rows[j])) for i in range(len(rows))]


def test_shuffled_answers_are_the_same_answers_in_other_rows(rows):
    before = [read_chat(row) for row in rows]
    after = shuffle(rows, 0)
    for turn in (0, 1):
        answers, moved = ([chat[0][2 * turn + 1]["content"] for chat in chats] for chats in (before, after))
        assert sorted(answers) == sorted(moved) and answers != moved
        assert all(after[i][0][2 * turn] == before[i][0][2 * turn] for i in range(len(rows)))
    assert after == shuffle(rows, 0) != shuffle(rows, 1)
    assert before == [read_chat(row) for row in rows]


def test_no_answer_stays_with_its_own_row():
    chats = [([{"role": "user", "content": "?"}, {"role": "assistant", "content": str(i)}], ["k"]) for i in range(9)]
    shuffled = ShuffledAnswers(range(9), 3)
    given = [shuffled(i, chats[i], chats.__getitem__)[0][1]["content"] for i in range(9)]
    assert sorted(given) == list("012345678") and all(answer != str(i) for i, answer in enumerate(given))


def test_an_answer_that_the_next_row_lacks_comes_from_the_one_behind_it():
    def chat(i):
        if i == 5:
            raise ValueError("a bad row")
        kind = "depth" if i % 2 else "closer"
        return [{"role": "user", "content": "?"}, {"role": "assistant", "content": f"{kind} {i}"}], [kind]

    shuffled = ShuffledAnswers(range(12), 0)
    for i in range(12):
        if i != 5:
            answer = shuffled(i, chat(i), chat)[0][1]["content"]
            assert answer.startswith(chat(i)[1][0]) and answer != f"{chat(i)[1][0]} {i}"


def test_answers_are_shuffled_among_the_training_rows(rows, parts):
    _, tokenizer, dataset = parts
    part = ChatDataset(rows, dataset.images, tokenizer, numbers=range(4, 8), shuffle_answers=True, seed=1)
    own = {rows[i]["messages"][1]["content"] for i in range(4, 8)}
    assert {part.make_example.chat(i)[0][1]["content"] for i in range(4, 8)} == own
    plain = ChatDataset(rows, dataset.images, tokenizer, numbers=range(4, 8))
    assert all(part[i]["input_ids"].shape == plain[i]["input_ids"].shape for i in range(4))


def test_features_give_the_loss_of_pixels(parts):
    import torch

    from spatialboost.training.data import RowCollator
    from spatialboost.vlm import Collator

    vlm, _, dataset = parts
    vlm.eval()
    dataset.features.open(vlm.encoder, -1, image_size=(32, 32))
    pixels, features = (
        RowCollator(Collator(0), features=use)([dataset.with_features(use)[i] for i in range(4)])
        for use in (False, True)
    )
    features = dataset.features.complete(features)
    assert "pixel_values" in pixels and "patch_features" in features
    assert torch.allclose(vlm(**pixels).loss, vlm(**features).loss, atol=1e-5)
