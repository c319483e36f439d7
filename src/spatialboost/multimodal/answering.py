"""Answers of a vision-language model, with or without a scene adapter, and from the text alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from spatialboost.errors import SpatialBoostError
from spatialboost.multimodal.attach import find_adapter, scenes
from spatialboost.multimodal.batches import encode, render
from spatialboost.multimodal.conversations import Sample
from spatialboost.multimodal.latents import SceneEncoder
from spatialboost.multimodal.seam import inner_model


@torch.no_grad()
def answer(
    model: nn.Module,
    processor: Any,
    samples: Sequence[Sample],
    scene_encoder: SceneEncoder | None = None,
    *,
    blind: bool = False,
    max_new_tokens: int = 64,
    batch_size: int = 1,
) -> list[str]:
    """The most probable answer to the last question of each sample (greedy).

    Example::

        answer(model, processor, [Sample([{"role": "user", "content": "<image>How many chairs?"}], [frame])], encoder)

    Args:
        model: A vision-language model of transformers.
        processor: Its processor.
        samples: The questions; an answer at the end of a conversation is not shown to the model.
        scene_encoder: Makes the latents for the adapter. None for a model without adapter, or to leave it out.
        blind: Leave the frames out: what the model answers from the text alone.
        max_new_tokens: Most tokens of an answer.
        batch_size: Number of samples that are answered together.

    Raises:
        SpatialBoostError: A scene encoder is given, and the model has no adapter for it.
    """
    whole: Any = inner_model(model)
    adapter = find_adapter(model)
    if scene_encoder is not None and adapter is None:
        raise SpatialBoostError(
            f"{type(whole).__name__} has no scene adapter: call attach_adapter or load_adapter first"
        )
    was_training = whole.training
    whole.eval()
    answers: list[str] = []
    try:
        for start in range(0, len(samples), batch_size):
            asked = [sample.without_answer() for sample in samples[start : start + batch_size]]
            texts = [render(processor, sample, ask=True, blind=blind) for sample in asked]
            inputs = placed(whole, encode(processor, texts, asked, padding_side="left", blind=blind))
            latents = None if blind or scene_encoder is None else scene_encoder([sample.frames for sample in asked])
            with scenes(model, latents) if adapter is not None else nullcontext():
                ids = whole.generate(
                    **inputs,
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    pad_token_id=processor.tokenizer.pad_token_id,
                )
            new = ids[:, inputs["input_ids"].shape[1] :]
            answers += [text.strip() for text in processor.tokenizer.batch_decode(new, skip_special_tokens=True)]
    finally:
        whole.train(was_training)
    return answers


def placed(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs on the device of the model; floating point ones in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
