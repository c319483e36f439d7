"""Whether a language model answers from the image: the condition for it to teach an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialboost.paired import signed_rank_p
from spatialboost.teachers.language.accuracy import (
    AnswerLoss,
    Conversation,
    answer_losses_of,
    evaluating,
    read_answers,
)
from spatialboost.teachers.protocol import Readiness

if TYPE_CHECKING:
    from spatialboost.training.data import RowDataset
    from spatialboost.vlm.model import SpatialVLM

_LEVEL = 0.05  # largest probability of the difference by chance
_FEWEST = 6  # conversations; with fewer, even a model that is better in each of them could be so by chance


def measure_readiness(
    vlm: SpatialVLM, tokenizer: Any, rows: RowDataset, *, limit: int, kinds: Sequence[str] | None, required: bool
) -> Readiness:
    """Compare the losses of true answers given the image with those given other features.

    The answers must be better than with the mean features of all images, and better than with the image of another
    conversation. The first alone does not tell: mean features are unlike those of any image, so that a model which does
    not use them can prefer either. The second alone does not tell, as a model that learnt its training images by heart
    is sure of wrong answers to others.

    The questions of one conversation depend on each other, so the conversation is the unit of the tests: the mean
    difference of its answers, in a one-sided signed-rank test of Wilcoxon over the conversations.

    Args:
        vlm: The model, before the stage.
        tokenizer: Tokenizer of the language model.
        rows: Held-out conversations.
        limit: Largest number of conversations.
        kinds: Kinds of turn that the stage asks; None for all.
        required: Whether the stage is refused if the model is not ready.

    Raises:
        SpatialBoostError: No held-out row can be used.
    """
    seen, losses = read_answers(vlm, tokenizer, rows, rows=limit)
    with evaluating(vlm):
        swapped = answer_losses_of(vlm, tokenizer, _with_images_of_others(seen["image"]), 16)
    pairs = [
        (image, (mean.loss - image.loss, other.loss - image.loss))
        for image, mean, other in zip(losses["image"], losses["text"], swapped, strict=True)
        if kinds is None or image.kind in kinds
    ]
    found = {
        kind: _compare([(each, gains) for each, gains in pairs if each.kind == kind])
        for kind in dict.fromkeys(each.kind for each, _ in pairs)
    }
    total = _compare(pairs)
    count, gain, p = int(total["conversations"]), total["gain"], total["p"]
    ready = count >= _FEWEST and p <= _LEVEL
    told = (
        f"the loss is {_words(gain)} than with the mean image and {_words(total['gain_other'])} than with another "
        f"image (p = {p:.3f}, {count} conversations)"
    )
    if count < _FEWEST:
        told = f"{count} held-out conversations are too few to tell, expected at least {_FEWEST}"
    weak = [kind for kind, each in found.items() if each["p"] > _LEVEL]
    if ready and weak and len(weak) < len(found):
        told += f"; this is not so for {', '.join(weak)}: leave these kinds out with `turns`"
    verdict = "answers better" if ready else "does not answer better"
    reason = f"the language model {verdict} from the image than without it: {told}"
    return Readiness(found, ready, reason, required)


def _with_images_of_others(chats: Sequence[Conversation]) -> list[Conversation]:
    """Each conversation with the images of the next one that has as many."""
    found = []
    for number, chat in enumerate(chats):
        others = (*chats[number + 1 :], *chats[:number])
        shape = chat.patches_IND.shape
        other = next((each for each in others if each.patches_IND.shape == shape), chat)
        found.append(replace(chat, patches_IND=other.patches_IND))
    return found


def _words(gain: float) -> str:
    return f"{abs(gain):.4f} {'lower' if gain > 0 else 'higher'}"


def _compare(pairs: Sequence[tuple[AnswerLoss, tuple[float, float]]]) -> dict[str, float]:
    """The mean gains of the conversations, and the larger of the probabilities that they are not above zero."""
    numbers = sorted({each.conversation for each, _ in pairs})
    gains_C2 = np.array(
        [np.mean([gains for each, gains in pairs if each.conversation == number], axis=0) for number in numbers]
    ).reshape(-1, 2)
    # Without any difference, the model ignores its visual tokens
    tested = [signed_rank_p(gains_C, "greater") for gains_C in gains_C2.T]
    mean, other = gains_C2.mean(0).tolist() if len(numbers) else (0.0, 0.0)
    return {"conversations": len(numbers), "gain": mean, "gain_other": other, "p": max(tested)}
