"""Vision-language models of transformers' true classes with tiny random weights, with their processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spatialboost.vlm.llms import build_tokenizer

SIZE = 28  # pixels of an image of the models with one image size
WORDS = (
    "How many chairs are there? Which is nearer, the table or the lamp? Left or right? Two two Left left the lamp. "
    "The distance is 2.341 meters.\nTwo\nLeft\nthe\nThese are frames of a video. A B C D"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QWEN_IDS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def chat_template(image: str) -> str:
    return (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}"
        "{{ '" + image + "' if part.type == 'image' else part.text }}{% endfor %}"
        "{% if m.role == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def tokenizer_with(*special: str, **named: str) -> Any:
    tokenizer = build_tokenizer([[{"role": "user", "content": WORDS}]])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokens = [*special, *named.values(), "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def text_sizes(tokenizer: Any, **others: Any) -> dict[str, Any]:
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**SIZES, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": 1024, **others}


def _qwen(version: str) -> tuple[Any, Any]:
    import transformers

    tokenizer = tokenizer_with(*QWEN_IDS)
    ids = dict(
        zip(
            ("image", "video", "vision_start", "vision_end"),
            map(tokenizer.convert_tokens_to_ids, QWEN_IDS),
            strict=True,
        )
    )
    rope = {"rope_type": "default", "mrope_section": [2, 2, 4], "rope_theta": 10000.0}
    text = text_sizes(tokenizer, num_key_value_heads=2, head_dim=16, rope_parameters=rope)
    if version == "2_5":
        text.pop("head_dim")
        own: dict[str, Any] = {"fullatt_block_indexes": [1]}
    else:
        own = {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    vision = {"hidden_size": 32, "intermediate_size": 64, "depth": 2, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "spatial_merge_size": 2, **own}
    family = f"Qwen{version}_VL" if version == "2_5" else f"Qwen{version}VL"
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config=vision, **{f"{name}_token_id": value for name, value in ids.items()}
    )
    images = transformers.Qwen2VLImageProcessor(
        patch_size=14, merge_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    )
    videos = transformers.Qwen2VLVideoProcessor() if version == "2_5" else transformers.Qwen3VLVideoProcessor()
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = getattr(transformers, f"{family}Processor")(images, tokenizer, videos, chat_template=template)
    return getattr(transformers, f"{family}ForConditionalGeneration")(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen("2_5")


def qwen3_vl() -> tuple[Any, Any]:
    return _qwen("3")


def llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_with("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZES, image_size=SIZE, patch_size=14),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template("<image>"),
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next_video() -> tuple[Any, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextImageProcessor,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
        LlavaNextVideoProcessor,
        LlavaNextVideoVideoProcessor,
    )

    tokenizer = tokenizer_with("<image>", "<video>")
    grids = [[SIZE, 2 * SIZE], [2 * SIZE, SIZE]]
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**SIZES, image_size=SIZE, patch_size=14),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_grid_pinpoints=grids,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
    )
    square = {"height": SIZE, "width": SIZE}
    processor = LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(size=square, crop_size=square),
        LlavaNextImageProcessor(size={"shortest_edge": SIZE}, crop_size=square, image_grid_pinpoints=grids),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=chat_template("<image>"),
        num_additional_image_tokens=1,
    )
    return LlavaNextVideoForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    tokenizer = tokenizer_with(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    vision = InternVLVisionConfig(**SIZES, image_size=[SIZE, SIZE], patch_size=[14, 14])
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**text_sizes(tokenizer, num_key_value_heads=2)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
    )
    square = {"height": SIZE, "width": SIZE}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=square, crop_to_patches=False),
        tokenizer,
        InternVLVideoProcessor(size=square),
        image_seq_length=1,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def smolvlm() -> tuple[Any, Any]:
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

    special = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>")
    tokenizer = tokenizer_with(*special)
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**SIZES, image_size=SIZE, patch_size=14),
        text_config=LlamaConfig(**text_sizes(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    edge = {"longest_edge": SIZE}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer,
        SmolVLMVideoProcessor(size=edge, max_image_size=edge),
        image_seq_len=1,
        chat_template=chat_template("<image>"),
    )
    return SmolVLMForConditionalGeneration(config), processor


VLMS = {f.__name__: f for f in (qwen2_5_vl, qwen3_vl, llava, llava_next_video, internvl, smolvlm)}


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model in evaluation mode with random weights, and its processor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = VLMS[name]()
    return model.eval(), processor


def save(name: str, folder: Path) -> None:
    """Save a model with its processor, as `save_pretrained` does."""
    model, processor = build(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
