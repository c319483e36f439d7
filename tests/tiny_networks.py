"""Tiny random models of transformers' true classes with their processors, saved as `save_pretrained` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_PROMPT = {"hidden_size": 32, "image_size": 128, "patch_size": 16, "mask_input_channels": 4}
_DECODER = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 64},
    "iou_head_hidden_dim": 32,
}


def save_sam2(folder: Path) -> None:
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2ImageProcessor,
        Sam2Model,
        Sam2Processor,
        Sam2VisionConfig,
    )

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        num_attention_heads=1,
        image_size=[128, 128],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 4],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=32,
    )
    torch.manual_seed(0)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=_PROMPT, mask_decoder_config=_DECODER)
    _spread(Sam2Model(config)).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    Sam2Processor(images).save_pretrained(folder)


def save_sam(folder: Path) -> None:
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {
        **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 128, "patch_size": 16},
        **{"output_channels": 32, "mlp_dim": 32, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16},
    }
    torch.manual_seed(0)
    config = SamConfig(vision_config=vision, prompt_encoder_config=_PROMPT, mask_decoder_config=_DECODER)
    _spread(SamModel(config)).save_pretrained(folder)
    images = SamImageProcessor(
        size={"longest_edge": 128},
        pad_size={"height": 128, "width": 128},
        mask_size={"longest_edge": 32},
        mask_pad_size={"height": 32, "width": 32},
    )
    SamProcessor(images).save_pretrained(folder)


CLASSES = {0: "chair", 1: "wall-other-merged", 2: "tv, television"}


def _labels() -> dict[str, Any]:
    return {"id2label": CLASSES, "label2id": {name: number for number, name in CLASSES.items()}}


def _swin() -> Any:
    from transformers import SwinConfig

    stages = [f"stage{number}" for number in range(1, 5)]
    small = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    return SwinConfig(image_size=64, out_features=stages, **small)


def save_mask2former(folder: Path) -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    config = Mask2FormerConfig(
        backbone_config=_swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=6,
        **_labels(),
    )
    torch.manual_seed(0)
    _clear_classes(Mask2FormerForUniversalSegmentation(config), seed=6).save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def save_oneformer(folder: Path) -> None:
    from transformers import (
        OneFormerConfig,
        OneFormerForUniversalSegmentation,
        OneFormerImageProcessor,
        OneFormerProcessor,
    )

    tokenizer = clip_tokenizer(folder)
    text = {"text_encoder_width": 16, "text_encoder_num_layers": 1, "text_encoder_context_length": 77}
    config = OneFormerConfig(
        backbone_config=_swin(),
        num_queries=6,
        hidden_dim=32,
        mask_dim=32,
        conv_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        dim_feedforward=16,
        decoder_layers=3,
        query_dec_layers=1,
        num_attention_heads=2,
        is_training=False,
        task_seq_len=77,
        text_encoder_vocab_size=len(tokenizer),
        text_encoder_n_ctx=2,
        text_encoder_proj_layers=1,
        **text,
        **_labels(),
    )
    torch.manual_seed(0)
    _clear_classes(OneFormerForUniversalSegmentation(config), seed=8).save_pretrained(folder)
    images = OneFormerImageProcessor(size={"height": 64, "width": 64})
    OneFormerProcessor(images, tokenizer, task_seq_length=77).save_pretrained(folder)


def save_grounding_dino(folder: Path) -> None:
    """Of the words it knows, "floor lamp" is one name with two of them."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "chair", "table", "floor", "lamp"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    backbone = _swin()
    backbone.out_features = ["stage2", "stage3", "stage4"]
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=BertConfig(vocab_size=len(words), **small),
        num_queries=10,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_feature_levels=3,
        max_text_len=32,
    )
    torch.manual_seed(0)
    GroundingDinoForObjectDetection(config).eval().save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)


def save_blip(folder: Path) -> None:
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "chair", "table", "a", "photo", "of", "the"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={
            **small,
            **ids,
            "vocab_size": len(words),
            "encoder_hidden_size": 32,
            "max_position_embeddings": 64,
        },
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=32,
        image_text_hidden_size=32,
    )
    torch.manual_seed(0)
    _spread(BlipForConditionalGeneration(config)).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(str(folder / "vocab.txt"))).save_pretrained(folder)


CHAT = (
    "{% for message in messages %}user {% for part in message['content'] %}{% if part['type'] == 'image' %}<image> "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def save_llava(folder: Path) -> None:
    """A vision-language model that chats; its words are a few, and everything else is unknown to it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "user", "assistant", "red", "blue", "chair", "table", "thing"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    # Like Llama's tokenizer; with token_type_ids, transformers 4 would refuse to generate
    inputs = ["input_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, **special)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=16),
        text_config=LlamaConfig(**small, **ids, vocab_size=len(words), max_position_embeddings=256),
        image_token_index=4,
        image_token_id=4,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    _spread(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=CHAT,
        image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip


_TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save_clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tokenizer = clip_tokenizer(folder)
    text = {**_TOWER, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1}
    vision = {**_TOWER, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = _spread(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)))
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    tokenizer = clip_tokenizer(folder)
    text = {**_TOWER, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 1, "projection_size": 32}
    vision = {**_TOWER, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    _spread(SiglipModel(SiglipConfig(text_config=text, vision_config=vision))).save_pretrained(folder)
    SiglipProcessor(SiglipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def save_superglue(folder: Path) -> None:
    from transformers import SuperGlueConfig, SuperGlueForKeypointMatching, SuperGlueImageProcessor, SuperPointConfig

    points = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 8, 16],
        decoder_hidden_size=16,
        descriptor_decoder_dim=16,
        keypoint_decoder_dim=65,
        keypoint_threshold=0.0,
        max_keypoints=40,
        border_removal_distance=2,
    )
    config = SuperGlueConfig(
        keypoint_detector_config=points,
        hidden_size=16,
        keypoint_encoder_sizes=[8, 16],
        gnn_layers_types=["self", "cross"],
        num_attention_heads=2,
        matching_threshold=0.0,
    )
    torch.manual_seed(0)
    _spread(SuperGlueForKeypointMatching(config)).save_pretrained(folder)
    SuperGlueImageProcessor(size={"height": 48, "width": 64}).save_pretrained(folder)


def clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with a vocabulary of single letters."""
    from transformers import CLIPTokenizer

    letters = [letter + end for letter in map(chr, range(97, 123)) for end in ("", "</w>")]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def _clear_classes(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The model with large weights in its heads, so that some segments are sure."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if any(part in name for part in ("class_predictor", "class_embed", "mask_embed")):
                weight.copy_(torch.randn_like(weight))
    return model.eval()


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """The model with large weights, so that its masks are neither empty nor full and depend on the clicks."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn_like(weight) / weight[0].numel() ** 0.5)
            if "iou_prediction_head" in name and weight.ndim > 1:
                weight.mul_(3)
    return model.eval()
