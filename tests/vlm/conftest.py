from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

CHAT = [
    {"role": "user", "content": "<image>\nWhat is the depth value at coordinate (0.49, 0.60)?"},
    {"role": "assistant", "content": "The depth is 2.341 meters."},
    {"role": "user", "content": "Which point is close to a viewer? Point 1 : (0.49, 0.60) Point 2 : (0.23, 0.85)"},
    {"role": "assistant", "content": "Point 2 is closer than Point 1."},
]


@pytest.fixture
def chat() -> list[dict[str, str]]:
    return [dict(message) for message in CHAT]


@pytest.fixture
def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0).eval()
