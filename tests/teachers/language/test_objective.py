from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.teachers.language import LanguageObjective
from spatialboost.vlm import Collator, SpatialVLM, encode_chat, load_llm

CHATS = [
    [{"role": "user", "content": "<image>\nHow deep?"}, {"role": "assistant", "content": answer}]
    for answer in ("1.234 meters.", "It is far away, about 2.5 meters.", "Near.", "No idea.")
]


def test_parts_of_a_batch_add_up_to_its_loss():
    torch.manual_seed(0)
    encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
    llm, tokenizer = load_llm("small", conversations=CHATS, width=32, layers=1, heads=2)
    objective = LanguageObjective(SpatialVLM(encoder, llm))
    collate = Collator(tokenizer.pad_token_id)
    rows = [
        encode_chat(chat, tokenizer, num_visual_tokens=4) | {"pixel_values": torch.randn(1, 3, 32, 32)}
        for chat in CHATS
    ]
    whole = objective(**collate(rows))["loss"]
    num_items = sum(int((row["labels"] != -100).sum()) for row in rows)
    parts = [objective(num_items_in_batch=num_items, **collate(part))["loss"] for part in (rows[:1], rows[1:])]
    assert torch.allclose(sum(parts), whole, atol=1e-6)
    assert objective.encoder is encoder
