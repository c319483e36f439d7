"""How well a model answers held-out questions: with the image, without it, and against the best constant guess."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spatialboost.encoders import read_tokens
from spatialboost.training.data import ChatDataset
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.model import SpatialVLM

_LENGTH = re.compile(r"(\d+(?:\.\d+)?) ?(centimeter|meter)")
_VERDICT = re.compile(r"Answer: (Yes|No)")
_NUMERIC = ("depth", "distance")


@dataclass(frozen=True)
class Score:
    """How one kind of question is answered by one answerer.

    Attributes:
        kind: Of the turn.
        answerer: ``image``; ``text`` (the image's tokens are the mean of all images'); ``guess`` (the one answer that
            suits the scored rows best, which no image is needed for).
        answers: How many were scored.
        accuracy: Share of right verdicts; for lengths, share within 25 %.
        relative_error: Mean of abs(answer - truth) / truth, for lengths. An answer with no length in it counts as 1.
        loss: Mean cross entropy of the true answers' tokens; none for the guess.
    """

    kind: str
    answerer: str
    answers: int
    accuracy: float
    relative_error: float | None = None
    loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)


def answer_accuracy(
    vlm: SpatialVLM,
    tokenizer: Any,
    dataset: ChatDataset,
    *,
    kinds: Sequence[str] = ("depth", "closer"),
    rows: int = 32,
    batch_size: int = 16,
    max_new_tokens: int = 24,
    generate: bool = True,
    progress: bool = True,
) -> list[Score]:
    """Score answers to held-out questions.

    Example:
        >>> for score in answer_accuracy(vlm, tokenizer, held_out, rows=32):  # doctest: +SKIP
        ...     print(score.kind, score.answerer, score.accuracy)

    Each question of the chosen kinds is answered greedily after the true questions and answers before it. Those may
    tell something of the scene as well, so compare with ``text``, which has seen them too, and not with chance.

    Args:
        vlm: Put into evaluation mode while it answers.
        tokenizer: Of the language model.
        dataset: Held-out conversations, rows with ``meta``.
        kinds: Turns to generate answers for; relations need some 120 `max_new_tokens`, as they reason first.
        rows: Conversations, from the first.
        batch_size: Prompts of one batch.
        max_new_tokens: Of an answer.
        generate: False scores only the loss, of all kinds, in two forwards a conversation; then accuracy is the share
            of answer tokens that would have been chosen rightly.
        progress: Show a progress bar.
    """
    was_training = vlm.training
    vlm.eval()
    indices = range(min(rows, len(dataset)))
    with torch.no_grad():
        images = [_features(vlm, dataset, i) for i in indices]
        blank = torch.cat(images).mean(0, keepdim=True)
        seen = {"image": images, "text": [blank.expand_as(each) for each in images]}
        teacher = {name: _teacher_forced(vlm, dataset, each, batch_size) for name, each in seen.items()}
        if generate:
            scores = _generated(
                vlm, tokenizer, dataset, seen, kinds, batch_size, max_new_tokens=max_new_tokens, progress=progress
            )
        else:
            scores = [
                Score(kind, name, len(values), float(np.mean([right for _, right in values])))
                for name, by_kind in teacher.items()
                for kind, values in by_kind.items()
            ]
    vlm.train(was_training)
    return [_with_loss(score, teacher) for score in scores]


def _with_loss(score: Score, teacher: dict[str, dict[str, list[tuple[float, float]]]]) -> Score:
    values = teacher.get(score.answerer, {}).get(score.kind)
    if not values:
        return score
    return Score(**{**asdict(score), "loss": float(np.mean([loss for loss, _ in values]))})


def _features(vlm: SpatialVLM, dataset: ChatDataset, index: int) -> Tensor:
    pixels = dataset.images.pixel_values(dataset.rows[index]).to(next(vlm.parameters()).device)
    return read_tokens(vlm.encoder, pixels, layer=vlm.layer).patches


def _teacher_forced(
    vlm: SpatialVLM, dataset: ChatDataset, images: Sequence[Tensor], batch_size: int
) -> dict[str, list[tuple[float, float]]]:
    """By kind of turn: (mean loss, share of right tokens) of each true answer."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    collate = Collator(dataset.pad_token_id)
    for start in range(0, len(images), batch_size):
        numbers = range(start, min(start + batch_size, len(images)))
        batch = _to(collate([{**dataset.items[i], "patch_features": images[i]} for i in numbers]), vlm)
        out = vlm(**batch)
        losses = nn.functional.cross_entropy(out.logits.float(), out.targets, reduction="none")
        right = (out.logits.argmax(-1) == out.targets).float()
        learnt = batch["labels"][:, 1:] >= 0
        row, place = learnt.nonzero(as_tuple=True)
        turn = batch["turns"][row, place + 1]
        for r, i in enumerate(numbers):
            kinds = dataset.chats[i][1]
            for t in turn[row == r].unique().tolist():
                chosen = (row == r) & (turn == t)
                kind = kinds[t] if t < len(kinds) else ""
                found[kind].append((float(losses[chosen].mean()), float(right[chosen].mean())))
    return found


