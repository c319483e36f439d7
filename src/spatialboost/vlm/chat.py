"""Conversations as token ids, with the positions of visual tokens and of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.image_prompt import IMAGE, ImagePrompt

# Shape legend: L tokens of one conversation, including visual tokens.

IGNORE = -100  # label that torch's cross entropy and transformers ignore

# Replaces the content of a message to find its position in the template's text. Uses Unicode's private use area.
_MARK = "\ue000{}\ue001"

Message = Mapping[str, Any]


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Any,
    *,
    num_visual_tokens: int | Sequence[int] | ImagePrompt = 0,
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
        num_visual_tokens: Number of visual tokens: one number for all images, one for each image, or an `ImagePrompt`,
            which also puts names between them. It does not change the contents (`ImagePrompt.reworded` does).
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
    plain = plain_messages(messages)
    marked = [{"role": message["role"], "content": _MARK.format(i)} for i, message in enumerate(plain)]
    options = {"add_generation_prompt": add_generation_prompt}
    pieces = _pieces(marked, tokenizer, **options)
    endings = _endings(marked, pieces, tokenizer)
    text, answers = "", []
    for i, message in enumerate(plain):
        text += pieces[i]
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            answers.append((start, len(text) + len(endings[i])))
    text += pieces[-1]
    if text != _render(plain, tokenizer, **options):
        raise SpatialBoostError(
            "the chat template does not keep the messages as they are (it may trim or drop parts of them), so the "
            "answers cannot be located. Remove blanks at the start and end of the contents, or set another "
            "`tokenizer.chat_template`"
        )
    return text, answers


def stop_tokens(tokenizer: Any, llm: Any) -> list[int]:
    """Ids of all tokens that end an answer: of the chat template, the tokenizer and the model's generation settings.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> llm, tokenizer = build_small_llm([[{"role": "user", "content": "How deep?"}]], width=32, layers=1, heads=2)
        >>> tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer, llm))
        ['<|end|>']
    """
    settings = getattr(llm, "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(found if isinstance(found, (list, tuple)) else [found])}
    for ending in turn_endings(tokenizer):
        pieces = tokenizer(ending.strip(), add_special_tokens=False)["input_ids"]
        ids |= set(pieces) if len(pieces) == 1 else set()
    return sorted(each for each in ids if each is not None)


def turn_endings(tokenizer: Any) -> list[str]:
    """The texts that a chat template puts after an answer, in the middle of a conversation and at its end."""
    marked = [{"role": role, "content": _MARK.format(i)} for i, role in enumerate(["user", "assistant"] * 2)]
    found = _endings(marked, _pieces(marked, tokenizer), tokenizer)
    return sorted({ending for ending in found if ending})


def plain_messages(messages: Any) -> list[dict[str, str]]:
    """Messages with a role and one string each; in a content that is a list of parts, an image becomes ``<image>``.

    Raises:
        SpatialBoostError: There are no messages, or one of them has no role or no readable content.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not len(messages):
        raise SpatialBoostError(f"messages are {_short(messages)}; expected a list of at least one message")
    plain = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise SpatialBoostError(
                f"message {i} is {_short(message)}; expected a dictionary with `role` and `content`"
            )
        plain.append({"role": message["role"], "content": _text(message.get("content"), i)})
    return plain


def _text(content: Any, number: int) -> str:
    """A content as one string."""
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, Sequence):
        raise SpatialBoostError(
            f"the content of message {number} is {_short(content)}; expected a text or a list of parts"
        )
    found = [_part(part) for part in parts]
    if None in found:
        wrong = _short(parts[found.index(None)])
        raise SpatialBoostError(
            f"a part of message {number} is {wrong}; expected {{type: image}} or {{type: text, text: ...}}"
        )
    return "".join(text for text in found if text is not None)


