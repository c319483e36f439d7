"""The names that libraries give to image towers, text towers, pooling heads and cross-attention."""

from __future__ import annotations

import re

from torch import nn

IMAGE_TOWERS = {"vision_model", "visual", "vision_tower", "image_encoder", "vision_encoder", "vision_backbone"}
TEXT_TOWERS = {"text_model", "text_encoder", "text", "language_model", "text_decoder", "decoder", "lm_head"}
TEXT_TOWERS |= {"text_enhancer_layer"}  # Grounding DINO
TEXT_TOWERS |= {"text_backbone", "language_backbone"}  # OmDet
POOLING = re.compile(r"pooler|pooling_?head|att(entio)?n(al)?_?pool(?!first)|pool(2d|ing)?$", re.IGNORECASE)
CROSS_ATTENTION = re.compile("cross|multihead_attn|encoder_attn")
# Arguments of a forward that are a second input, from which keys and values come.
SECOND_INPUTS = {"key", "kv", "context", "memory", "encoder_hidden_states", "key_value_states", "latents", "y"}
SECOND_INPUTS |= {"text_features"}  # Grounding DINO


def outside_of_image_tower(name: str, module: nn.Module, parent: nn.Module) -> str | None:
    """The reason why nothing in this module belongs to an image tower, by its name, class and parent; else None."""
    leaf, cls = name.rpartition(".")[2], type(module).__name__
    if leaf in TEXT_TOWERS:
        return f"in `{leaf}`, which is no image tower"
    if POOLING.search(cls):
        return f"in a pooling head ({cls})"
    # open_clip's resampler blocks have a separate norm for keys and values
    if CROSS_ATTENTION.search(leaf) or hasattr(parent, "ln_1_kv"):
        return "cross-attention, by its name"
    return None
