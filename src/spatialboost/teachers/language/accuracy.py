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
from spatialboost.teachers.protocol import Score
from spatialboost.training.data import RowDataset
from spatialboost.training.processes import is_main
from spatialboost.vlm.chat import stop_tokens, turn_endings
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.model import SpatialVLM

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
    """

    messages: list[dict[str, Any]]
    kinds: list[str]
    encoded: dict[str, Tensor]
    patches_IND: Tensor

    def prompt(self, turn: int) -> dict[str, Tensor]:
        """The tokens before an answer, the same as in training.

        A chat template may write the last answer otherwise than its generation prompt begins (Qwen3 does), and a token
        may contain the blank before an answer and its first word.
        """
        first = int((self.encoded["turns"] == turn).nonzero()[0])
        part = {name: value[:first] for name, value in self.encoded.items()}
        shown = int(part["visual_mask"].sum()) // self.patches_IND.shape[1]
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
            scores = _generated(
                vlm, tokenizer, seen, kinds, batch_size, max_new_tokens=max_new_tokens, progress=progress
            )
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
    return Conversation(messages, kinds, encoded, patches_IND)


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


def _questions(chats: Sequence[Conversation], kinds: Sequence[str] | None) -> dict[str, list[tuple[int, int, str]]]:
    """Kind -> (conversation, turn, true answer) of each question, sorted by turn, so similar lengths are together."""
    asked: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for i, chat in enumerate(chats):
        last = int(chat.encoded["turns"].max())  # later turns did not fit into max_length
        for turn, kind in enumerate(chat.kinds[: last + 1]):
            if kinds is None or kind in kinds:
                asked[kind].append((i, turn, chat.messages[2 * turn + 1]["content"]))
    return {kind: sorted(questions, key=lambda question: question[1]) for kind, questions in asked.items()}


def _generated(
    vlm: SpatialVLM,
    tokenizer: Any,
    seen: dict[str, list[Conversation]],
    kinds: Sequence[str] | None,
    batch_size: int,
    *,
    max_new_tokens: int | None,
    progress: bool,
) -> list[Score]:
    asked = _questions(seen["image"], kinds)
    scores = []
    collate = Collator(tokenizer.pad_token_id, padding_side="left")
    stops, endings = stop_tokens(tokenizer, vlm.llm), turn_endings(tokenizer)
    with tqdm(total=2 * sum(map(len, asked.values())), desc="answers", disable=not (progress and is_main())) as bar:
        for kind, questions in asked.items():
            truths = [truth for _, _, truth in questions]
            longest = max_new_tokens or 8 + max(len(ids) for ids in tokenizer(truths)["input_ids"])
            for name, chats in seen.items():
                replies: list[str] = []
                for start in range(0, len(questions), batch_size):
                    part = questions[start : start + batch_size]
                    batch = _to(collate([chats[i].prompt(turn) for i, turn, _ in part]), vlm)
                    batch.pop("labels"), batch.pop("turns")
                    new = vlm.generate(
                        **batch,
                        max_new_tokens=longest,
                        eos_token_id=stops or None,
                        pad_token_id=tokenizer.pad_token_id,
                    )
                    replies += [_cut(reply, endings) for reply in tokenizer.batch_decode(new, skip_special_tokens=True)]
                    bar.update(len(part))
                scores.append(score_answers(kind, name, replies, truths))
            guess = scoring_of(kind).best_guess(truths)
            scores.append(score_answers(kind, "guess", [guess] * len(truths), truths))
    return scores


def _cut(reply: str, endings: Sequence[str]) -> str:
    """The reply up to an end of turn that is several tokens long, where generation does not stop."""
    for ending in endings:
        reply = reply.partition(ending.strip())[0]
    return reply


def score_answers(kind: str, answerer: str, replies: Sequence[str], truths: Sequence[str]) -> Score:
    """Compare replies with the true answers.

    Example:
        >>> score_answers("depth", "image", ["The depth is 2.0 meters."], ["The depth is 2.500 meters."])
        Score(kind='depth', answerer='image', answers=1, accuracy=1.0, relative_error=0.2, loss=None)
    """
    scoring, pairs = scoring_of(kind), list(zip(replies, truths, strict=True))
    accuracy = float(np.mean([scoring.right(reply, truth) for reply, truth in pairs]))
    errors = [error for reply, truth in pairs if (error := scoring.error(reply, truth)) is not None]
    return Score(kind, answerer, len(truths), accuracy, float(np.mean(errors)) if errors else None)


def _to(batch: dict[str, Tensor], vlm: SpatialVLM) -> dict[str, Tensor]:
    device = next(vlm.parameters()).device
    return {name: value.to(device) for name, value in batch.items()}
