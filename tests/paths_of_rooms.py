"""A small run on rooms with several views, for the teachers that need them: without its teacher and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms

SHAPE = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 0}
PLAN = TurnPlan({"depth": 1})


def run_settings(base: Path) -> dict[str, Any]:
    """Four rows of one view, which these teachers leave out, and twelve of three."""
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), base / "encoder.safetensors")
    build_dataset(Rooms(12, size=64, views=3), base / "rooms", seed=0, plan=PLAN, with_depth=True, progress=False)
    build_dataset(Rooms(4, size=64), base / "single", seed=0, plan=PLAN, with_depth=True, progress=False)
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(base / "encoder.safetensors")},
        "data": {"folders": [str(base / "single"), str(base / "rooms")], "image_size": 64, "held_out": 3, "workers": 0},
        "device": "cpu",
        "out": str(base / "out"),
    }
