"""The language teacher without weights, for a plan of its memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from spatialboost.teachers.language.config import LanguageOptions
from spatialboost.teachers.protocol import Example, TeacherInputs

if TYPE_CHECKING:
    from spatialboost.teachers.language.teacher import LanguageTeacher

ANSWERS = 2 / 3  # of the text: 64 % in rooms with all twelve turns and SmolLM2's tokenizer
WITHOUT_LIMIT = 2048  # tokens of a conversation if neither the run nor the language model has a limit

# Keys of a model's configuration -> values that leave the logits as the output head gives them.
LOGITS = {"final_logit_softcapping": (None,), "logit_scale": (None, 1.0), "logits_scaling": (None, 1.0)}


def outline_teacher(cls: type[LanguageTeacher], options: LanguageOptions, inputs: TeacherInputs) -> LanguageTeacher:
    """The parts that `LanguageTeacher.build` makes, on the meta device; the tokenizer is opened if there are rows."""
    from spatialboost.teachers.language.teacher import LLM, _conversations, last_stage
    from spatialboost.vlm.image_prompt import ImagePrompt
    from spatialboost.vlm.model import SpatialVLM
    from spatialboost.vlm.outline import outline_llm
    from spatialboost.vlm.pooling import PatchPool
    from spatialboost.vlm.projector import build_projector

    pool = PatchPool(inputs.images.grid, options.pool)
    prompt = ImagePrompt(pool.grid, options.prompt, options.tokens_per_cell)
    name, kwargs = options.llm.name, dict(options.llm.kwargs)
    if options.earlier_run is not None and (saved := last_stage(options.earlier_run) / LLM).is_dir():
        name, kwargs = str(saved), {}
    llm, tokenizer = outline_llm(
        name,
        conversations=_conversations(inputs, prompt) if name == "small" else (),
        dtype=getattr(torch, options.llm.dtype),
        quantization=options.llm.quantization,
        with_tokenizer=len(inputs.rows) > 0,
        **kwargs,
    )
    if tokenizer is None:
        tokenizer = SimpleNamespace(pad_token_id=0)
    elif tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    sizes: dict[str, Any] = {"tokens_per_cell": options.tokens_per_cell, "standardise": options.standardise}
    projector, grid = build_projector(inputs.encoder, llm, **sizes), pool.grid if options.places else None
    vlm = SpatialVLM(inputs.encoder, llm, layer=inputs.layer, projector=projector, pool=pool, grid=grid, prompt=prompt)
    vlm._fast_head = head_is_plain(llm)  # else it would be measured, for which the weights need values
    return cls(vlm, tokenizer, prompt.num_tokens, options=options, seed=inputs.seed)


def head_is_plain(llm: Any) -> bool:
    """Whether the logits are just the output head of the last hidden state, by the model's configuration."""
    config = llm.config.get_text_config() if hasattr(llm.config, "get_text_config") else llm.config
    plain = all(getattr(config, key, None) in values for key, values in LOGITS.items())
    return plain and llm.get_output_embeddings() is not None and llm.base_model is not llm


def typical_conversation(
    max_length: int | None, num_tokens: int, num_words: int, num_names: int = 0
) -> tuple[Example, int]:
    """A conversation about one image that has as many tokens as are allowed, and its number of images.

    Args:
        max_length: Largest number of tokens.
        num_tokens: Visual tokens of the image.
        num_words: Size of the vocabulary.
        num_names: Tokens of the names of its cells.
    """
    length = max_length or max(WITHOUT_LIMIT, num_tokens + num_names + 2)
    answers = max(1, round((length - num_tokens - num_names) * ANSWERS))
    ids = torch.arange(length) % num_words
    labels, visual_mask = torch.full_like(ids, -100), torch.zeros_like(ids, dtype=torch.bool)
    labels[length - answers :] = ids[length - answers :]
    visual_mask[:num_tokens] = True
    return {"input_ids": ids, "labels": labels, "visual_mask": visual_mask}, 1
