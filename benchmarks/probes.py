"""The speed at which probes read features, compared with a bare loop of forwards over prepared images.

    OMP_NUM_THREADS=1 python benchmarks/probes.py                                  # ViT-S/14, 224 px: a minute
    python benchmarks/probes.py --device cuda --size 518 --batch 32 --images 512

The bare loop has its pixels in memory, resized and normalised. `read_features` gets uint8 images of the given height
and width, resizes and normalises them, checks the tokens and keeps them in memory or in a file. All take turns in one
process, so that other work on the machine slows all of them; the fastest repetition counts. On a CPU with one thread it
is the CPU time of the process, else wall time. Prints one line of JSON for each way: images a second, and the share of
the bare loop's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import timm
import torch

from spatialboost.encoders import prepare_images, read_tokens
from spatialboost.probes import read_features, token_store


def seconds(call: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    began = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--source", type=int, nargs=2, default=(360, 540), help="height and width of the images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    encoder = timm.create_model(args.model, num_classes=0, img_size=args.size).eval().to(args.device)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (*args.source, 3)).astype(np.uint8) for _ in range(args.images)]
    pixels = torch.cat([prepare_images(encoder, [frame], args.size) for frame in frames])

    @torch.no_grad()
    def bare() -> None:
        for part in pixels.split(args.batch):
            read_tokens(encoder, part.to(args.device))

    def read(limit: int) -> Callable[[], object]:
        def call() -> None:
            token_store.MEMORY_LIMIT = limit
            read_features(encoder, frames, image_size=args.size, batch_size=args.batch)

        return call

    ways = {"bare loop": bare, "features in memory": read(2**40), "features in a file": read(0)}
    fastest = dict.fromkeys(ways, float("inf"))
    for repeat in range(args.repeats + 1):
        for name, call in ways.items():
            spent = seconds(call, args.device)
            if repeat:  # the first time is a warm-up
                fastest[name] = min(fastest[name], spent)
    for name, spent in fastest.items():
        facts = {"way": name, "images a second": round(args.images / spent, 2)}
        print(json.dumps({**facts, "share": round(fastest["bare loop"] / spent, 3)}))


if __name__ == "__main__":
    main()
