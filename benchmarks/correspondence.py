"""Correspondence as a teacher of a pretrained ViT-S: matches, depth and CIFAR-10 kNN against base and a control.

    python benchmarks/correspondence.py --assets ASSETS --out runs/correspondence     # one core: about 15 minutes

ASSETS holds `vit_small_patch14/`, `rgbd_room/` and `cifar10_subset/`. It teaches with procedural rooms of several views
and with the first 70 % of the frames of `rgbd_room`; the control is taught the same with the matches of each view
exchanged. Measured on rooms that no training saw and on the last 22 % of the frames. In OUT: `result.json`, the probes'
pictures, and `table.md` for docs/teachers.md; a second run with the same OUT continues where the first stopped.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatialboost.encoders import open_encoder
from spatialboost.experiments.experiment import Experiment, SeedRun, run_experiment
from spatialboost.probes import depth_probe, knn_probe, matches_probe
from spatialboost.probes.image_folder import LabelledImages, read_image_folder
from spatialboost.probes.views import ViewPairs
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.sources import Mapped, Subset, Walk, evenly_spaced, resize_cues
from spatialboost.teachers.correspondence import AttentionMatches, CorrespondenceObjective, attention_matches
from spatialboost.teachers.correspondence.objective import stack_sequences
from spatialboost.teachers.correspondence.sequences import Sequences
from spatialboost.training import RowImages, load_config

TRAIN, TEST = 0.70, 0.22  # of the frames
SHUFFLED_PAIRS = {"shuffled pairs": {"boost.shuffle_pairs": True}}
PLAN = TurnPlan({"depth": 1, "closer": 1})  # a row has a conversation; this teacher does not read it


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=112, help="image size in pixels, a multiple of 14")
    parser.add_argument("--rooms", type=int, default=300, help="rooms that teach")
    parser.add_argument("--views", type=int, default=4, help="views of each sequence")
    parser.add_argument("--stride", type=int, default=6, help="frames from one view to the next in the walk")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4, help="sequences in a step")
    parser.add_argument("--lr", type=float, default=5e-4, help="of vectors; heads have four times as much")
    parser.add_argument("--matrix-lr", type=float, default=1.5e-3, help="of Muon; 0: AdamW alone")
    parser.add_argument(
        "--measure", type=int, default=120, help="rooms to measure on; more of them fit the depth probe"
    )
    parser.add_argument(
        "--cifar", type=int, default=200, help="images of each class to fit on, half to test on; 0: none"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--starts", action="store_true", help="only print the loss at the start, by the start of heads")
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


def split(frames: RGBDFolder) -> dict[str, Subset]:
    """The first part of the walk, to teach and to fit on, and the last, to measure on."""
    train, test = round(TRAIN * len(frames)), round(TEST * len(frames))
    parts = {"train": range(train), "test": range(len(frames) - test, len(frames))}
    return {name: Subset(frames, list(part)) for name, part in parts.items()}


def small(source: Any, name: str) -> Mapped:
    return Mapped(source, lambda view: resize_cues(view, (240, 360)), name=name)


def some(folder: Path, of_class: int) -> LabelledImages:
    """The first images of each class."""
    images = read_image_folder(folder)
    kept = [i for i, label in enumerate(images.labels) if i - images.labels.index(label) < of_class]
    return LabelledImages([images.paths[i] for i in kept], [images.labels[i] for i in kept], images.classes)


def build_sequences(args: argparse.Namespace, frames: dict[str, Subset]) -> dict[str, Any]:
    """Write the rows: name -> the report of the build. The last rooms are held out by the run."""
    walk = Walk(frames["train"], views=args.views, stride=args.stride)
    every = max(1, args.stride // 2)
    sources = {
        "frames": small(Subset(walk, list(range(0, len(walk), every))), "rgbd_room train"),
        "rooms": Rooms(args.rooms + 16, size=args.size, views=args.views),
    }
    return {
        name: build_dataset(source, args.out / "data" / name, seed=0, plan=PLAN, with_depth=True)
        for name, source in sources.items()
    }


def configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the run, with the keys of its YAML file."""
    return {
        "encoder": {
            "name": "vit_small_patch14_dinov2",
            "kwargs": {"img_size": args.size},
            "weights": str(args.assets / "vit_small_patch14" / "model.safetensors"),
        },
        "data": {
            "folders": [str(args.out / "data" / name) for name in ("frames", "rooms")],
            "image_size": args.size,
            "held_out": 16,
        },
        "teacher": {
            "kind": "correspondence",
            "frames": [args.views, args.views],
            "grids": [8, 0],
            "width": 128,
            "evaluate": 16,
        },
        "boost": {
            "steps": args.steps,
            "batch_size": args.batch,
            "lr": args.lr,
            "matrix_lr": args.matrix_lr or None,
            "bf16": args.bf16,
            "kernel": "auto",
            "log_every": 5,
            "save_every": 40,
        },
    }


