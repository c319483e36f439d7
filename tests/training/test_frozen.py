"""Frozen parts get no gradients of their weights, and none are computed."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from spatialboost.boosting import boost
from spatialboost.teachers.language.objective import LanguageObjective
from spatialboost.vlm import SpatialVLM
from training_rows import SHAPE

BATCH, LENGTH, IMAGE = 2, 9, 4  # rows, tokens of each, and patches of its image


def operations(*trained: str) -> dict[str, int]:
    """Floating-point operations of the passes of a model of which the parameters with these words in a name train."""
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llm = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2))
    encoder = boost(VisionTransformer(**SHAPE))
    objective = LanguageObjective(SpatialVLM(encoder, llm)).requires_grad_(False)
    parameters = {name: p for name, p in objective.named_parameters() if any(word in name for word in trained)}
    for p in parameters.values():
        p.requires_grad_(True)
    ids = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH)
    batch = {
        "input_ids": ids,
        "visual_mask": torch.arange(LENGTH).expand(BATCH, -1) < IMAGE,
        "labels": ids,
        "pixel_values": torch.randn(BATCH, 3, 32, 32),
    }
    objective.train()
    with FlopCounterMode(display=False) as forward:
        loss = objective(**batch)["loss"]
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    named = dict(objective.named_parameters())
    assert {name for name, p in named.items() if p.grad is not None} == set(parameters)
    return {"forward": forward.get_total_flops(), "backward": backward.get_total_flops()}


def test_weight_gradients_of_a_frozen_language_model_are_not_computed():
    frozen, trained = operations("spatial_channel"), operations("spatial_channel", "llm.model.layers")
    assert frozen["forward"] == trained["forward"]
    # of each linear layer of the two blocks, 2 operations for each token and weight
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert trained["backward"] - frozen["backward"] == 2 * BATCH * LENGTH * weights
