"""Checks of a language model and its tokenizer before they are trained: vocabulary, end of turn, longest sequence."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import IMAGE, plain_messages, render_chat, stop_tokens, turn_endings

logger = logging.getLogger(__name__)

MOST_CONVERSATIONS = 256  # largest number of conversations that are read for the check of the vocabulary
FEW_UNKNOWN, MANY_UNKNOWN = 0.01, 0.1  # share of unknown tokens in the answers: more than this is warned of, an error


def num_positions(llm: Any) -> int | None:
    """The longest sequence that a language model was made for; None if its configuration does not say.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> num_positions(build_small_llm([], width=32, layers=1, heads=2, max_length=64)[0])
        64
    """
    config = llm.config.get_text_config() if hasattr(llm.config, "get_text_config") else llm.config
    found = getattr(config, "max_position_embeddings", None)  # GPT-2's `n_positions` has this name, too
    return found if isinstance(found, int) and found > 0 else None


def word_scale(llm: Any) -> float:
    """By what a language model multiplies the embeddings of tokens, but not embeddings that it is given.

    Most models do not multiply, do it in the embedding module (Gemma), or do it with both (Granite). Falcon-H1 does it
    with tokens only, so words that are given as embeddings would be too small for it.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> word_scale(build_small_llm([], width=32, layers=1, heads=2)[0])
        1.0
    """
    factor = getattr(llm.config, "embedding_multiplier", None)
    if not isinstance(factor, (int, float)) or factor == 1 or llm.get_input_embeddings().weight.is_meta:
        return 1.0
    return 1.0 if _difference(llm, 1.0) <= _difference(llm, factor) else float(factor)


def check_embeddings(llm: Any) -> None:
    """Check that a language model takes embeddings in the place of tokens, as visual tokens need it.

    Raises:
        SpatialBoostError: It does not, or reads words that are given as embeddings otherwise.
    """
    try:
        difference = _difference(llm, word_scale(llm))
    except (TypeError, ValueError, AttributeError) as error:  # what models raise that do not take embeddings
        reason = " ".join(str(error).split())[:200]
        raise SpatialBoostError(
            f"{type(llm).__name__} takes no `inputs_embeds`, as which images enter a language model ({reason}): use "
            "another language model"
        ) from None
    if difference > 0.05:
        raise SpatialBoostError(
            f"{type(llm).__name__} reads words that are given as embeddings otherwise than words that are given as "
            f"tokens (the logits differ by {difference:.0%}), so images cannot enter it: use another language model"
        )


@torch.no_grad()
def _difference(llm: Any, scale: float) -> float:
    """The largest difference of logits for tokens and for their embeddings, as a share of the largest logit."""
    table, was_training = llm.get_input_embeddings(), llm.training
    length = min(5, num_positions(llm) or 5)
    ids: Tensor = torch.linspace(0, len(table.weight) - 1, length, device=table.weight.device).long()[None]
    llm.eval()
    try:
        tokens = llm(input_ids=ids, use_cache=False).logits.float()
        given = llm(inputs_embeds=table(ids) * scale, use_cache=False).logits.float()
    finally:
        llm.train(was_training)
    return float((tokens - given).abs().max() / tokens.abs().max().clamp_min(1e-12))


def check_tokenizer(llm: Any, tokenizer: Any, name: object) -> None:
    """Give the tokenizer a padding token if it has none, and check that the model has an embedding for each token.

    Raises:
        SpatialBoostError: The tokenizer belongs to another model.
    """
    if tokenizer.pad_token is None:  # padding is masked, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    rows = llm.get_input_embeddings().weight.shape[0]
    added, needed = tokenizer.get_added_vocab(), (tokenizer.eos_token_id, tokenizer.pad_token_id)
    # Some tokenizers have added tokens, for images say, that only a larger model of the family has embeddings for
    without = [
        token
        for token, number in tokenizer.get_vocab().items()
        if number >= rows and (token not in added or number in needed)
    ]
    if without:
        raise SpatialBoostError(
            f'the tokenizer of "{name}" does not belong to its weights: it has {len(tokenizer)} tokens, and the model '
            f"has embeddings for {rows}, none for {without[0]!r}. Use the tokenizer that the model was trained with"
        )


def check_chats(llm: Any, tokenizer: Any, conversations: Iterable[Sequence[Any]]) -> None:
    """Check that the model can read and learn some conversations.

    Raises:
        SpatialBoostError: Too many tokens of the answers are unknown, a token has no embedding, or nothing ends an
            answer.
    """
    endings = turn_endings(tokenizer)
    if not endings:
        if not stop_tokens(tokenizer, llm):
            raise SpatialBoostError(
                "nothing ends an answer: the chat template has no end of turn, and neither the tokenizer nor the "
                "generation config has an end-of-text token. Set `eos_token` in tokenizer_config.json"
            )
        logger.warning("the chat template has no end of turn, so the model does not learn where an answer ends")
    rows = llm.get_input_embeddings().weight.shape[0]
    known = unknown = 0
    example = ""
    for messages in islice(conversations, MOST_CONVERSATIONS):
        try:
            plain = plain_messages(messages)
            text, _ = render_chat(plain, tokenizer)
        except SpatialBoostError:
            continue  # training reports bad rows when it reads them
        ids = tokenizer(text.replace(IMAGE, ""), add_special_tokens=False)["input_ids"]
        if max(ids, default=0) >= rows:
            raise SpatialBoostError(
                f"the token {tokenizer.convert_ids_to_tokens(max(ids))!r} has number {max(ids)}, and the model has "
                f"embeddings for {rows} tokens: use the tokenizer that the model was trained with"
            )
        for answer in (message["content"] for message in plain if message["role"] == "assistant"):
            ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
            bad = sum(number == tokenizer.unk_token_id for number in ids) if tokenizer.unk_token_id is not None else 0
            known, unknown = known + len(ids) - bad, unknown + bad
            example = example or (answer if bad else "")
    share = unknown / max(1, known + unknown)
    text = (
        f"{share:.0%} of the answers' tokens are unknown to the tokenizer, as in {example[:80]!r}, so the model cannot "
        "learn these answers: use a language model whose tokenizer has these words"
    )
    if share > MANY_UNKNOWN:
        raise SpatialBoostError(text)
    if share > FEW_UNKNOWN:
        logger.warning("%s", text)
