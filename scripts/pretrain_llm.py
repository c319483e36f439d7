"""Pretrain the demo's language model: a small Llama that answers questions about points from depth maps.

    python scripts/pretrain_llm.py --out src/spatialboost/assets/llm

A language model that trains an encoder must understand the questions, and must know which visual token belongs to a
point in a question. Large models can do both. This small model learns it here, from conversations about procedural
rooms. The visual tokens are histograms of the true depth; no encoder and no image is used. Stage 1 of the demo then
aligns an encoder's tokens with these histograms. An encoder's tokens are less exact than true depth, so the model must
not rely on them too much. Therefore a token is the difference from the mean of all rooms, and zero means no
information. After the first steps, each map is also mixed with the map of another room and scaled down, both by random
amounts. The rooms come from seeds that neither the demo nor the tests use.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from spatialboost.demo import load_encoder
from spatialboost.scenes.questions.conversation import build_conversation
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.training.fit import cosine_schedule
from spatialboost.training.optimizers import build_optimizer, decay_groups, muon_groups
from spatialboost.vlm.chat import encode_chat
from spatialboost.vlm.collate import Collator
from spatialboost.vlm.llms import load_llm
from spatialboost.vlm.model import SpatialVLM

# Shape legend: N patches, C bins of log depth.

FIRST_SEED = 2_000_000  # the demo and the tests use other seeds
PLAN = TurnPlan({"depth": 12}, wordings=2)
BINS = torch.linspace(np.log(0.3), np.log(12.0), 24)
HELD_OUT = 100
GRID = (8, 8)  # of the demo's encoder
SIZE = 128  # pixels of the depth maps


def depth_tokens(depth_HW: np.ndarray) -> Tensor:
    """A soft histogram of log depth for each patch ``(N, C)``."""
    rows, columns = GRID
    height, width = depth_HW.shape[0] // rows, depth_HW.shape[1] // columns
    cells = torch.from_numpy(depth_HW).reshape(rows, height, columns, width).transpose(1, 2).reshape(rows * columns, -1)
    away = (cells.log()[..., None] - BINS) / (BINS[1] - BINS[0])
    return torch.exp(-0.5 * away**2).mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rooms", type=int, default=3000)
    parser.add_argument("--conversations", type=int, default=4, help="conversations for each room")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--sharp", type=int, default=400, help="steps before the maps are mixed and scaled down")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate of AdamW, for embeddings and vectors")
    parser.add_argument(
        "--matrix-lr", type=float, default=0.02, help="learning rate of Muon, for matrices of the blocks"
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    tokens, chats = [], []
    rooms = Rooms(args.rooms, first=FIRST_SEED, size=SIZE)
    for room in tqdm(range(args.rooms), desc="rooms"):
        cues = rooms[room]
        tokens.append(depth_tokens(cues.depth_HW))
        # the seed chooses the points; with one seed for all rooms, the model would see only these points
        seeds = range(room * args.conversations, (room + 1) * args.conversations)
        chats.append([build_conversation(cues, seed=seed, plan=PLAN).messages for seed in seeds])
    llm, tokenizer = load_llm(
        "small", conversations=[chat for room in chats for chat in room],
        kind="llama", width=args.width, layers=args.layers, heads=args.width // 32, places=True, seed=args.seed,
    )  # fmt: skip
    num = GRID[0] * GRID[1]
    encoded = [[encode_chat(chat, tokenizer, num_visual_tokens=num) for chat in room] for room in tqdm(chats)]

    maps = torch.stack(tokens)
    maps -= maps.mean(0)

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    projector = nn.Linear(len(BINS), args.width, bias=False)
    vlm = SpatialVLM(load_encoder(), llm, projector=projector, grid=GRID)  # the encoder is not used
    collate = Collator(tokenizer.pad_token_id)

    def batch(numbers: np.ndarray, own: np.ndarray, other: np.ndarray) -> dict[str, Tensor]:
        """A batch of conversations. Its tokens mix the rooms' own maps and other rooms' maps, by the given shares."""
        shares = [torch.from_numpy(share).float()[:, None, None] for share in (own, other)]
        mixed = shares[0] * maps[numbers] + shares[1] * maps[rng.integers(0, args.rooms - HELD_OUT, len(numbers))]
        chosen = [encoded[i][rng.integers(args.conversations)] for i in numbers]
        return collate([{**chat, "patch_features": map_NC[None]} for chat, map_NC in zip(chosen, mixed, strict=True)])

    groups = muon_groups(decay_groups(llm, args.lr, 0.0), args.matrix_lr, tables=llm)
    groups += decay_groups(projector, args.lr, 0.0)
    optimizer = build_optimizer(groups, beta2=0.95, fused=True)
    schedule = LambdaLR(optimizer, cosine_schedule(args.steps, warmup=0.02, lowest=0.02))
    parameters = [p for group in groups for p in group["params"]]
    began, losses = time.perf_counter(), []
    progress = tqdm(range(args.steps), desc="language model")
    for step in progress:
        loud, own = rng.random((2, args.batch)) if step >= args.sharp else np.ones((2, args.batch))
        loss = vlm(**batch(rng.integers(0, args.rooms - HELD_OUT, args.batch), loud * own, loud * (1 - own))).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            held_out = measure(
                vlm, lambda *shares: batch(np.arange(-HELD_OUT, 0), *np.full((2, HELD_OUT), [[s] for s in shares]))
            )
            tqdm.write(f"step {step + 1}: {json.dumps(held_out)}")

    llm.half().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    facts = {
        "objective": "questions on points of depth maps",
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
        "first_room_seed": FIRST_SEED,
        "held-out loss": held_out,
        "seconds": round(time.perf_counter() - began),
    }
    (args.out / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n")


@torch.no_grad()
def measure(vlm: SpatialVLM, batch: Callable[[float, float], dict[str, Tensor]]) -> dict[str, float]:
    """Loss on answers with different tokens: the room's map, a fifth of it, zeros, a fifth of another room's map."""
    shares = {"own": (1.0, 0.0), "a fifth": (0.2, 0.0), "nothing": (0.0, 0.0), "a fifth of another": (0.0, 0.2)}
    return {name: round(vlm(**batch(*share)).loss.item(), 4) for name, share in shares.items()}


if __name__ == "__main__":
    main()
