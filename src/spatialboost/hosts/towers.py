"""The names that libraries give to image towers, text towers, pooling heads and cross-attention."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
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


# --- language models, by what they are

TOKEN_EMBEDDINGS = re.compile(r"word_emb|token_emb|tok_emb|embed_tokens|^wte$|^shared$")


def is_causal(attention: nn.Module) -> bool:
    """Whether the attention is that of a decoder, by its settings or its mask, whatever its name is."""
    owners = (attention, getattr(attention, "config", None))
    settings = [getattr(owner, name, False) for owner in owners for name in ("is_causal", "is_decoder", "causal")]
    masks = [mask for name, mask in attention.named_buffers() if name.endswith(("mask", "tril", "bias"))]
    return any(setting is True for setting in settings) or any(map(_is_causal_mask, masks))


def _is_causal_mask(buffer: torch.Tensor) -> bool:
    """Whether a buffer forbids each token to see those after it: (..., T, T), a lower triangle, or -inf above it."""
    if buffer.ndim < 2 or buffer.shape[-1] != buffer.shape[-2] or buffer.shape[-1] < 2 or buffer.is_meta:
        return False
    mask = buffer.flatten(0, -3)[0] if buffer.ndim > 2 else buffer
    if mask.is_floating_point() and bool(mask.isinf().any()):
        mask = ~mask.isinf()
    allowed = mask.bool()
    return torch.equal(allowed, torch.ones_like(allowed).tril())


def text_towers(model: nn.Module, attention: Sequence[str]) -> dict[str, str]:
    """For each of the named attention layers that reads tokens of text, the name of the embedding of these tokens.

    A layer belongs to the innermost module around it that holds a convolution (of patches) or an embedding of tokens.
    If it holds both, text and images are read together.
    """
    convolutions, embeddings = [], []
    for name, module in model.named_modules():
        within_attention = any(name.startswith(f"{each}.") for each in attention)
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not within_attention:
            convolutions.append(name)
        if isinstance(module, nn.Embedding) and TOKEN_EMBEDDINGS.search(name.rpartition(".")[2]):
            embeddings.append(name)
    found = {}
    for name in attention if embeddings else ():
        parts = name.split(".")
        for depth in range(len(parts) - 1, -1, -1):
            prefix = ".".join([*parts[:depth], ""]) if depth else ""
            if any(each.startswith(prefix) for each in convolutions):
                break
            if inside := [each for each in embeddings if each.startswith(prefix)]:
                found[name] = inside[0]
                break
    return found
