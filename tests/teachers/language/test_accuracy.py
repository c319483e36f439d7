from __future__ import annotations

import pytest
import torch

from spatialboost.scenes.questions.kinds import scoring_of
from spatialboost.scenes.questions.scoring import read_length, read_verdict
from spatialboost.teachers.language import ChatDataset, InstructConfig, answer_accuracy, instruct
from spatialboost.teachers.language.accuracy import score_answers
from training_rows import build, make_rows


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A model that has learnt to read the brightness of an image."""
    vlm, tokenizer, dataset = build(make_rows(96, flat=True), numbers=range(64))
    stage = InstructConfig(steps=300, lr=5e-3, batch_size=16, save_every=0)
    only_depth = ChatDataset(dataset.rows, dataset.images, tokenizer, numbers=range(64), turns=["depth"])
    instruct(vlm, only_depth, stage, folder=tmp_path_factory.mktemp("reader"))
    return vlm, tokenizer, dataset


def test_reading_the_image_beats_guessing(reader):
    vlm, tokenizer, dataset = reader
    held_out = ChatDataset(dataset.rows, dataset.images, tokenizer, numbers=range(64, 96), turns=["depth"])
    scores = {s.answerer: s for s in answer_accuracy(vlm, tokenizer, held_out, progress=False, kinds=["depth"])}
    assert scores["image"].accuracy > 0.9 and scores["image"].relative_error < 0.1
    assert scores["text"].accuracy < 0.7 and scores["guess"].accuracy < 0.7
    assert scores["image"].loss < 0.5 * scores["text"].loss and scores["guess"].loss is None
    assert all(score.answers == 32 for score in scores.values())


def test_without_generating_all_kinds_are_scored(reader):
    vlm, tokenizer, dataset = reader
    held_out = ChatDataset(dataset.rows, dataset.images, tokenizer, numbers=range(64, 96))
    vlm.train()
    scores = answer_accuracy(vlm, tokenizer, held_out, generate=False, progress=False)
    assert vlm.training
    assert {(s.kind, s.answerer) for s in scores} == {(k, a) for k in ("depth", "closer") for a in ("image", "text")}
    assert all(0 <= s.accuracy <= 1 and s.answers == 32 and s.loss > 0 for s in scores)


def test_loss_by_turn_is_the_loss_of_the_model(parts):
    vlm, tokenizer, dataset = parts
    vlm.eval()
    scores = answer_accuracy(vlm, tokenizer, dataset, rows=1, generate=False, progress=False)
    by_kind = {s.kind: s.loss for s in scores if s.answerer == "image"}
    item = {name: value[None] for name, value in dataset[0].items() if name not in ("pixel_values", "row")}
    for turn, kind in enumerate(("depth", "closer")):
        labels = torch.where(item["turns"] == turn, item["labels"], -100)
        expected = vlm(**{**item, "labels": labels}, pixel_values=dataset[0]["pixel_values"]).loss
        assert abs(by_kind[kind] - float(expected.detach())) < 1e-4


def test_lengths_and_verdicts_are_read():
    answer = "The lamp is located [0.1, 0.2] in the image. Comparing, it is left. Answer: No."
    assert read_verdict(answer) == "No" and read_length(answer) is None
    assert read_length("Answer: 32.1 centimeters.") == pytest.approx(0.321)


def test_scores_are_what_they_say():
    truths = ["1.000 meters", "2.000 meters", "4.000 meters"]
    score = score_answers("depth", "image", ["1.25 meters", "3.000 meters", "no idea"], truths)
    assert score.accuracy == pytest.approx(1 / 3) and score.relative_error == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert scoring_of("depth").best_guess(truths) == "2.000 meters"
    verdicts = ["... Answer: Yes.", "... Answer: No.", "else Answer: Yes."]
    assert score_answers(
        "left_right", "guess", [scoring_of("left_right").best_guess(verdicts)] * 3, verdicts
    ).accuracy == pytest.approx(2 / 3)
