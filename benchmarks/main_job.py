"""The whole path on real input: a pretrained ViT-S, RGB-D frames of one walk, SmolLM2; stages 1 to 3, then the probes.

    python benchmarks/main_job.py --assets ASSETS --out runs/cpu       # 2 CPU cores: the better part of an hour
    python benchmarks/main_job.py --assets ASSETS --out runs/gpu \\
        --size 224 --steps 400 1500 800 --batch 16 --bf16 --turns all --rooms 4000

ASSETS holds `vit_small_patch14/`, `rgbd_room/` and `cifar10_subset/`. The first 70 % of the frames teach and fit the
probe, the last 22 % are asked about and measured. With `--rooms N`, N procedural rooms join the frames that teach, and
others are asked about and probed. With `--control`, stage 3 is run again from the same stage 2, with the answers of
other images. In OUT: `result.json`, the probes' pictures, and `table.md` for docs/benchmarks.md; a second run with the
same OUT goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import spatialboost
from spatialboost.encoders import open_encoder
from spatialboost.probes import depth_probe, knn_probe
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.extract.segments import propose_objects
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.sources import Mapped, resize_cues
from spatialboost.teachers.language import ChatDataset, answer_accuracy
from spatialboost.training import RowImages
from spatialboost.training.config import load_config
from spatialboost.training.report import gates_per_layer
from spatialboost.training.run import train

POINTS = TurnPlan({"depth": 4, "closer": 3})
DEPTHS = TurnPlan({"depth": 12})  # what the demo's language model knows
DEMO_LLM = Path(spatialboost.__file__).parent / "assets" / "llm"
TRAIN, TEST = 0.70, 0.22  # of the frames, as assets/README.md does


def resize_position_grid(weights: Path, size: int, out: Path, patch: int = 14) -> Path:
    """The encoder's weights with the position grid of another image size (bicubic, without antialias)."""
    state = {name: value.float() for name, value in load_file(weights).items()}
    table_1ND = state["pos_embed"]
    side = int(table_1ND.shape[1] ** 0.5)
    prefix, grid = table_1ND[:, : table_1ND.shape[1] - side**2], table_1ND[:, -(side**2) :]
    grid = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=(size // patch,) * 2, mode="bicubic", antialias=False)
    state["pos_embed"] = torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1).contiguous()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--llm", default="smollm2", help="or `demo`: the demo's small one, which knows questions on points"
    )
    parser.add_argument("--size", type=int, default=112, help="image size in pixels, a multiple of 14")
    parser.add_argument("--steps", type=int, nargs=3, default=(25, 80, 40), help="of stages 1, 2 and 3")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, nargs=3, default=(1e-3, 1e-4, 1e-4), help="of stages 1, 2 and 3")
    parser.add_argument(
        "--matrix-lr", type=float, nargs=3, default=(0, 0, 0), help="of Muon, in each stage; 0: AdamW alone"
    )
    parser.add_argument("--train-projector", action="store_true", help="in stage 3, too")
    parser.add_argument("--repeat", type=int, default=1, help="conversations on each frame that teaches")
    parser.add_argument("--rooms", type=int, default=0, help="procedural rooms that teach besides the frames")
    parser.add_argument("--control", action="store_true", help="a second stage 3 whose answers belong to other images")
    parser.add_argument("--turns", choices=("points", "all"), default="points")
    parser.add_argument("--evaluate", type=int, default=16, help="held-out frames whose answers are scored")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    if args.control and not args.steps[2]:
        parser.error("--control repeats stage 3, which --steps leaves out")
    if args.rooms > 500_000:
        parser.error("--rooms goes up to 500000: those from there on are kept for the probe")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.INFO)
    began = time.perf_counter()

    # Conversations
    frames = RGBDFolder(args.assets / "rgbd_room")
    everything = args.turns == "all"
    steps = [lambda view: resize_cues(view, (240, 360))] + ([propose_objects] if everything else [])
    plan = TurnPlan() if everything else DEPTHS if args.llm == "demo" else POINTS
    split = {
        "train": range(round(TRAIN * len(frames))),
        "test": range(len(frames) - round(TEST * len(frames)), len(frames)),
    }
    built = {}
    for name, items in split.items():
        items = list(items) * (args.repeat if name == "train" else 1)
        source = Mapped(Part(frames, items), *steps, name=f"rgbd_room {name}")
        built[name] = build_dataset(source, args.out / "data" / name, seed=args.seed, plan=plan)
    if args.rooms:
        for name, rooms in (
            ("rooms", Rooms(args.rooms, size=args.size)),
            ("unseen rooms", Rooms(32, first=700_000, size=args.size)),
        ):
            built[name] = build_dataset(rooms, args.out / "data" / name, seed=args.seed, plan=plan)

    # Stages
    weights = resize_position_grid(
        args.assets / "vit_small_patch14" / "model.safetensors", args.size, args.out / "encoder.safetensors"
    )
    own = [{"matrix_lr": rate or None} for rate in args.matrix_lr]
    own[2] |= {"train_projector": args.train_projector, "kernel": "auto"}
    common = {"batch_size": args.batch, "bf16": args.bf16, "log_every": 5, "save_every": 0}
    folders = [args.out / "data" / name for name in ("train", "rooms", "test") if name in built]
    options: dict = {
        "encoder": {
            "name": "vit_small_patch14_dinov2",
            "kwargs": {"img_size": args.size},
            "weights": str(weights),
        },
        "teacher": {
            "kind": "language",
            "llm": {"name": str(DEMO_LLM) if args.llm == "demo" else args.llm},
            "places": args.llm == "demo",
            "evaluate": args.evaluate,
        },
        "data": {
            "folders": [str(folder) for folder in folders],
            "image_size": args.size,
            "held_out": built["test"].written,
        },
        **{
            f"stage{i + 1}": {**common, "steps": args.steps[i], "lr": args.lr[i], **own[i]}
            for i in range(3)
            if args.steps[i]
        },
        "seed": args.seed,
        "out": str(args.out / "run"),
    }
    config = load_config(options)
    result = train(config)
    encoders = {"base": open_encoder(config.encoder), "boosted": result.encoder.eval()}
    scores = []
    if args.rooms:
        vlm, tokenizer = result.teacher.vlm, result.teacher.tokenizer
        unseen = open_rows([args.out / "data" / "unseen rooms"])
        chats = ChatDataset(unseen, RowImages(encoders["base"], args.size), tokenizer)
        scores = [score.to_json() for score in answer_accuracy(vlm, tokenizer, chats)]
    if args.control:
        for name in ("stage1", "stage2"):
            shutil.copytree(args.out / "run" / name, args.out / "control" / name, dirs_exist_ok=True)
        options["stage3"]["shuffle_answers"] = True
        control = train(load_config(options | {"out": str(args.out / "control")}))
        encoders["shuffled answers"] = control.encoder.eval()
    trained = time.perf_counter() - began

    # Probes
    shared = {"image_size": args.size, "progress": True}
    views = {"frames": (Part(frames, split["train"]), Part(frames, split["test"]))}
    if args.rooms:
        views["rooms"] = (
            Rooms(300, first=500_000, size=args.size),
            Rooms(200, first=600_000, size=args.size),
        )
    depth = {name: depth_probe(encoders, fit_on, test_on, **shared) for name, (fit_on, test_on) in views.items()}
    for name, probe in depth.items():
        probe.save(args.out / "probes" / name)
    cifar = args.assets / "cifar10_subset"
    knn = knn_probe(encoders, cifar / "train", cifar / "test", **shared)
    knn.save(args.out / "probes")

    summary = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "arguments": {key: str(value) for key, value in vars(args).items() if key not in ("assets", "out")},
        "seconds": {"data and stages": round(trained), "all": round(time.perf_counter() - began)},
        "data": {name: {"written": report.written, "skipped": dict(report.skipped)} for name, report in built.items()},
        "stages": {
            name: {
                "steps": record["fit"]["steps"],
                "seconds": round(record["fit"]["seconds"]),
                "loss": [entry["loss"] for entry in record["fit"]["history"]],
                "scores": record.get("scores", []),
            }
            for name, record in result.stages.items()
        },
        "unseen rooms": scores,
        "gates": gates_per_layer(result.encoder),
        "depth": {views: probe.to_dict()["summary"] for views, probe in depth.items()},
        "depth views won": {views: probe.views_won() for views, probe in depth.items()},
        "knn": knn.to_dict()["summary"],
    }
    (args.out / "result.json").write_text(json.dumps(summary, indent=2) + "\n")
    table = write_table(summary)
    (args.out / "table.md").write_text(table)
    print(table)


