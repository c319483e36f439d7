"""How well attention matches points of two views, layer by layer: in encoders or language models of finished runs.

    spatialboost proof --config smollm2 --data DATA --out proof --row matches --row "shuffled pairs"
    python benchmarks/correspondence.py proof --row matches --row "shuffled pairs" --frames DATA/rgbd_room
    python benchmarks/correspondence.py proof --row "language matches"

The runs are those of the teachers `correspondence` (Attn+ in an encoder, beside its base) and `language-correspondence`
(a LoRA in a language model, beside the model before it) in the folder of a proof, all seeds that are finished; the
proof's probes measure depth, matches of tokens and classes. Measured on rooms that no training saw, and on the last
22 % of the frames of a walk. Prints Markdown tables for docs/teachers.md, with mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spatialboost as sb
from spatialboost.probes.result import Spread
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.sources import Mapped, Subset, Walk, evenly_spaced, resize_cues
from spatialboost.teachers.correspondence import AttentionMatches, CorrespondenceObjective, attention_matches
from spatialboost.teachers.correspondence.language import language_matches
from spatialboost.teachers.correspondence.objective import stack_sequences
from spatialboost.teachers.correspondence.sequences import Sequences
from spatialboost.training.run import open_teacher

TEST = 0.22  # of the frames

Values = dict[str, float]  # name of a number -> its value


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("proof", type=Path, help="folder of a proof")
    parser.add_argument("--row", action="append", required=True, help="a row of it; may be given several times")
    parser.add_argument("--rooms", type=int, default=32, help="rooms to measure on, with four views each")
    parser.add_argument("--frames", type=Path, help="a folder of RGB-D frames with poses, to measure on as well")
    parser.add_argument("--starts", action="store_true", help="only print the loss at the start, by the start of heads")
    return parser.parse_args()


def scenes(args: argparse.Namespace) -> dict[str, Any]:
    """Name -> scenes that no training saw."""
    found: dict[str, Any] = {"rooms": Rooms(args.rooms, first=600_000, size=112, views=4)}
    if args.frames is not None:
        frames = RGBDFolder(args.frames)
        last = Subset(frames, list(range(len(frames) - round(TEST * len(frames)), len(frames))))
        walk = evenly_spaced(Walk(last, views=6, stride=5), 24)
        found["frames"] = Mapped(walk, lambda view: resize_cues(view, (240, 360)), name="last frames")
    return found


def models(run: Path, label: str) -> Iterator[tuple[str, Callable[..., AttentionMatches]]]:
    """Name and measure of each model of a run: as it was, and taught."""
    taught: Any = open_teacher(run)
    size = taught.images.size
    if not hasattr(taught, "vlm"):
        encoder = taught.objective.encoder.eval()
        for name, each in (("base", sb.unboost(copy.deepcopy(encoder))), (label, encoder)):
            yield name, partial(attention_matches, each, image_size=size)
        return
    for name, teacher in (("before", open_teacher(run, until="stage1")), (label, taught)):
        vlm: Any = teacher
        for turned in (False, True):
            measure = partial(language_matches, vlm.vlm.eval(), vlm.tokenizer, image_size=size, rotary=turned)
            yield f"{name}, turned by positions" if turned else name, measure


def numbers(found: AttentionMatches) -> Values:
    """The numbers of a measurement of attention."""
    sure = [each for each in found.confidence if each == each]
    apart = sorted(found.by_distance)
    robustness = found.robustness[apart[-1]]
    return {
        "mean of layers": found.mean,
        "chance": found.chance,
        "matches": found.points,
        **{f"layer {layer}": share for layer, share in zip(found.layers, found.pck, strict=True)},
        **{f"{dt} apart": found.by_distance[dt] for dt in apart},
        **({} if math.isnan(robustness) else {"robustness": robustness}),
        "confidence": sum(sure) / len(sure) if sure else 0.0,
    }


@torch.no_grad()
def print_starts(run: Path) -> None:
    """The loss on a few rooms before any training, for each way in which a head can start."""
    teacher: Any = open_teacher(run)
    images, encoder = teacher.images, sb.unboost(teacher.objective.encoder).eval()
    rooms = Rooms(8, first=600_000, size=images.size[0], views=4)
    for norm in (True, False):
        for start in ("paired", "truncated", "random"):
            torch.manual_seed(0)
            options = teacher.options.model_copy(update={"head_norm": norm, "head_start": start})
            objective = CorrespondenceObjective(encoder, options).eval()
            sequences = Sequences(images, images.grid, options)
            examples = [sequences.of_scene(rooms[i], np.random.default_rng(0)) for i in range(len(rooms))]
            pixels = torch.cat([example.pop("pixel_values") for example in examples])
            loss = objective(pixel_values=pixels, **stack_sequences(examples))["loss"]
            print(f"head_norm: {str(norm).lower():5} head_start: {start:9} loss {float(loss):.3f}")


def main() -> None:
    args = parse()
    runs = {row: sorted(args.proof.glob(f"seed*/{row}/report.json")) for row in args.row}
    if missing := [row for row, files in runs.items() if not files]:
        raise SystemExit(f"{args.proof} has no finished run of {missing[0]!r}")
    if args.starts:
        return print_starts(runs[args.row[0]][0].parent)
    found: dict[str, dict[str, list[Values]]] = {}  # scenes -> model -> seeds
    for row, files in runs.items():
        for file in files:
            for name, measure in models(file.parent, row):
                for place, source in scenes(args).items():
                    found.setdefault(place, {}).setdefault(name, []).append(numbers(measure(source)))
    for place, by_model in found.items():
        print(f"\n| {place} | {' | '.join(by_model)} |\n|---|" + "---|" * len(by_model))
        for key in dict.fromkeys(key for seeds in by_model.values() for values in seeds for key in values):
            cells = [spread([values[key] for values in seeds if key in values]) for seeds in by_model.values()]
            print(f"| {key} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    """Mean and standard deviation, or the value itself if all are the same."""
    if len(set(values)) > 1:
        return str(Spread.of(values))
    return f"{values[0]:.0f}" if values[0] > 1.5 else f"{values[0]:.3f}"


if __name__ == "__main__":
    main()
