"""Conversations as token ids, with the positions of visual tokens and of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError

# Shape legend: L tokens of one conversation, including visual tokens.

IMAGE = "<image>"
IGNORE = -100  # label that torch's cross entropy and transformers ignore

# Replaces the content of a message to find its position in the template's text. Uses Unicode's private use area.
_MARK = "\ue000{}\ue001"

Message = Mapping[str, Any]


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    num_visual_tokens: int | Sequence[int] = 0,
    max_length: int | None = None,
    add_generation_prompt: bool = False,
) -> dict[str, Tensor]:
    """Turn a conversation into token ids, labels on its answers only, and the positions of visual tokens.

    Example:
        >>> from spatialboost.vlm.llms import build_tokenizer
        >>> messages = [{"role": "user", "content": "<image>\\nHow deep?"}, {"role": "assistant", "content": "2.341 m"}]
        >>> encoded = encode_chat(messages, build_tokenizer([messages]), num_visual_tokens=4)
        >>> encoded["visual_mask"].sum().item(), (encoded["labels"] >= 0).sum().item()
        (4, 5)

    An answer is the text of the assistant and the end-of-turn token, if the chat template has one. Answers are located
    in the text of the template, then matched to tokens by the tokenizer's character offsets. A token that contains any
    part of an answer is labelled, also if it contains other text too.

    Args:
        messages: Messages in chat format; each ``<image>`` in a content stands for one image.
        tokenizer: A fast tokenizer with a chat template.
        num_visual_tokens: Number of visual tokens: one number for all images, or one for each image.
        max_length: Largest number of tokens; turns that do not fit are left out.
        add_generation_prompt: End with the generation prompt of the template; the messages then need no answer.

    Returns:
        ``input_ids``, ``labels`` (-100 outside the answers), ``visual_mask`` (bool) and ``turns`` (number of the
        answer that a token belongs to, from 0; -1 elsewhere), each ``(L,)``.
    """
    text, answers = render_chat(messages, tokenizer, add_generation_prompt=add_generation_prompt)
    if not answers and not add_generation_prompt:
        raise SpatialBoostError("the conversation has no assistant message, so it has no answer to train on: add one")
    ids, starts, stops = _tokenize(text, tokenizer, num_visual_tokens)
    input_ids, start, stop = torch.tensor(ids, dtype=torch.long), torch.tensor(starts), torch.tensor(stops)
    turns = torch.full_like(input_ids, -1)
    for turn, (first, last) in enumerate(answers):
        turns[(start < last) & (stop > first) & (stop > start)] = turn
    labels = torch.where(turns >= 0, input_ids, IGNORE)
    visual_mask = stop < 0
    labels[visual_mask], turns[visual_mask] = IGNORE, -1
    encoded = {"input_ids": input_ids, "labels": labels, "visual_mask": visual_mask, "turns": turns}
    if max_length is None or len(input_ids) <= max_length:
        return encoded
    keep = _whole_turns(turns, max_length)
    return {name: value[:keep] for name, value in encoded.items()}


def render_chat(
    messages: Sequence[Message], tokenizer: Any, *, add_generation_prompt: bool = False
) -> tuple[str, list[tuple[int, int]]]:
    """The text of the chat template, and the character span of each answer with its end-of-turn token.

    Example:
        >>> from spatialboost.vlm.llms import build_tokenizer
        >>> messages = [{"role": "user", "content": "How deep?"}, {"role": "assistant", "content": "2.341 m"}]
        >>> text, [(start, stop)] = render_chat(messages, build_tokenizer([messages]))
        >>> text[start:stop]
        '2.341 m<|end|>'

    The template is rendered twice: with marks instead of the contents, and with the contents. If the two results do not
    agree, the template changes the contents, and an error is raised.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise SpatialBoostError(
            f"{type(tokenizer).__name__} has no chat template: use an instruction-tuned language model or set "
            "`tokenizer.chat_template`"
        )
    plain = [{"role": message["role"], "content": _text(message["content"])} for message in messages]
    marked = [{"role": message["role"], "content": _MARK.format(i)} for i, message in enumerate(plain)]
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    pieces, rest = [], tokenizer.apply_chat_template(marked, **options)
    for i, message in enumerate(plain):
        piece, found, rest = rest.partition(_MARK.format(i))
        if not found:
            raise SpatialBoostError(
                f"the chat template leaves out message {i} ({message['role']}): set another `tokenizer.chat_template`"
            )
        pieces.append(piece)
    pieces.append(rest)

    # The text after the last answer is the end-of-turn token, "<|im_end|>\n" in ChatML. The line break is removed.
    speakers = [message["role"] for message in plain]
    ending = ""
    if "assistant" in speakers:
        last = len(speakers) - 1 - speakers[::-1].index("assistant")
        whole = tokenizer.apply_chat_template(marked[: last + 1], tokenize=False)
        ending = whole.partition(_MARK.format(last))[2].rstrip()
    text, answers = "", []
    for i, message in enumerate(plain):
        text += pieces[i]
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            ends_turn = pieces[i + 1].startswith(ending)
            answers.append((start, len(text) + len(ending) * ends_turn))
    text += rest
    if text != tokenizer.apply_chat_template(plain, **options):
        raise SpatialBoostError(
            "the chat template does not keep the messages as they are (it may trim or drop parts of them), so the "
            "answers cannot be located. Remove blanks at the start and end of the contents, or set another "
            "`tokenizer.chat_template`"
        )
    return text, answers


def _text(content: Any) -> str:
    """A content as one string. In a content that is a list of parts, an image part becomes ``<image>``."""
    if isinstance(content, str):
        return content
    return "".join(IMAGE if part["type"] == "image" else part["text"] for part in content)


def _tokenize(text: str, tokenizer: Any, num_visual_tokens: int | Sequence[int]) -> tuple[list[int], ...]:
    """Token ids, and the start and stop of each token in the text; both are -1 for a visual token."""
    if not getattr(tokenizer, "is_fast", False):
        raise SpatialBoostError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer")
    segments = text.split(IMAGE)
    num_images = len(segments) - 1
    counts = [num_visual_tokens] * num_images if isinstance(num_visual_tokens, int) else list(num_visual_tokens)
    if len(counts) != num_images:
        raise SpatialBoostError(f"the messages have {num_images} {IMAGE} marks, but there are {len(counts)} images")
    encoded = tokenizer(segments, add_special_tokens=False, return_offsets_mapping=True)
    placeholder = tokenizer.pad_token_id or 0  # the id does not matter: its embedding is replaced
    ids: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    offset = 0
    for i, segment in enumerate(segments):
        ids += encoded["input_ids"][i]
        starts += [start + offset for start, _ in encoded["offset_mapping"][i]]
        stops += [stop + offset for _, stop in encoded["offset_mapping"][i]]
        offset += len(segment) + len(IMAGE)
        if i < num_images:
            ids += [placeholder] * counts[i]
            starts += [-1] * counts[i]
            stops += [-1] * counts[i]
    return ids, starts, stops


def _whole_turns(turns: Tensor, max_length: int) -> int:
    """Position after the last answer that ends within `max_length` tokens."""
    is_end = (turns >= 0) & (torch.cat([turns[1:], turns.new_tensor([-1])]) != turns)
    ends = is_end.nonzero()[:, 0] + 1
    fitting = ends[ends <= max_length]
    if not len(fitting):
        raise SpatialBoostError(
            f"not even the first answer fits into {max_length} tokens (it ends at {ends[:1].tolist()}): "
            "increase max_length or give fewer or smaller images"
        )
    return int(fitting[-1])