class Part:
    """Some frames of a folder."""

    def __init__(self, source: RGBDFolder, items: Sequence[int]) -> None:
        self.source, self.items = source, items
        self.names = [source.names[item] for item in items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.source[self.items[index]]


def write_table(summary: dict) -> str:
    """The result in Markdown."""
    lines = ["| stage | steps | seconds | loss, first -> last entries |", "|---|---|---|---|"]
    for name, stage in summary["stages"].items():
        lines.append(
            f"| {name} | {stage['steps']} | {stage['seconds']} | {stage['loss'][0]:.3f} -> {stage['loss'][-1]:.3f} |"
        )
    lines += ["", "| after | question | answered from | right (lengths: within 25 %) | relative error | loss |"]
    lines += ["|---|---|---|---|---|---|"]
    scored = {name: stage["scores"] for name, stage in summary["stages"].items()}
    for name, scores in (scored | {"stage3, on unseen rooms": summary["unseen rooms"]}).items():
        for score in scores:
            error, loss = ("" if score[key] is None else f"{score[key]:.3f}" for key in ("relative_error", "loss"))
            lines.append(
                f"| {name} | {score['kind']} | {score['answerer']} | {score['accuracy']:.1%} of {score['answers']} "
                f"| {error} | {loss} |"
            )
    for views, probe in summary["depth"].items():
        lines += ["", f"| depth probe, {views} | RMSE, m | AbsRel | delta < 1.25 |", "|---|---|---|---|"]
        for name, metrics in probe.items():
            cells = (
                f"{value['mean']:.3f}" + ("" if value["std"] is None else f" +- {value['std']:.3f}")
                for value in metrics.values()
            )
            lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| CIFAR-10 kNN | accuracy |", "|---|---|"]
    lines += [f"| {name} | {metrics['accuracy']['mean']:.3f} |" for name, metrics in summary["knn"].items()]
    gates = ", ".join(f"{gate['mean']:.4f}" for gate in summary["gates"])
    lines += ["", f"Mean gate of each layer (0.5 at the start): {gates}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