def _generated(
    vlm: SpatialVLM,
    tokenizer: Any,
    dataset: ChatDataset,
    seen: dict[str, list[Tensor]],
    kinds: Sequence[str],
    batch_size: int,
    *,
    max_new_tokens: int,
    progress: bool,
) -> list[Score]:
    asked: dict[str, list[tuple[int, int, str]]] = defaultdict(list)  # kind -> (item, turn, true answer)
    for i in range(len(seen["image"])):
        messages, turn_kinds = dataset.chats[i]
        longest = int(dataset.items[i]["turns"].max())  # later turns did not fit into max_length
        for turn, kind in enumerate(turn_kinds[: longest + 1]):
            if kind in kinds:
                asked[kind].append((i, turn, messages[2 * turn + 1]["content"]))
    scores = []
    collate = Collator(dataset.pad_token_id, padding_side="left")
    total = 2 * sum(map(len, asked.values()))
    with tqdm(total=total, desc="answers", disable=not progress) as bar:
        for kind, questions in asked.items():
            questions = sorted(questions, key=lambda question: question[1])  # prompts of like length together
            truths = [truth for _, _, truth in questions]
            for name, images in seen.items():
                replies: list[str] = []
                for start in range(0, len(questions), batch_size):
                    part = questions[start : start + batch_size]
                    prompts = [
                        _prompt(dataset, tokenizer, i, turn) | {"patch_features": images[i]} for i, turn, _ in part
                    ]
                    batch = _to(collate(prompts), vlm)
                    batch.pop("labels"), batch.pop("turns")
                    new = vlm.generate(
                        **batch,
                        max_new_tokens=max_new_tokens,
                        eos_token_id=tokenizer.eos_token_id,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                    replies += tokenizer.batch_decode(new, skip_special_tokens=True)
                    bar.update(len(part))
                scores.append(score_answers(kind, name, replies, truths))
            scores.append(score_answers(kind, "guess", [best_guess(kind, truths)] * len(truths), truths))
    return scores


def score_answers(kind: str, answerer: str, replies: Sequence[str], truths: Sequence[str]) -> Score:
    """Compare replies with the true answers.

    Example:
        >>> score_answers("depth", "image", ["The depth is 2.0 meters."], ["The depth is 2.500 meters."])
        Score(kind='depth', answerer='image', answers=1, accuracy=1.0, relative_error=0.2, loss=None)
    """
    if kind not in _NUMERIC:
        right = [read_verdict(reply) == read_verdict(truth) for reply, truth in zip(replies, truths, strict=True)]
        return Score(kind, answerer, len(truths), float(np.mean(right)))
    errors = []
    for reply, truth in zip(replies, truths, strict=True):
        found, expected = read_length(reply), read_length(truth)
        errors.append(1.0 if found is None or not expected else abs(found - expected) / expected)
    return Score(kind, answerer, len(truths), float(np.mean(np.array(errors) <= 0.25)), float(np.mean(errors)))


def best_guess(kind: str, truths: Sequence[str]) -> str:
    """The one reply that suits the answers best: the median of lengths, the most frequent of verdicts.

    Example:
        >>> best_guess("closer", ["Point 1 is closer.", "Point 2 is closer.", "Point 2 is closer."])
        'Point 2 is closer.'
    """
    if kind in _NUMERIC:
        lengths = [length for truth in truths if (length := read_length(truth)) is not None]
        return f"{np.median(lengths):.3f} meters" if lengths else ""
    verdicts = Counter(map(read_verdict, truths))
    common = verdicts.most_common(1)[0][0]
    return next(truth for truth in truths if read_verdict(truth) == common)


def read_length(text: str) -> float | None:
    """The last length that a text names, in metres.

    Example:
        >>> read_length("It's 50 centimeters."), read_length("The depth is 2.341 meters."), read_length("Far.")
        (0.5, 2.341, None)
    """
    found = _LENGTH.findall(text)
    if not found:
        return None
    number, unit = found[-1]
    return float(number) / (100 if unit == "centimeter" else 1)


def read_verdict(text: str) -> str:
    """What a text says in the end: Yes or No after its reasons, else all of it.

    Example:
        >>> read_verdict("Comparing their positions, it is left. Answer: Yes."), read_verdict(" Point 1 is closer. ")
        ('Yes', 'Point 1 is closer.')
    """
    found = _VERDICT.findall(text)
    return found[-1] if found else text.strip()


def _prompt(dataset: ChatDataset, tokenizer: Any, index: int, turn: int) -> dict[str, Tensor]:
    start, stop = dataset.images.spans[dataset.rows[index]]
    counts = [dataset.images.num_tokens] * (stop - start)
    messages = dataset.chats[index][0][: 2 * turn + 1]
    return encode_chat(messages, tokenizer, num_visual_tokens=counts, add_generation_prompt=True)


def _to(batch: dict[str, Tensor], vlm: SpatialVLM) -> dict[str, Tensor]:
    device = next(vlm.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}
