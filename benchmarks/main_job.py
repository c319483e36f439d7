"""The whole method on real data: a pretrained ViT-S, RGB-D frames of one walk, a language model; then the probes.

    python benchmarks/main_job.py --assets ASSETS --out runs/cpu       # 2 CPU cores: the better part of an hour
    python benchmarks/main_job.py --assets ASSETS --out runs/gpu \\
        --size 224 --steps 400 1500 800 --batch 16 --bf16 --turns all --rooms 4000
    python benchmarks/main_job.py --assets ASSETS --out runs/named \\
        --prompt named --rooms 1400 --repeat 0 --steps 300 0 44 --batch 8 --control   # SmolLM2, frozen in all stages

ASSETS holds `vit_small_patch14/`, `rgbd_room/` and `cifar10_subset/`; with `icl_livingroom1/` in it, there is one more
probe. The first 70 % of the frames are for training and for fitting the probe, the last 22 % for questions and for
measuring; with `--repeat 0` no frame is trained on. With `--rooms N`, N procedural rooms are added to
the training, and other rooms are used for questions and probes. With `--control`, stage 3 is run again from the same
stage 2, with the answers of other images. In OUT: `result.json`, `report.html`, the probes' pictures, and `table.md`
for docs/benchmarks.md; a second run with the same OUT continues where the first stopped.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from spatialboost.demo import ASSETS as DEMO
from spatialboost.experiments.experiment import SHUFFLED_ANSWERS, Experiment, SeedRun, run_experiment
from spatialboost.experiments.page import write_page
from spatialboost.probes import depth_probe, knn_probe
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.segments import propose_objects
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.readers.options import ReaderOptions
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.sources import Mapped, Subset, resize_cues
from spatialboost.teachers.language import ChatDataset, answer_accuracy
from spatialboost.training import RowImages

POINTS = TurnPlan({"depth": 4, "closer": 3})
DEPTHS = TurnPlan({"depth": 12}, wordings=2)  # the only questions that the demo's language model can answer
CELLS = (4, 4)  # of an image, with `--prompt`
UNSEEN = "unseen rooms"
LIVING_ROOM = "525 525 319.5 239.5"  # its intrinsics
TRAIN, TEST = 0.70, 0.22  # of the frames


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--llm", default="smollm2", help="or `demo`: the demo's small one, which knows questions on points"
    )
    parser.add_argument("--size", type=int, default=112, help="image size in pixels, a multiple of 14")
    parser.add_argument("--steps", type=int, nargs=3, default=(25, 80, 40), help="of stages 1, 2 and 3")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--save-every", type=int, default=0, help="steps between checkpoints; 0: none")
    parser.add_argument("--lr", type=float, nargs=3, default=(1e-3, 1e-4, 1e-4), help="of stages 1, 2 and 3")
    parser.add_argument(
        "--matrix-lr", type=float, nargs=3, default=(0, 0, 0), help="of Muon, in each stage; 0: AdamW alone"
    )
    parser.add_argument("--train-projector", action="store_true", help="in stage 3, too")
    parser.add_argument("--repeat", type=int, default=1, help="conversations on each frame that teaches")
    parser.add_argument("--rooms", type=int, default=0, help="procedural rooms that teach besides the frames")
    parser.add_argument("--control", action="store_true", help="a second stage 3 whose answers belong to other images")
    parser.add_argument("--turns", choices=("points", "all", "cells"), default="points")
    parser.add_argument(
        "--prompt",
        choices=("plain", "named", "coordinates"),
        help="visual tokens of 4 x 4 cells, two each, in a prompt of this form, and the depths of cells as questions",
    )
    parser.add_argument(
        "--start", choices=("random", "digits"), default="digits", help="of the projector, with --prompt"
    )
    parser.add_argument("--earlier-run", type=Path, help="begin with the projector of this run (OUT/seed0/boosted)")
    parser.add_argument("--raw", action="store_true", help="with --prompt: features that are not standardised")
    parser.add_argument("--evaluate", type=int, default=16, help="held-out frames whose answers are scored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one whole run for each")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--llm-type", choices=("float32", "bfloat16"), default="float32", help="of its weights")
    args = parser.parse_args()
    if not args.steps[2]:
        parser.error("--steps leaves stage 3 out, so nothing would be boosted")
    if not args.repeat and not args.rooms:
        parser.error("--repeat 0 leaves the frames out, so there must be --rooms to train on")
    if args.prompt and args.size // 14 % CELLS[0]:
        parser.error(f"--size {args.size} has {args.size // 14} patches a side, which 4 cells do not divide")
    if args.prompt:
        args.turns = "cells"
    if args.rooms > 500_000:
        parser.error("--rooms goes up to 500000: those from there on are kept for the probe")
    return args


def build_conversations(args: argparse.Namespace, frames: RGBDFolder) -> dict[str, Any]:
    """Write the conversations on frames and rooms: name -> the report of the build."""
    everything = args.turns == "all"
    steps = [lambda view: resize_cues(view, (240, 360))] + ([propose_objects] if everything else [])
    plan = TurnPlan() if everything else DEPTHS if args.llm == "demo" else POINTS
    if args.turns == "cells":
        plan = TurnPlan({"depths": 1}, cells=CELLS)
    built = {}
    for name, items in split(frames).items():
        if name == "train" and not args.repeat:
            continue
        source = Subset(frames, list(items) * (args.repeat if name == "train" else 1))
        built[name] = build_dataset(
            Mapped(source, *steps, name=f"rgbd_room {name}"), args.out / "data" / name, seed=0, plan=plan
        )
    if args.rooms:
        for name, rooms in (
            ("rooms", Rooms(args.rooms, size=args.size)),
            (UNSEEN, Rooms(32 if args.repeat else 96, first=700_000, size=args.size)),
        ):
            built[name] = build_dataset(rooms, args.out / "data" / name, seed=0, plan=plan)
    return built


def split(frames: RGBDFolder) -> dict[str, range]:
    return {
        "train": range(round(TRAIN * len(frames))),
        "test": range(len(frames) - round(TEST * len(frames)), len(frames)),
    }


def configuration(args: argparse.Namespace, built: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the run, with the keys of its YAML file."""
    own: list[dict[str, Any]] = [{"matrix_lr": rate or None} for rate in args.matrix_lr]
    own[2] |= {"train_projector": args.train_projector, "kernel": "auto"}
    common = {"batch_size": args.batch, "bf16": args.bf16, "log_every": 5, "save_every": args.save_every}
    held_out = "test" if args.repeat else UNSEEN
    folders = [args.out / "data" / name for name in ("train", "rooms", held_out) if name in built]
    small = args.llm == "demo"
    named: dict[str, Any] = {}
    if args.prompt:
        named = {"pool": args.size // 14 // CELLS[0], "prompt": args.prompt, "tokens_per_cell": 2}
        named |= {"projector_start": args.start, "standardise": not args.raw}
    return {
        "encoder": {
            "name": "vit_small_patch14_dinov2",
            "kwargs": {"img_size": args.size},
            "weights": str(args.assets / "vit_small_patch14" / "model.safetensors"),
        },
        "teacher": {
            "kind": "language",
            "llm": {"name": str(DEMO / "llm") if small else args.llm, "dtype": args.llm_type},
            "places": small,
            "evaluate": args.evaluate,
            "earlier_run": None if args.earlier_run is None else str(args.earlier_run),
            **named,
        },
        "data": {
            "folders": [str(folder) for folder in folders],
            "image_size": args.size,
            "held_out": built[held_out].written,
        },
        **{
            f"stage{i + 1}": {**common, "steps": args.steps[i], "lr": args.lr[i], **own[i]} if args.steps[i] else None
            for i in range(3)
        },
    }


def probes(args: argparse.Namespace, frames: RGBDFolder) -> dict[str, Callable[[Any], Any]]:
    """The probes that measure each encoder."""
    shared = {"image_size": args.size, "progress": True}
    parts = {name: Subset(frames, list(items)) for name, items in split(frames).items()}
    cifar = args.assets / "cifar10_subset"
    found: dict[str, Callable[[Any], Any]] = {}
    if args.rooms:
        fit_on, test_on = (Rooms(n, first=first, size=args.size) for n, first in ((300, 500_000), (200, 600_000)))
        found["rooms"] = lambda encoders: depth_probe(encoders, fit_on, test_on, **shared)
    found["frames"] = lambda encoders: depth_probe(encoders, parts["train"], parts["test"], **shared)
    if (args.assets / "icl_livingroom1").is_dir():
        reading = ReaderOptions(images="image/*.jpg", intrinsics=LIVING_ROOM)
        room = RGBDFolder(args.assets / "icl_livingroom1", options=reading)
        walk = {name: Subset(room, list(items)) for name, items in split(room).items()}
        found["living room"] = lambda encoders: depth_probe(encoders, walk["train"], walk["test"], **shared)
    found["CIFAR-10"] = lambda encoders: knn_probe(encoders, cifar / "train", cifar / "test", **shared)
    return found


def main() -> None:
    args = parse()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.INFO)
    frames = RGBDFolder(args.assets / "rgbd_room")
    built = build_conversations(args, frames)
    experiment = run_experiment(
        configuration(args, built),
        args.out,
        probes=probes(args, frames),
        controls=SHUFFLED_ANSWERS if args.control else {},
        seeds=args.seeds,
    )
    if args.rooms:
        for run in experiment.runs:
            scores = ask_about_unseen_rooms(args, run)
            run.stages["boosted"][f"stage3, on {UNSEEN}"] = {**run.stages["boosted"]["stage3"], "scores": scores}
    experiment.save(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        arguments={key: str(value) for key, value in vars(args).items() if key not in ("assets", "out")},
        data={name: {"written": report.written, "skipped": dict(report.skipped)} for name, report in built.items()},
    )
    title, introduction = "A pretrained ViT-S on real frames", "Commands and settings: docs/benchmarks.md."
    write_page(experiment, args.out / "report.html", title=title, introduction=introduction)
    table = "\n".join(line for run in experiment.runs for line in table_of(experiment, run))
    (args.out / "table.md").write_text(table)
    print(table)


