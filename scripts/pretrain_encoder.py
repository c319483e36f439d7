"""Pretrain the demo's encoder: a small ViT, by masked image modelling on procedural rooms, without labels.

    python scripts/pretrain_encoder.py --out src/spatialboost/assets/encoder

Masked autoencoding (He et al., arXiv 2111.06377): three quarters of the patches are dropped, and a small decoder
predicts their normalised pixels. Depth, masks and object names are not used. The rooms come from seeds that neither the
demo nor the tests use. The encoder is saved as float16 safetensors, with a config.json to build it with `timm`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from spatialboost.scenes.rooms.render import render_rooms

# Shape legend: B batch, N patches, K kept patches, D encoder width, E decoder width, P pixels of a patch.

FIRST_SEED = 1_000_000  # the demo and the tests use other seeds
ARCHITECTURE = {
    "img_size": 128, "patch_size": 16, "embed_dim": 192, "depth": 8, "num_heads": 6, "num_classes": 0,
}  # fmt: skip


class MaskedAutoencoder(nn.Module):
    """A ViT encoder, a two-block decoder, and the loss on the patches that were dropped."""

    def __init__(self, encoder: VisionTransformer, *, width: int = 128, depth: int = 2, keep: float = 0.25) -> None:
        super().__init__()
        self.encoder, self.keep = encoder, keep
        num_patches, patch = encoder.patch_embed.num_patches, encoder.patch_embed.patch_size[0]
        self.patch = patch
        self.into = nn.Linear(encoder.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, num_patches, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, 4, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, patch * patch * 3)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        encoder = self.encoder
        tokens_BND = encoder._pos_embed(encoder.patch_embed(images_B3HW))
        cls_B1D, tokens_BND = tokens_BND[:, :1], tokens_BND[:, 1:]
        B, N, D = tokens_BND.shape
        order_BN = torch.rand(B, N, device=tokens_BND.device).argsort(1)
        kept_BK = order_BN[:, : int(N * self.keep)]
        x = torch.cat([cls_B1D, tokens_BND.gather(1, kept_BK[..., None].expand(-1, -1, D))], 1)
        x = self.into(encoder.norm(encoder.blocks(x)))
        cls_B1E, x = x[:, :1], x[:, 1:]
        full_BNE = self.mask_token.expand(B, N, -1).scatter(1, kept_BK[..., None].expand(-1, -1, x.shape[-1]), x)
        full_BNE = torch.cat([cls_B1E, full_BNE + self.position], 1)
        predicted_BNP = self.pixels(self.norm(self.blocks(full_BNE))[:, 1:])
        target_BNP = nn.functional.unfold(images_B3HW, self.patch, stride=self.patch).transpose(1, 2)
        target_BNP = (target_BNP - target_BNP.mean(-1, True)) / (target_BNP.var(-1, keepdim=True) + 1e-4).sqrt()
        dropped_BN = torch.ones(B, N, device=x.device).scatter(1, kept_BK, 0.0)
        return ((predicted_BNP - target_BNP) ** 2).mean(-1).mul(dropped_BN).sum() / dropped_BN.sum()


def crops(images_BHW3: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Random crops at 70-100 % of the side, mirrored half the time; float ``(B, 3, H, W)`` in [-1, 1]."""
    images = torch.from_numpy(images_BHW3).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    B, _, H, W = images.shape
    scale = torch.from_numpy(rng.uniform(0.7, 1.0, B)).float()
    shift = torch.from_numpy(rng.uniform(-1, 1, (B, 2))).float() * (1 - scale)[:, None]
    flip = torch.from_numpy(rng.choice([-1.0, 1.0], B)).float()
    theta = torch.zeros(B, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * flip, scale, shift
    grid = nn.functional.affine_grid(theta, [B, 3, H, W], align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rooms", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)

    images = np.empty((args.rooms, ARCHITECTURE["img_size"], ARCHITECTURE["img_size"], 3), np.uint8)
    for start in tqdm(range(0, args.rooms, 100), desc="rendering"):
        seeds = range(FIRST_SEED + start, FIRST_SEED + min(start + 100, args.rooms))
        for row, cues in enumerate(render_rooms(seeds, size=ARCHITECTURE["img_size"], device=args.device), start):
            images[row] = cues.image_HW3

    model = MaskedAutoencoder(VisionTransformer(**ARCHITECTURE)).to(args.device)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
                                  lr=args.lr, betas=(0.9, 0.95))  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1, s / 50) * (0.5 + 0.5 * math.cos(math.pi * min(1, s / args.steps)))
    )
    began, losses = time.perf_counter(), []
    progress = tqdm(range(args.steps), desc="masked image modelling")
    for _ in progress:
        batch = crops(images[rng.integers(0, args.rooms, args.batch)], rng).to(args.device)
        loss = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")

    args.out.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().half().cpu().contiguous() for name, value in model.encoder.state_dict().items()}
    save_file(state, args.out / "model.safetensors")
    facts = {
        "architecture": ARCHITECTURE, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "pretraining": {"objective": "masked image modelling", "rooms": args.rooms, "steps": args.steps,
                        "batch": args.batch, "lr": args.lr, "seed": args.seed, "first_room_seed": FIRST_SEED,
                        "loss": float(np.mean(losses[-50:])), "seconds": round(time.perf_counter() - began)},
    }  # fmt: skip
    (args.out / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts["pretraining"]))


if __name__ == "__main__":
    main()