def _part(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (None, None)
    if kind == "image":
        return IMAGE
    return text if kind == "text" and isinstance(text, str) else None


def _short(value: Any) -> str:
    return repr(value)[:80]


def _render(messages: Sequence[Message], tokenizer: Any, **options: Any) -> str:
    """The text of the chat template."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
    except TemplateError as error:  # a template refuses some roles, or some orders of roles
        roles = ", ".join(message["role"] for message in messages)
        raise SpatialBoostError(f"the chat template refuses messages of the roles {roles}: {error}") from None


def _pieces(marked: Sequence[Message], tokenizer: Any, **options: Any) -> list[str]:
    """The text of the template before each message, and after the last one; the contents of messages are marks."""
    pieces: list[str] = []
    rest = _render(marked, tokenizer, **options)
    for message in marked:
        piece, found, rest = rest.partition(message["content"])
        if not found:
            raise SpatialBoostError(
                f"the chat template leaves out message {len(pieces)} ({message['role']}): set another "
                "`tokenizer.chat_template`"
            )
        pieces.append(piece)
    return [*pieces, rest]


def _endings(marked: Sequence[Message], pieces: Sequence[str], tokenizer: Any) -> list[str]:
    """The end of turn after each message that is an answer, without the line break after it; "" after the others.

    The text between an answer and the next message is the end of turn and the head of that message. The end of turn is
    the part with which the conversation up to the last answer also ends ("<|im_end|>\\n" in ChatML). Some templates end
    a conversation otherwise than a turn; there it is the text up to the first special token.
    """
    answers = [i for i, message in enumerate(marked) if message["role"] == "assistant"]
    if not answers:
        return [""] * len(marked)
    tail = _pieces(marked[: answers[-1] + 1], tokenizer)[-1]
    special = sorted({*tokenizer.all_special_tokens, *map(str, tokenizer.get_added_vocab())}, key=len, reverse=True)
    endings = [""] * len(marked)
    for i in answers:
        after = pieces[i + 1]
        other = tail if after != tail else _piece_before_a_question(marked[: i + 1], tokenizer) or tail
        endings[i] = _ending(after, other, special)
    return endings


def _piece_before_a_question(marked: Sequence[Message], tokenizer: Any) -> str | None:
    """What the template puts between the last message and another question; None if no question may follow."""
    try:
        return _pieces([*marked, {"role": "user", "content": _MARK.format(len(marked))}], tokenizer)[-2]
    except SpatialBoostError:
        return None


def _ending(after: str, other: str, special: Sequence[str]) -> str:
    """The end of turn in the text `after` an answer; `other` is the text after an answer in another place."""
    common = _shared(after, other)
    if common not in (after, other):  # Phi-3: "<|end|>\n<|user|>" and "<|end|>\n<|endoftext|>" share "<|end|>\n<|"
        cut = [
            at
            for token in special
            for at in range(len(common))
            if after.startswith(token, at) and at + len(token) > len(common)
        ]
        common = common[: min(cut, default=common.rfind("\n") + 1)]
    if common.strip() or not other.strip():
        return common.rstrip()
    start = len(after) - len(after.lstrip())
    first = next((token for token in special if after.startswith(token, start)), "")
    return after[: start + len(first)] if first else ""


def _shared(first: str, second: str) -> str:
    """The longest beginning that two texts share."""
    length = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return first[: min(len(first), len(second)) if length is None else length]


def _tokenize(text: str, tokenizer: Any, num_visual_tokens: int | Sequence[int] | ImagePrompt) -> tuple[list[int], ...]:
    """Token ids, and the start and stop of each token in the text.

    Both are -1 for a visual token, and 0 for a token of the text that an `ImagePrompt` puts between visual tokens.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise SpatialBoostError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer")
    segments = text.split(IMAGE)
    images = [[], *_pieces_of_images(num_visual_tokens, len(segments) - 1)]
    within = [piece for pieces in images for piece, _ in pieces if piece]
    encoded = tokenizer([*segments, *within], add_special_tokens=False, return_offsets_mapping=True)
    placeholder = tokenizer.pad_token_id or 0  # the id does not matter: its embedding is replaced
    ids: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    offset, between = 0, len(segments)
    for i, segment in enumerate(segments):
        for piece, count in images[i]:
            known = encoded["input_ids"][between] if piece else []
            between += bool(piece)
            ids += [*known, *[placeholder] * count]
            for ends in (starts, stops):
                ends += [*[0] * len(known), *[-1] * count]
        ids += encoded["input_ids"][i]
        starts += [start + offset for start, _ in encoded["offset_mapping"][i]]
        stops += [stop + offset for _, stop in encoded["offset_mapping"][i]]
        offset += len(segment) + len(IMAGE)
    return ids, starts, stops


def _pieces_of_images(wanted: int | Sequence[int] | ImagePrompt, num_images: int) -> list[list[tuple[str, int]]]:
    """For each image: the text before each group of its visual tokens, and their number."""
    if isinstance(wanted, ImagePrompt):
        return [wanted.pieces(i, num_images) for i in range(num_images)]
    counts = [wanted] * num_images if isinstance(wanted, int) else list(wanted)
    if len(counts) != num_images:
        raise SpatialBoostError(f"the messages have {num_images} {IMAGE} marks, but there are {len(counts)} images")
    return [[("", count)] for count in counts]


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
