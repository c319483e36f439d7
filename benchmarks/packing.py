"""Tokens per second of training a language model on packed and on padded batches, for real lengths of conversations.

    python benchmarks/packing.py                     # three sets of procedural rooms, a small Llama
    python benchmarks/packing.py --patches 256       # images of 224 instead of 112 pixels, with patches of 14

The conversations are those of `spatialboost data build` with all kinds of turns: rooms of one view, rooms in the
paper's mix of 2, 4 and 8 views, and one third of the first with two thirds of the second, as in the paper. Batches are
drawn at random. A step is the forward and backward pass of stage 2 or 3 from features of the images (random ones, as
their values do not matter here); padded and packed steps take turns. Tokens are those of the conversations, without
padding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.views.mix import ViewMix
from spatialboost.vlm import Collator, SpatialVLM, encode_chat
from spatialboost.vlm.llms import build_small_llm

SETS = ("one view", "2 to 8 views", "both")


def measure_packing(
    *, rows: int = 48, batch: int = 16, steps: int = 3, width: int = 128, layers: int = 4, patches: int = 64
) -> Iterator[dict[str, Any]]:
    """One record for each set of conversations and each stage: tokens per second padded and packed, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, views in zip(SETS, (1, ViewMix.parse("mix")), strict=False):
            build_dataset(Rooms(rows, size=32, views=views), Path(folder, name), seed=0)
            found[name] = open_rows([Path(folder, name)])
        found["both"] = [*list(found[SETS[0]])[: rows // 2], *found[SETS[1]]]
        chats = {name: [row["messages"] for row in part] for name, part in found.items()}
        llm, tokenizer = build_small_llm(
            chats["both"], kind="llama", width=width, layers=layers, heads=4, max_length=8192
        )
        encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2, num_classes=0)
        vlm = SpatialVLM(encoder.requires_grad_(False), llm)
        for name, part in chats.items():
            encoded = [encode_chat(each, tokenizer, num_visual_tokens=patches) for each in part]
            batches = list(_batches(encoded, tokenizer, batch=batch, steps=steps, patches=patches))
            for stage in ("stage2", "stage3"):
                llm.requires_grad_(stage == "stage2")
                yield {"conversations": name, "stage": stage, **_compare(vlm, batches)}


def _batches(
    encoded: Sequence[dict[str, Any]], tokenizer: Any, *, batch: int, steps: int, patches: int
) -> Iterator[dict[str, Any]]:
    rng, collate = np.random.default_rng(0), Collator(tokenizer.pad_token_id)
    for _ in range(steps):
        chosen = [encoded[int(number)] for number in rng.choice(len(encoded), batch, replace=False)]
        images = sum(int(each["visual_mask"].sum()) for each in chosen) // patches
        yield {**collate(chosen), "patch_features": torch.randn(images, patches, 48)}


def _compare(vlm: SpatialVLM, batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    # Time of the processor, which does not depend on what else the machine does
    seconds: dict[bool, list[float]] = {False: [], True: []}
    losses: dict[bool, list[float]] = {False: [], True: []}
    vlm.train()
    for number, inputs in enumerate([batches[0], *batches]):  # the first is a warm-up
        for packed in (False, True):
            vlm.set_packing(packed)
            began = time.process_time()
            loss = vlm(**inputs).loss
            loss.backward()
            vlm.zero_grad()
            if number:
                seconds[packed].append(time.process_time() - began)
                losses[packed].append(float(loss.detach()))
    lengths = torch.cat([each["attention_mask"].sum(1) for each in batches])
    places = sum(each["attention_mask"].numel() for each in batches)
    tokens = int(lengths.sum())
    padded, packed = (tokens / sum(seconds[each]) for each in (False, True))
    return {
        "lengths": [int(lengths.min()), int(lengths.median()), int(lengths.max())],
        "padding": round(1 - tokens / places, 3),
        "padded_tokens_per_second": round(padded),
        "packed_tokens_per_second": round(packed),
        "ratio": round(packed / padded, 2),
        "largest_difference_of_losses": max(abs(a - b) for a, b in zip(losses[False], losses[True], strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=48, help="conversations of each set")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--width", type=int, default=128, help="of the language model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--patches", type=int, default=64, help="visual tokens of an image")
    for record in measure_packing(**vars(parser.parse_args())):
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
