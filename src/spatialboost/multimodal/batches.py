"""Conversations with frames as the inputs of a vision-language model, by the model's own processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal.conversations import IMAGE, Sample
from spatialboost.multimodal.frames import crop
from spatialboost.vlm.chat import IGNORE

MAX_LENGTH = 16384  # tokens of a conversation, as in Spa3-VLM


class InstructionCollator:
    """Samples as one batch for training: the processor's tensors, labels on the answers, and the frames as `views`.

    Args:
        processor: The processor of the vision-language model.
        max_length: Most tokens of a conversation.
    """

    def __init__(self, processor: Any, *, max_length: int = MAX_LENGTH) -> None:
        self.processor, self.max_length = processor, max_length

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The batch.

        Raises:
            SpatialBoostError: A conversation is too long, or its answers cannot be located.
        """
        texts = [render(self.processor, sample) for sample in samples]
        batch = encode(self.processor, texts, samples, padding_side="right")
        length = batch["input_ids"].shape[1]
        if length > self.max_length:
            raise SpatialBoostError(
                f"a conversation of {', '.join(sample.name for sample in samples)} has {length} tokens, of at most "
                f"{self.max_length}: give fewer or smaller frames, or raise `max_length`"
            )
        labels = torch.full_like(batch["input_ids"], IGNORE)
        for i, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            used = int(batch["attention_mask"][i].sum())
            _label(labels[i, :used], batch["input_ids"][i, :used], self.processor, sample, text)
        return {**batch, "labels": labels, "views": [sample.frames for sample in samples]}


def encode(
    processor: Any, texts: Sequence[str], samples: Sequence[Sample], *, padding_side: str, blind: bool = False
) -> dict[str, Any]:
    """The processor's tensors for some texts and the frames of their samples.

    Args:
        processor: The processor of the vision-language model.
        texts: From `render`.
        samples: One for each text.
        padding_side: ``right`` for training, ``left`` for generation.
        blind: Leave the frames out.
    """
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    inputs: dict[str, Any] = {"text": list(texts), "padding": True, "return_tensors": "pt"}
    inputs["padding_side"] = padding_side  # some processors have a side of their own
    if not blind and any(sample.frames for sample in samples):
        multiple = _multiple(processor)
        inputs["images"] = [[Image.fromarray(crop(frame, multiple)) for frame in sample.frames] for sample in samples]
    return dict(processor(**inputs))


def render(processor: Any, sample: Sample, *, ask: bool = False, blind: bool = False) -> str:
    """The text of the processor's chat template for a sample.

    Args:
        processor: The processor of the vision-language model.
        sample: The conversation.
        ask: End with the beginning of an answer.
        blind: Leave the marks of frames out.

    Raises:
        SpatialBoostError: The processor has no chat template.
    """
    return _rendered(processor, sample.messages, ask=ask, blind=blind)


def _rendered(processor: Any, messages: Sequence[dict[str, str]], *, ask: bool, blind: bool = False) -> str:
    if getattr(processor, "chat_template", None) is None:
        raise SpatialBoostError(
            f"{type(processor).__name__} has no chat template: take an instruction-tuned model, or set "
            "`processor.chat_template`"
        )
    parts = [{"role": message["role"], "content": _parts(message["content"], blind)} for message in messages]
    return processor.apply_chat_template(parts, tokenize=False, add_generation_prompt=ask)


def _parts(text: str, blind: bool) -> list[dict[str, str]]:
    """A content as the parts that chat templates of vision-language models expect."""
    parts: list[dict[str, str]] = []
    for i, piece in enumerate(text.split(IMAGE)):
        if i and not blind:
            parts.append({"type": "image"})
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def _label(labels_L: Tensor, ids_L: Tensor, processor: Any, sample: Sample, text: str) -> None:
    """Copy the ids of the answers into the labels of a row, in place.

    The processor replaces each mark of an image by many tokens, so the positions of answers are counted from the end,
    where the tokens are those of the text.
    """
    spans = answer_spans(processor, sample, text)
    tokenizer = processor.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise SpatialBoostError(f"{type(tokenizer).__name__} gives no character offsets: use a fast tokenizer")
    plain = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [any(a < stop and b > start and b > a for start, stop in spans) for a, b in plain["offset_mapping"]]
    if True not in inside:
        raise SpatialBoostError(f"{sample.name} has no answer to train on: add a message of the assistant")
    tail = len(inside) - inside.index(True)
    if ids_L[-tail:].tolist() != plain["input_ids"][-tail:]:
        raise SpatialBoostError(
            f"the answers of {sample.name} cannot be located among the tokens of {type(processor).__name__}: put all "
            f"{IMAGE} marks before the first answer"
        )
    chosen_L = torch.tensor(inside[-tail:])
    labels_L[-tail:][chosen_L] = ids_L[-tail:][chosen_L]


def answer_spans(processor: Any, sample: Sample, text: str) -> list[tuple[int, int]]:
    """Start and stop of each answer with its end of turn, in the characters of the rendered text.

    Raises:
        SpatialBoostError: The template does not render a conversation as the beginning of a longer one.
    """
    spans = []
    for i, message in enumerate(sample.messages):
        if message["role"] != "assistant":
            continue
        head = _rendered(processor, sample.messages[:i], ask=True)
        whole = _rendered(processor, sample.messages[: i + 1], ask=False)
        if not text.startswith(head) or not text.startswith(whole) or len(whole) <= len(head):
            raise SpatialBoostError(
                f"the chat template of {type(processor).__name__} changes earlier turns of a conversation, so that the "
                f"answers of {sample.name} cannot be located: set another `processor.chat_template`"
            )
        spans.append((len(head), len(whole)))
    return spans


def _multiple(processor: Any) -> int:
    """Sides that are multiples of this need no resizing by the processor (Qwen); 1 for processors with one size."""
    images = getattr(processor, "image_processor", None)
    patch, merge = getattr(images, "patch_size", None), getattr(images, "merge_size", None)
    return patch * merge if isinstance(patch, int) and isinstance(merge, int) else 1
