"""The spatial field as a teacher of a pretrained ViT-S: rendered features and probes against base and a control.

    python benchmarks/field.py --assets ASSETS --out runs/field      # one core

ASSETS holds `vit_small_patch14/`, `rgbd_room/` and `cifar10_subset/`. It teaches with procedural rooms of several views
and with the first 70 % of the frames of `rgbd_room`: first the field on the frozen encoder, then Attn+ through the
field. The control begins with the same field, and renders the views of each place from another place of the batch.
Measured on rooms that no training saw and on the last 22 % of the frames. In OUT: `result.json`, the probes' pictures,
`rendered.png` with maps of rendered features, and `table.md` for docs/teachers.md; a second run with the same OUT
continues where the first stopped.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from correspondence import PLAN, some, split
from PIL import Image
from safetensors.torch import load_file

from spatialboost.experiments.experiment import Experiment, SeedRun, run_experiment
from spatialboost.probes import depth_probe, knn_probe, matches_probe
from spatialboost.probes.token_colours import principal_colours
from spatialboost.probes.views import ViewPairs
from spatialboost.scenes.cues import BAD_ITEM
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.scene import Scene
from spatialboost.scenes.sources import Mapped, Subset, Walk, evenly_spaced, resize_cues
from spatialboost.teachers.field import FieldObjective, FieldTeacher, RenderedViews, feature_maps, measure_rendering
from spatialboost.teachers.field.measures import GUESSES
from spatialboost.teachers.field.teacher import FIELD
from spatialboost.teachers.protocol import Example
from spatialboost.training.run import TrainResult

EXCHANGED = {"exchanged views": {"boost.exchange_views": True}}
SHOWN, CELL = 4, 112  # rooms in the picture, and the side of a map in pixels


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=112, help="image size in pixels, a multiple of 14")
    parser.add_argument("--rooms", type=int, default=400, help="rooms that teach")
    parser.add_argument("--views", type=int, default=4, help="views of each sequence")
    parser.add_argument("--stride", type=int, default=6, help="frames from one view to the next in the walk")
    parser.add_argument("--field-steps", type=int, default=400)
    parser.add_argument("--field-batch", type=int, default=8, help="sequences in a step of the field")
    parser.add_argument("--field-lr", type=float, default=1e-3, help="of the field's vectors")
    parser.add_argument("--field-matrix-lr", type=float, default=1e-2, help="of the field's matrices, Muon; 0: AdamW")
    parser.add_argument("--width", type=int, default=192, help="of the field")
    parser.add_argument("--depth", type=int, default=3, help="blocks of the field's encoder and of its decoder")
    parser.add_argument("--latents", type=int, default=64)
    parser.add_argument("--pupil", choices=("context", "semantic"), default="context")
    parser.add_argument("--steps", type=int, default=60, help="of the stage that boosts")
    parser.add_argument("--batch", type=int, default=4, help="sequences in a step of the stage that boosts")
    parser.add_argument("--lr", type=float, default=5e-4, help="of vectors")
    parser.add_argument("--matrix-lr", type=float, default=1.5e-3, help="of Muon; 0: AdamW alone")
    parser.add_argument("--measure", type=int, default=96, help="rooms to measure on; more of them fit the depth probe")
    parser.add_argument(
        "--cifar", type=int, default=200, help="images of each class to fit on, half to test on; 0: none"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()


def small(source: Any, name: str) -> Mapped:
    return Mapped(source, lambda view: resize_cues(view, (240, 360)), name=name)


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
    shared = {"bf16": args.bf16, "log_every": 10, "save_every": 50}
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
            "kind": "field",
            "pupil": args.pupil,
            "frames": [args.views, args.views],
            "width": args.width,
            "depth": args.depth,
            "heads": max(1, args.width // 32),
            "latents": args.latents,
            "evaluate": 16,
        },
        "field": {
            **shared,
            "steps": args.field_steps,
            "batch_size": args.field_batch,
            "lr": args.field_lr,
            "matrix_lr": args.field_matrix_lr or None,
        },
        "boost": {
            **shared,
            "steps": args.steps,
            "batch_size": args.batch,
            "lr": args.lr,
            "matrix_lr": args.matrix_lr or None,
            "kernel": "auto",
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
        "depth, rooms": lambda encoders: depth_probe(encoders, fit_on, test_on, **shared),
        "depth, frames": lambda encoders: depth_probe(encoders, parts["train"], parts["test"], **shared),
        "matches, rooms": lambda encoders: matches_probe(encoders, pairs["rooms"], **shared),
        "matches, frames": lambda encoders: matches_probe(encoders, pairs["frames"], **shared),
    }
    if args.cifar:
        cifar = [args.assets / "cifar10_subset" / name for name in ("train", "test")]
        fit, test = some(cifar[0], args.cifar), some(cifar[1], args.cifar // 2)
        chosen["CIFAR-10"] = lambda encoders: knn_probe(encoders, fit, test, image_size=args.size)
    return chosen


def scenes(args: argparse.Namespace, frames: dict[str, Subset]) -> dict[str, Any]:
    """Scenes that no training saw, to render views of."""
    walk = Walk(frames["test"], views=args.views, stride=args.stride)
    return {
        "rendered, rooms": Rooms(max(8, args.measure // 2), first=600_000, size=args.size, views=args.views),
        "rendered, frames": small(evenly_spaced(walk, max(4, args.measure // 4)), "rgbd_room test"),
    }


def examples(teacher: FieldTeacher, source: Any) -> tuple[list[Example], list[Scene], int]:
    """The examples of scenes: every second view is a target; the scenes; and how many have no overlap."""
    make, found, kept = teacher.make_example(None, [], []), [], []
    skipped = 0
    for number in range(len(source)):
        scene = source[number]
        order = [*range(0, len(scene.views), 2), *range(1, len(scene.views), 2)]
        own = Scene([scene.views[i] for i in order])
        try:
            found.append(make.of_scene(own, (len(order) + 1) // 2))  # type: ignore[attr-defined]
            kept.append(own)
        except BAD_ITEM:
            skipped += 1
    return found, kept, skipped


def picture(rows: list[tuple[list[np.ndarray], Mapping[str, torch.Tensor]]]) -> Image.Image:
    """For each scene: a context view, the target view, then its features as colours: the truth and each guess."""
    names = ("true", *GUESSES)
    colours = principal_colours(torch.stack([torch.stack([maps[name][0] for name in names]) for _, maps in rows]))
    sheet = []
    for (views, _), maps_Mhw3 in zip(rows, colours, strict=True):
        cells = [Image.fromarray(view).resize((CELL, CELL)) for view in views]
        maps = [Image.fromarray((each * 255).byte().numpy()) for each in maps_Mhw3]
        cells += [each.resize((CELL, CELL), Image.Resampling.NEAREST) for each in maps]
        sheet.append(
            np.concatenate([np.pad(np.asarray(c), ((2, 2), (2, 2), (0, 0)), constant_values=255) for c in cells], 1)
        )
    return Image.fromarray(np.concatenate(sheet))


def before_boosting(result: TrainResult) -> FieldObjective:
    """The objective after the first stage: the field as it was, on the base encoder."""
    teacher: Any = result.teacher
    objective = copy.deepcopy(teacher.objective)
    objective.encoder = objective.base_encoder
    objective.field.load_state_dict(load_file(result.out / "field" / FIELD))
    return objective


def measure_renderings(
    args: argparse.Namespace, run: SeedRun, sources: Mapping[str, Any]
) -> dict[str, dict[str, RenderedViews]]:
    """Name of the scenes -> run -> its rendered features; and the picture."""
    found: dict[str, dict[str, RenderedViews]] = {}
    for name, source in sources.items():
        boosted: Any = run.results["boosted"].teacher
        made, kept, skipped = examples(boosted, source)
        logging.getLogger("spatialboost").info("%s: %d scenes, %d skipped", name, len(made), skipped)
        objectives = {"base": before_boosting(run.results["boosted"])}
        objectives |= {label: result.teacher.objective for label, result in run.results.items()}  # type: ignore[misc]
        for label, objective in objectives.items():
            found.setdefault(name, {})[label] = measure_rendering(objective, made)
            if label == "boosted":
                shown = [
                    (
                        [kept[i].views[0].image_HW3, kept[i].views[int(made[i]["contexts"])].image_HW3],
                        feature_maps(objective, made[i]),
                    )
                    for i in range(min(SHOWN, len(made)))
                ]
                picture(shown).save(args.out / f"seed{run.seed}" / f"{name.replace(', ', '-')}.png")
    return found


def main() -> None:
    args = parse()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.INFO)
    frames = split(RGBDFolder(args.assets / "rgbd_room"))
    built = build_sequences(args, frames)
    if empty := [name for name, report in built.items() if not report.written]:
        raise SystemExit(f"no row of {', '.join(empty)} could be built: {dict(built[empty[0]].skipped)}")
    experiment = run_experiment(configuration(args), args.out, probes={}, controls=EXCHANGED, seeds=args.seeds)
    rendered = [measure_renderings(args, run, scenes(args, frames)) for run in experiment.runs]
    write(args, experiment, rendered, built)
    for name, measure in probes(args, frames).items():
        for run in experiment.runs:
            logging.getLogger("spatialboost").info("seed %d: %s ...", run.seed, name)
            run.probes[name] = measure(run.encoders)
            run.probes[name].save(args.out / f"seed{run.seed}" / "probes" / name)
        write(args, experiment, rendered, built)  # after each, as the measuring takes its time
    print((args.out / "table.md").read_text())


def write(args: argparse.Namespace, experiment: Experiment, rendered: list[Any], built: dict[str, Any]) -> None:
    """Write what is measured so far."""
    experiment.save(
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        processor_seconds=round(time.process_time()),
        arguments={key: str(value) for key, value in vars(args).items() if key not in ("assets", "out")},
        data={name: {"written": report.written, "skipped": dict(report.skipped)} for name, report in built.items()},
        rendered=[{k: {n: m.to_dict() for n, m in by.items()} for k, by in each.items()} for each in rendered],
    )
    lines = [
        line for run, found in zip(experiment.runs, rendered, strict=True) for line in table_of(experiment, run, found)
    ]
    (args.out / "table.md").write_text("\n".join(lines))


def table_of(experiment: Experiment, run: SeedRun, rendered: dict[str, dict[str, RenderedViews]]) -> list[str]:
    """The results of one seed as Markdown lines."""
    lines = [f"Seed {run.seed}"]
    for name, record in run.stages.items():
        for stage, each in record.items():
            history = each["fit"]["history"]
            loss = " -> ".join(f"{entry['loss']:.3f}" for entry in [*history[:1], *history[1:][-1:]])
            lines.append(f"{name}, {stage}: loss {loss}, {each['fit']['seconds']:.0f} s")
    for name, found in rendered.items():
        one = next(iter(found.values()))
        lines += ["", f"| {name}: {one.views} views | cosine | distance | most similar at | depth error |"]
        lines.append("|---|---|---|---|---|")
        for label, each in found.items():
            cells = f"{each.cosine['rendered']:.3f} | {each.distance['rendered']:.3f} | {each.wins['rendered']:.1%}"
            lines.append(f"| field of {label} | {cells} | {each.depth_error:.3f} |")
        for guess in GUESSES[1:]:
            cells = f"{one.cosine[guess]:.3f} | {one.distance[guess]:.3f} | {one.wins[guess]:.1%}"
            lines.append(f"| {guess} | {cells} | |")
        lines.append(f"| median depth | | | | {one.depth_guess_error:.3f} |")
    for name, probe in run.probes.items():
        heads = " | ".join(metric.label for metric in probe.metrics.values())
        lines += ["", f"| {name} | {heads} |", "|---|" + "---|" * len(probe.metrics)]
        for encoder in probe.names:
            keys = {key for row in probe.rows if row.name == encoder for key in row.metrics}
            cells = " | ".join(str(probe.spread(encoder, key)) if key in keys else "" for key in probe.metrics)
            lines.append(f"| {encoder} | {cells} |")
        lines += ["", experiment.verdict(name)]
    gates = ", ".join(f"{gate['mean']:.4f}" for gate in run.gates["boosted"])
    return [*lines, "", f"Mean gate of each layer (0.5 at the start): {gates}.", ""]


if __name__ == "__main__":
    main()