def probes(args: argparse.Namespace, frames: dict[str, Subset]) -> dict[str, Callable[[Any], Any]]:
    """The probes that measure each encoder."""
    shared: dict[str, Any] = {"image_size": args.size, "num_panels": 3}
    rooms = {
        n: Rooms(n, first=first, size=args.size) for n, first in ((2 * args.measure, 500_000), (args.measure, 600_000))
    }
    pairs = {
        "rooms": Rooms(args.measure, first=600_000, size=args.size, views=2),
        "frames": ViewPairs(small(frames["test"], "rgbd_room test"), most=max(4, args.measure // 3)),
    }
    parts = {
        name: small(evenly_spaced(part, n * args.measure), name)
        for (name, part), n in zip(frames.items(), (3, 1), strict=True)
    }
    fit_on, test_on = rooms.values()
    chosen: dict[str, Callable[[Any], Any]] = {
        "matches, rooms": lambda encoders: matches_probe(encoders, pairs["rooms"], **shared),
        "matches, frames": lambda encoders: matches_probe(encoders, pairs["frames"], **shared),
        "depth, rooms": lambda encoders: depth_probe(encoders, fit_on, test_on, **shared),
        "depth, frames": lambda encoders: depth_probe(encoders, parts["train"], parts["test"], **shared),
    }
    if args.cifar:
        cifar = [args.assets / "cifar10_subset" / name for name in ("train", "test")]
        fit, test = some(cifar[0], args.cifar), some(cifar[1], args.cifar // 2)
        chosen["CIFAR-10"] = lambda encoders: knn_probe(encoders, fit, test, image_size=args.size)
    return chosen


def attentions(args: argparse.Namespace, frames: dict[str, Subset]) -> dict[str, Callable[[Any], dict[str, Any]]]:
    """Name of the scenes -> function of the encoders: how well the attention of each matches points."""
    walk = Walk(frames["test"], views=6, stride=5)
    scenes = {
        "attention, rooms": Rooms(min(32, args.measure // 2), first=600_000, size=args.size, views=4),
        "attention, frames": small(evenly_spaced(walk, min(24, args.measure // 3)), "rgbd_room test"),
    }

    def measure(encoders: Any, source: Any) -> dict[str, Any]:
        return {name: attention_matches(each, source, image_size=args.size) for name, each in encoders.items()}

    return {name: partial(measure, source=source) for name, source in scenes.items()}


@torch.no_grad()
def print_starts(args: argparse.Namespace) -> None:
    """The loss on a few rooms before any training, for each way in which a head can start."""
    config = load_config({**configuration(args), "out": args.out})
    encoder = open_encoder(config.encoder).eval()
    images = RowImages(encoder, args.size)
    scenes = [Rooms(8, first=600_000, size=args.size, views=args.views)[i] for i in range(8)]
    for norm in (True, False):
        for start in ("paired", "truncated", "random"):
            torch.manual_seed(0)
            options = config.teacher.model_copy(update={"head_norm": norm, "head_start": start})
            objective = CorrespondenceObjective(encoder, options).eval()
            sequences = Sequences(images, images.grid, options)
            examples = [sequences.of_scene(scene, np.random.default_rng(0)) for scene in scenes]
            pixels = torch.cat([example.pop("pixel_values") for example in examples])
            loss = objective(pixel_values=pixels, **stack_sequences(examples))["loss"]
            print(f"head_norm: {str(norm).lower():5} head_start: {start:9} loss {float(loss):.3f}")


def main() -> None:
    args = parse()
    if args.starts:
        return print_starts(args)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.INFO)
    frames = split(RGBDFolder(args.assets / "rgbd_room"))
    built = build_sequences(args, frames)
    if empty := [name for name, report in built.items() if not report.written]:
        raise SystemExit(f"no row of {', '.join(empty)} could be built: {dict(built[empty[0]].skipped)}")
    experiment = run_experiment(configuration(args), args.out, probes={}, controls=SHUFFLED_PAIRS, seeds=args.seeds)
    attention: list[dict[str, Any]] = [{} for _ in experiment.runs]
    for name, measure in {**attentions(args, frames), **probes(args, frames)}.items():
        for run, found in zip(experiment.runs, attention, strict=True):
            logging.getLogger("spatialboost").info("seed %d: %s ...", run.seed, name)
            result = measure(run.encoders)
            if isinstance(result, dict):
                found[name] = result
                continue
            run.probes[name] = result
            result.save(args.out / f"seed{run.seed}" / "probes" / name)
        write(args, experiment, attention, built)  # after each, as the measuring takes its time
    print((args.out / "table.md").read_text())


def write(args: argparse.Namespace, experiment: Experiment, attention: list[Any], built: dict[str, Any]) -> None:
    """Write what is measured so far."""
    experiment.save(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        processor_seconds=round(time.process_time()),
        arguments={key: str(value) for key, value in vars(args).items() if key not in ("assets", "out")},
        data={name: {"written": report.written, "skipped": dict(report.skipped)} for name, report in built.items()},
        attention=[{k: {n: m.to_dict() for n, m in by.items()} for k, by in each.items()} for each in attention],
    )
    lines = [
        line for run, found in zip(experiment.runs, attention, strict=True) for line in table_of(experiment, run, found)
    ]
    (args.out / "table.md").write_text("\n".join(lines))


def table_of(experiment: Experiment, run: SeedRun, attention: dict[str, dict[str, AttentionMatches]]) -> list[str]:
    """The results of one seed as Markdown lines."""
    lines = [f"Seed {run.seed}"]
    for name, record in run.stages.items():
        history = record["boost"]["fit"]["history"]
        seconds = record["boost"]["fit"]["seconds"]
        loss = " -> ".join(f"{entry['loss']:.3f}" for entry in [*history[:1], *history[1:][-1:]])
        lines.append(f"{name}: loss {loss}, {seconds:.0f} s")
    for name, found in attention.items():
        one = next(iter(found.values()))
        heads = " | ".join(map(str, one.layers))
        lines += ["", f"| {name}: PCK by layer | mean | {heads} |", "|---|---|" + "---|" * len(one.layers)]
        for encoder, each in found.items():
            lines.append(f"| {encoder} | {each.mean:.3f} | {' | '.join(f'{share:.3f}' for share in each.pck)} |")
        lines.append(f"| random patch | {one.chance:.3f} |{' |' * len(one.layers)}")
        apart = sorted(one.by_distance)
        lines += ["", f"| {name}: views apart | correlation | {' | '.join(map(str, apart))} |"]
        lines.append("|---|---|" + "---|" * len(apart))
        for encoder, each in found.items():
            shares = " | ".join(f"{each.by_distance[dt]:.3f} ({each.robustness[dt]:.2f})" for dt in apart)
            sure = sum(each.confidence) / len(each.confidence)
            lines.append(f"| {encoder} | {sure:.2f} | {shares} |")
        lines.append(f"| random patch | | {' | '.join(f'{one.chance_by_distance[dt]:.3f}' for dt in apart)} |")
    for name, probe in run.probes.items():
        heads = " | ".join(metric.label for metric in probe.metrics.values())
        lines += ["", f"| {name} | {heads} |", "|---|" + "---|" * len(probe.metrics)]
        for encoder in probe.names:
            keys = {key for row in probe.rows if row.name == encoder for key in row.metrics}
            cells = (str(probe.spread(encoder, key)) if key in keys else "" for key in probe.metrics)
            lines.append(f"| {encoder} | {' | '.join(cells)} |")
        lines += ["", experiment.verdict(name)]
    gates = ", ".join(f"{gate['mean']:.4f}" for gate in run.gates["boosted"])
    return [*lines, "", f"Mean gate of each layer (0.5 at the start): {gates}.", ""]


if __name__ == "__main__":
    main()
