"""Scores of generated answers against a second computation: one prompt at a time, other code to read the answers."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from spatialboost.encoders import read_tokens
from spatialboost.teachers.language import ChatDataset, InstructConfig, answer_accuracy, instruct
from spatialboost.teachers.language.accuracy import accuracy_interval
from spatialboost.vlm.chat import encode_chat
from training_rows import build, make_rows

ROWS = range(24, 36)


@pytest.fixture(scope="module")
def half_taught(tmp_path_factory):
    """A model that has learnt the form of the answers but not all of their content."""
    vlm, tokenizer, dataset = build(make_rows(36), numbers=range(24))
    stage = InstructConfig(steps=60, lr=5e-3, batch_size=12, save_every=0)
    instruct(vlm, dataset, stage, folder=tmp_path_factory.mktemp("half"))
    vlm.eval()
    return vlm, tokenizer, ChatDataset(dataset.rows, dataset.images, tokenizer, numbers=ROWS)


@torch.no_grad()
def reply_alone(vlm, tokenizer, messages, turn, patches) -> str:
    """The greedy reply, token by token, without padding, batches or the language model's own generate."""
    encoded = encode_chat(messages, tokenizer, num_visual_tokens=[patches.shape[1]])
    first = int((encoded["turns"] == turn).nonzero()[0])
    ids, mask = encoded["input_ids"][:first].tolist(), encoded["visual_mask"][:first].tolist()
    new: list[int] = []
    while len(new) < 24 and (not new or new[-1] != tokenizer.eos_token_id):
        logits = vlm(
            input_ids=torch.tensor([ids + new]),
            visual_mask=torch.tensor([mask + [False] * len(new)]),
            patch_features=patches,
        ).logits
        new.append(int(logits[0, -1].argmax()))
    return tokenizer.decode(new, skip_special_tokens=True)


def metres(text: str) -> float | None:
    found = re.search(r"([0-9.]+) (centi)?meters", text)
    return None if found is None else float(found[1].rstrip(".")) / (100 if found[2] else 1)


def test_scores_are_those_of_an_independent_computation(half_taught):
    vlm, tokenizer, dataset = half_taught
    scores = {(s.kind, s.answerer): s for s in answer_accuracy(vlm, tokenizer, dataset, kinds=None, progress=False)}
    images = torch.stack([dataset.images(dataset.rows[number]) for number in ROWS])
    features = torch.stack([read_tokens(vlm.encoder, image).patches for image in images]).detach()
    seen = {"image": features, "text": features.mean((0, 1), keepdim=True).expand(len(ROWS), 1, -1, -1)}
    for answerer, patches in seen.items():
        errors, right = [], []
        for place, number in enumerate(ROWS):
            messages = dataset.rows[number]["messages"]
            truth = metres(messages[1]["content"])
            said = metres(reply_alone(vlm, tokenizer, messages, 0, patches[place]))
            errors.append(1.0 if said is None else abs(said - truth) / truth)
            closer = reply_alone(vlm, tokenizer, messages, 1, patches[place])
            right.append(closer.strip() == messages[3]["content"])
        depth, choice = scores["depth", answerer], scores["closer", answerer]
        assert depth.relative_error == pytest.approx(np.mean(errors)) and depth.answers == len(ROWS)
        assert depth.accuracy == pytest.approx(np.mean([error <= 0.25 for error in errors]))
        assert choice.accuracy == pytest.approx(np.mean(right)) and choice.relative_error is None
    truths = [metres(dataset.rows[number]["messages"][1]["content"]) for number in ROWS]
    guessed = [abs(np.median(truths) - truth) / truth for truth in truths]
    assert scores["depth", "guess"].relative_error == pytest.approx(np.mean(guessed), abs=1e-6)
    answers = [dataset.rows[number]["messages"][3]["content"] for number in ROWS]
    assert scores["closer", "guess"].accuracy == max(map(answers.count, answers)) / len(answers)
    assert scores["depth", "image"].relative_error > 0  # a perfect model would hide a wrong computation


def test_batches_change_nothing(half_taught):
    """Kinds share batches, and a reply is cut at the limit of its own kind."""
    vlm, tokenizer, dataset = half_taught
    dataset = ChatDataset(dataset.rows, dataset.images, tokenizer, numbers=ROWS[:5])
    whole, single = (
        answer_accuracy(vlm, tokenizer, dataset, kinds=None, max_new_tokens=None, batch_size=size, progress=False)
        for size in (64, 1)
    )
    assert [(s.kind, s.answerer, s.accuracy, s.relative_error) for s in whole] == [
        (s.kind, s.answerer, s.accuracy, s.relative_error) for s in single
    ]
    assert [s.samples for s in whole] == [s.samples for s in single]


def test_samples_are_of_different_rows_with_all_replies(half_taught):
    vlm, tokenizer, dataset = half_taught
    for score in answer_accuracy(vlm, tokenizer, dataset, kinds=None, progress=False):
        if score.answerer != "image":
            assert not score.samples
            continue
        assert [sample.row for sample in score.samples] == list(ROWS)[:4]
        for sample in score.samples:
            messages = dataset.rows[sample.row]["messages"]
            assert messages[2 * sample.turn]["content"].endswith(sample.question) and "<image>" not in sample.question
            assert sample.truth == messages[2 * sample.turn + 1]["content"]
            assert set(sample.replies) == set(sample.right) == {"image", "text", "guess"}


def test_the_interval_is_wilsons_for_independent_answers():
    for right, count in ((7, 10), (30, 40), (1, 64), (10, 10), (0, 5)):
        expected = binomtest(right, count).proportion_ci(0.95, "wilson")
        found = accuracy_interval([True] * right + [False] * (count - right), range(count))
        assert found == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_interval_covers_the_truth_when_answers_of_a_conversation_depend_on_each_other():
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for _ in range(200):
        right = [bool(rng.random() < ability) for ability in rng.beta(2, 1, 24) for _ in range(12)]
        groups = [number for number in range(24) for _ in range(12)]
        low, high = accuracy_interval(right, groups)
        covered.append(low <= 2 / 3 <= high)
        alone = accuracy_interval(right, range(len(right)))
        naive.append(alone[0] <= 2 / 3 <= alone[1])
    assert 0.9 < np.mean(covered) < 0.99 and np.mean(naive) < 0.85
    assert all(math.isfinite(end) for end in accuracy_interval([True], [0]))