def ask_about_unseen_rooms(args: argparse.Namespace, run: SeedRun) -> list[dict[str, Any]]:
    """How the boosted encoder's language model answers questions on rooms that no stage has seen."""
    teacher, encoder = run.results["boosted"].teacher, run.encoders["boosted"]
    rows = open_rows([args.out / "data" / UNSEEN])
    vlm = teacher.vlm
    chats = ChatDataset(rows, RowImages(encoder, args.size), teacher.tokenizer, pool=vlm.pool, prompt=vlm.prompt)
    every: dict[str, Any] = {"kinds": None, "max_new_tokens": None} if args.turns == "cells" else {}
    return [score.to_json() for score in answer_accuracy(vlm, teacher.tokenizer, chats, **every)]


def table_of(experiment: Experiment, run: SeedRun) -> list[str]:
    """The results of one seed as Markdown lines."""
    lines = [f"Seed {run.seed}", "", "| stage | steps | seconds | loss, first -> last entries |", "|---|---|---|---|"]
    for name, record in run.stages["boosted"].items():
        loss = [f"{entry['loss']:.3f}" for entry in record["fit"]["history"]]
        seconds = round(record["fit"]["seconds"])
        lines.append(f"| {name} | {record['fit']['steps']} | {seconds} | {' -> '.join([*loss[:1], *loss[-1:]])} |")
    lines += ["", "| after | question | answered from | right (lengths: within 25 %) | relative error | loss |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, record in run.stages["boosted"].items():
        for score in record.get("scores", []):
            error, loss = ("" if score[key] is None else f"{score[key]:.3f}" for key in ("relative_error", "loss"))
            right = f"{score['accuracy']:.1%} of {score['answers']}"
            lines.append(f"| {name} | {score['kind']} | {score['answerer']} | {right} | {error} | {loss} |")
    for name, probe in run.probes.items():
        heads = " | ".join(metric.label for metric in probe.metrics.values())
        lines += ["", f"| {probe.probe} probe, {name} | {heads} |", "|---|" + "---|" * len(probe.metrics)]
        for encoder in probe.names:
            lines.append(f"| {encoder} | {' | '.join(str(probe.spread(encoder, key)) for key in probe.metrics)} |")
        lines += ["", experiment.verdict(name)]
    gates = ", ".join(f"{gate['mean']:.4f}" for gate in run.gates["boosted"])
    return [*lines, "", f"Mean gate of each layer (0.5 at the start): {gates}.", ""]


if __name__ == "__main__":
    main()
