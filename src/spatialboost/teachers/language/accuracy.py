"""Score a model's answers to held-out questions: with the image, without it, and the best constant answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spatialboost.encoders import read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.questions.kinds import scoring_of
from spatialboost.teachers.protocol import Sample, Score
from spatialboost.training.data import RowDataset
from spatialboost.training.processes import is_main
from spatialboost.vlm.chat import IMAGE, stop_tokens, turn_endings
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.model import SpatialVLM

MOST_SAMPLES = 4  # answers of each kind that are kept with the score
_NORMAL_95 = 1.959964  # 97.5 % of a normal distribution lie below it

# Shape legend: I images of one conversation, N patches, D width of the encoder.


@dataclass(frozen=True)
class AnswerLoss:
    """One true answer, as the model predicts it from the text before it.

    Attributes:
        conversation: Number of its conversation among those that are scored.
        kind: Kind of turn.
        loss: Mean loss of its tokens.
        right: Share of its tokens that are predicted correctly.
    """

    conversation: int
    kind: str
    loss: float
    right: float


@dataclass(frozen=True)
class Conversation:
    """A conversation that is scored.

    Attributes:
        messages: All messages.
        kinds: Kind of each turn.
        encoded: The tokens, as `encode_chat` returns them.
        patches_IND: Patch tokens of the images from the encoder.
        row: Number of its row.
    """

    messages: list[dict[str, Any]]
    kinds: list[str]
    encoded: dict[str, Tensor]
    patches_IND: Tensor
    row: int = -1

    def prompt(self, turn: int) -> dict[str, Tensor]:
        """The tokens before an answer, the same as in training.

        A chat template may write the last answer otherwise than its generation prompt begins (Qwen3 does), and a token
        may contain the blank before an answer and its first word.
        """
        first = int((self.encoded["turns"] == turn).nonzero()[0])
        part = {name: value[:first] for name, value in self.encoded.items()}
        images = len(self.patches_IND)
        shown = int(part["visual_mask"].sum()) * images // max(1, int(self.encoded["visual_mask"].sum()))
        return part | {"patch_features": self.patches_IND[:shown]}


def answer_accuracy(
    vlm: SpatialVLM,
    tokenizer: Any,
    dataset: RowDataset,
    *,
    kinds: Sequence[str] | None = ("depth", "closer"),
    rows: int = 32,
    batch_size: int = 16,
    max_new_tokens: int | None = 24,
    generate: bool = True,
    progress: bool = True,
) -> list[Score]:
    """Score answers to held-out questions.

    Example:
        >>> for score in answer_accuracy(vlm, tokenizer, held_out, rows=32):  # doctest: +SKIP
        ...     print(score.kind, score.answerer, score.accuracy)

    Each question of the chosen kinds is answered by greedy decoding. The prompt contains the questions before it with
    their true answers. These may contain information about the scene. So compare ``image`` with ``text``, which has the
    same prompt, and not with chance.

    Args:
        vlm: The model; it is in evaluation mode while it answers.
        tokenizer: Tokenizer of the language model.
        dataset: Held-out conversations, a `ChatDataset`; its rows need ``meta``.
        kinds: Kinds of turns to generate answers for; None for all. Relations need about 120 `max_new_tokens`, as their
            answers begin with the reasoning.
        rows: Largest number of conversations; the first usable ones are scored.
        batch_size: Prompts in one batch.
        max_new_tokens: Largest number of tokens of an answer; None allows a few more than the longest true answer of
            the kind has.
        generate: False generates no answers. All kinds are then scored by the loss, with two forward passes for each
            conversation, and accuracy is the share of correctly predicted answer tokens.
        progress: Show a progress bar.
    """
    seen, answer_losses = read_answers(vlm, tokenizer, dataset, rows=rows, batch_size=batch_size)
    if generate:
        with evaluating(vlm):
            asked = _questions(seen["image"], tokenizer, kinds, max_new_tokens)
            replies = _replies(vlm, tokenizer, seen, asked, batch_size, progress=progress)
        scores = _scores(seen["image"], asked, replies)
    else:
        scores = [
            Score(kind, name, len(right), float(np.mean(right)))
            for name, losses in answer_losses.items()
            for kind in dict.fromkeys(each.kind for each in losses)
            if (right := [each.right for each in losses if each.kind == kind])
        ]
    return [_with_loss(score, answer_losses) for score in scores]


@contextmanager
def evaluating(vlm: SpatialVLM) -> Iterator[None]:
    """Evaluation mode, without gradients."""
    was_training = vlm.training
    vlm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        vlm.train(was_training)


def read_answers(
    vlm: SpatialVLM, tokenizer: Any, dataset: RowDataset, *, rows: int, batch_size: int = 16
) -> tuple[dict[str, list[Conversation]], dict[str, list[AnswerLoss]]]:
    """Read held-out conversations with their own images (``image``) and with the mean features (``text``).

    Returns:
        The conversations, and the losses of their true answers. Both lists of losses are in the same order.

    Raises:
        SpatialBoostError: No held-out row can be used.
    """
    with evaluating(vlm):
        with_image = [_read(vlm, dataset, number, example) for number, example in dataset.usable(rows)]
        if not with_image:
            raise SpatialBoostError(
                f"no held-out row can be scored: {next(iter(dataset.skipped.values()), 'none given')}"
            )
        mean_1ND = torch.cat([each.patches_IND for each in with_image]).mean(0, keepdim=True)
        without = [replace(each, patches_IND=mean_1ND.expand_as(each.patches_IND)) for each in with_image]
        seen = {"image": with_image, "text": without}
        return seen, {name: answer_losses_of(vlm, tokenizer, chats, batch_size) for name, chats in seen.items()}


def _with_loss(score: Score, answer_losses: Mapping[str, Sequence[AnswerLoss]]) -> Score:
    values = [each.loss for each in answer_losses.get(score.answerer, ()) if each.kind == score.kind]
    return replace(score, loss=float(np.mean(values))) if values else score


def _read(vlm: SpatialVLM, dataset: RowDataset, number: int, example: dict[str, Tensor]) -> Conversation:
    make: Any = dataset.make_example
    row = dataset.rows[number]
    messages, kinds = make.chat(number, row)
    pixels = example["pixel_values"].to(next(vlm.parameters()).device)
    encoded = {name: value for name, value in example.items() if name not in ("pixel_values", "row")}
    patches_IND = read_tokens(vlm.encoder, pixels, layer=vlm.layer).patches
    return Conversation(messages, kinds, encoded, patches_IND, number)


def answer_losses_of(
    vlm: SpatialVLM, tokenizer: Any, chats: Sequence[Conversation], batch_size: int
) -> list[AnswerLoss]:
    """Loss and share of correctly predicted tokens of each true answer, given the text before it."""
    found: list[AnswerLoss] = []
    collate = Collator(tokenizer.pad_token_id)
    for start in range(0, len(chats), batch_size):
        part = chats[start : start + batch_size]
        batch = _to(collate([{**chat.encoded, "patch_features": chat.patches_IND} for chat in part]), vlm)
        out = vlm(**batch)
        losses = nn.functional.cross_entropy(out.logits.float(), out.targets, reduction="none")
        right = (out.logits.argmax(-1) == out.targets).float()
        learnt = batch["labels"][:, 1:] >= 0
        row, place = learnt.nonzero(as_tuple=True)
        turn = batch["turns"][row, place + 1]
        for r, chat in enumerate(part):
            for t in turn[row == r].unique().tolist():
                chosen = (row == r) & (turn == t)
                kind = chat.kinds[t] if t < len(chat.kinds) else ""
                found.append(AnswerLoss(start + r, kind, float(losses[chosen].mean()), float(right[chosen].mean())))
    return found


@dataclass(frozen=True)
class Question:
    """A question to generate an answer to.

    Attributes:
        chat: Number of its conversation among those that are scored.
        turn: Place of the question in it.
        kind: Kind of question.
        truth: The true answer.
        limit: Largest number of tokens of a reply.
    """

    chat: int
    turn: int
    kind: str
    truth: str
    limit: int


def _questions(
    chats: Sequence[Conversation], tokenizer: Any, kinds: Sequence[str] | None, limit: int | None
) -> list[Question]:
    """The questions of the chosen kinds, by kind, then by turn."""
    asked: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for i, chat in enumerate(chats):
        last = int(chat.encoded["turns"].max())  # later turns did not fit into max_length
        for turn, kind in enumerate(chat.kinds[: last + 1]):
            if kinds is None or kind in kinds:
                asked[kind].append((turn, i, chat.messages[2 * turn + 1]["content"]))
    found = []
    for kind, questions in asked.items():
        longest = limit or 8 + max(len(ids) for ids in tokenizer([truth for _, _, truth in questions])["input_ids"])
        ordered = sorted(questions, key=lambda question: question[0])
        found += [Question(i, turn, kind, truth, longest) for turn, i, truth in ordered]
    return found


def _replies(
    vlm: SpatialVLM,
    tokenizer: Any,
    seen: Mapping[str, Sequence[Conversation]],
    asked: Sequence[Question],
    batch_size: int,
    *,
    progress: bool,
) -> dict[str, list[str]]:
    """Way to answer -> greedy replies to all questions.

    Questions of all kinds share batches, so that these are full. Those with replies of about the same length are
    together (within a factor of two), and among them those of about the same prompt, which is longer with each turn.
    A reply is cut at the limit of its own kind.
    """
    collate = Collator(tokenizer.pad_token_id, padding_side="left")
    stops, endings = stop_tokens(tokenizer, vlm.llm), turn_endings(tokenizer)
    order = sorted(range(len(asked)), key=lambda place: (asked[place].limit.bit_length(), asked[place].turn))
    found: dict[str, list[str]] = {name: [""] * len(asked) for name in seen}
    with tqdm(total=len(seen) * len(asked), desc="answers", disable=not (progress and is_main())) as bar:
        for name, chats in seen.items():
            for start in range(0, len(order), batch_size):
                places = order[start : start + batch_size]
                part = [asked[place] for place in places]
                batch = _to(collate([chats[each.chat].prompt(each.turn) for each in part]), vlm)
                batch.pop("labels"), batch.pop("turns")
                new = vlm.generate(
                    **batch,
                    max_new_tokens=max(each.limit for each in part),
                    eos_token_id=stops or None,
                    pad_token_id=tokenizer.pad_token_id,
                )
                ids = [row[: each.limit] for row, each in zip(new, part, strict=True)]
                texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
                for place, text in zip(places, texts, strict=True):
                    found[name][place] = _cut(text, endings)
                bar.update(len(part))
    return found


def _scores(
    chats: Sequence[Conversation], asked: Sequence[Question], replies: Mapping[str, Sequence[str]]
) -> list[Score]:
    """For each kind, the score of each way to answer, and of the best constant answer."""
    scores = []
    for kind in dict.fromkeys(each.kind for each in asked):
        places = [place for place, each in enumerate(asked) if each.kind == kind]
        questions = [asked[place] for place in places]
        truths, groups = [each.truth for each in questions], [each.chat for each in questions]
        said = {name: [all_[place] for place in places] for name, all_ in replies.items()}
        said["guess"] = [scoring_of(kind).best_guess(truths)] * len(truths)
        found = [score_answers(kind, name, texts, truths, groups) for name, texts in said.items()]
        samples = [_sample(chats, questions[place], {n: t[place] for n, t in said.items()}) for place in _few(groups)]
        scores += [replace(each, samples=samples) if each.answerer == "image" else each for each in found]
    return scores


def _few(groups: Sequence[int]) -> list[int]:
    """Places of a few answers, of different conversations as far as there are."""
    first = {group: place for place, group in reversed(list(enumerate(groups)))}
    return [first[group] for group in sorted(first)][:MOST_SAMPLES]


def _sample(chats: Sequence[Conversation], question: Question, replies: dict[str, str]) -> Sample:
    chat, scoring = chats[question.chat], scoring_of(question.kind)
    asked = str(chat.messages[2 * question.turn]["content"]).replace(IMAGE, "").strip()
    right = {name: bool(scoring.right(reply, question.truth)) for name, reply in replies.items()}
    return Sample(chat.row, question.turn, question.kind, asked, question.truth, replies, right)


def _cut(reply: str, endings: Sequence[str]) -> str:
    """The reply up to an end of turn that is several tokens long, where generation does not stop."""
    for ending in endings:
        reply = reply.partition(ending.strip())[0]
    return reply


def score_answers(
    kind: str, answerer: str, replies: Sequence[str], truths: Sequence[str], groups: Sequence[int] | None = None
) -> Score:
    """Compare replies with the true answers.

    Example:
        >>> score = score_answers("depth", "image", ["The depth is 2.0 meters."], ["The depth is 2.500 meters."])
        >>> score.accuracy, score.relative_error, [round(end, 2) for end in score.interval]
        (1.0, 0.2, [0.21, 1.0])

    Args:
        kind: Kind of question.
        answerer: Way to answer.
        replies: The replies.
        truths: The true answers.
        groups: The conversation of each answer; None if each has its own.
    """
    scoring, pairs = scoring_of(kind), list(zip(replies, truths, strict=True))
    right = [bool(scoring.right(reply, truth)) for reply, truth in pairs]
    errors = [error for reply, truth in pairs if (error := scoring.error(reply, truth)) is not None]
    error = float(np.mean(errors)) if errors else None
    interval = accuracy_interval(right, range(len(right)) if groups is None else groups)
    return Score(kind, answerer, len(truths), float(np.mean(right)), error, interval=interval)


def accuracy_interval(right: Sequence[bool], groups: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of an accuracy, for answers in groups that resemble each other.

    Example:
        >>> [round(end, 3) for end in accuracy_interval([True] * 30 + [False] * 10, range(40))]
        [0.598, 0.858]
        >>> [round(end, 3) for end in accuracy_interval([True] * 30 + [False] * 10, [i // 10 for i in range(40)])]
        [0.26, 0.962]

    Answers of one conversation depend on each other, so ten answers of one conversation tell less than ten of ten. The
    number of answers is divided by the factor by which the variance over the conversations is larger than that of
    independent answers (the design effect of Kish). If all answers are right or all wrong, the number of conversations
    counts instead.

    Source: Wilson (1927) for the interval; Kish (1965) for the design effect.
    """
    values, number = np.asarray(right, float), np.asarray(groups)
    share, count, clusters = values.mean(), len(values), len(np.unique(number))
    spread = share * (1 - share) / max(1, count - 1)
    if spread and clusters > 1:
        sums = np.array([(values[number == each] - share).sum() for each in np.unique(number)])
        between = (sums**2).sum() / count**2 * clusters / (clusters - 1)
        count = max(count / max(1.0, between / spread), 1.0)
    else:
        count = clusters
    square = _NORMAL_95**2 / count
    middle, half = (share + square / 2) / (1 + square), _NORMAL_95 / (1 + square)
    half *= (share * (1 - share) / count + square / 4 / count) ** 0.5
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _to(batch: dict[str, Tensor], vlm: SpatialVLM) -> dict[str, Tensor]:
    device = next(vlm.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}
