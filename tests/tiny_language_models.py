"""Tiny language models of transformers' true classes with processors, saved as `save_pretrained` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from spatialboost.vlm.llms import build_tokenizer

SIZE = 28  # pixels
CHAT = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _tokenizer(texts: Sequence[str], template: str | None) -> Any:
    tokenizer = build_tokenizer([[{"role": "user", "content": text}] for text in texts])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<|system|>", "<|user|>", "<|assistant|>"]})
    tokenizer.chat_template = template
    return tokenizer


def _llama(tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_llama(folder: Path, texts: Sequence[str], *, template: str | None = CHAT) -> None:
    """A random language model with a vocabulary of these texts."""
    from transformers import LlamaForCausalLM

    tokenizer = _tokenizer(texts, template)
    torch.manual_seed(0)
    LlamaForCausalLM(_llama(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_llava(folder: Path, prompt: str, answers: Mapping[int, str], *, steps: int) -> None:
    """A LLaVA that answers the prompt about an image of one brightness with the text for this brightness."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = _tokenizer([prompt, *answers.values()], CHAT)
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=CHAT,
        num_additional_image_tokens=1,
    )
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=14
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    _teach(model, processor, prompt, answers, steps)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _teach(model: Any, processor: Any, prompt: str, answers: Mapping[int, str], steps: int) -> None:
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    start = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    processor.tokenizer.padding_side = "right"
    batch = processor(
        images=[[Image.new("RGB", (SIZE, SIZE), (value,) * 3)] for value in answers],
        text=[f"{start}{answer}<|end|>" for answer in answers.values()],
        padding=True,
        return_tensors="pt",
    )
    asked = processor(images=[[Image.new("RGB", (SIZE, SIZE))]], text=[start], return_tensors="pt")["input_ids"].shape[
        1
    ]
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, :asked] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
