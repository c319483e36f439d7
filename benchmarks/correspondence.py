"""Correspondence as a teacher: of a pretrained ViT-S (Attn+), and of the layers of a language model behind it (LoRA).

    python benchmarks/correspondence.py --assets ASSETS --out runs/correspondence     # one core: about 15 minutes
    python benchmarks/correspondence.py --assets ASSETS --out runs/language --places language --seeds 0 1 2

ASSETS holds `vit_small_patch14/`, `rgbd_room/` and `cifar10_subset/`; the place `language` needs the extras `smollm2`
and `lora`. It teaches with procedural rooms of several views and with the first 70 % of the frames of `rgbd_room`; the
control is taught the same with the matches of each view exchanged. Measured on rooms that no training saw and on the
last 22 % of the frames. In OUT: `result.json`, and `table.md` for docs/teachers.md, with mean and standard deviation
over seeds. A second run with the same OUT continues where the first stopped: what was trained and measured is kept, and
further seeds or another place are added to the table.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spatialboost.encoders import open_encoder
from spatialboost.experiments.experiment import run_experiment
from spatialboost.probes import depth_probe, knn_probe, matches_probe
from spatialboost.probes.image_folder import LabelledImages, read_image_folder
from spatialboost.probes.views import ViewPairs
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.readers.rgbd import RGBDFolder
from spatialboost.scenes.rooms import Rooms
from spatialboost.scenes.sources import Mapped, Subset, Walk, evenly_spaced, resize_cues
from spatialboost.teachers.correspondence import AttentionMatches, CorrespondenceObjective, attention_matches
from spatialboost.teachers.correspondence.language import language_matches
from spatialboost.teachers.correspondence.objective import stack_sequences
from spatialboost.teachers.correspondence.sequences import Sequences
from spatialboost.training import RowImages, load_config, train
from spatialboost.training.claim import write_json
from spatialboost.training.run import evaluate

TRAIN, TEST = 0.70, 0.22  # of the frames
SHUFFLED_PAIRS = {"shuffled pairs": {"boost.shuffle_pairs": True}}
PLAN = TurnPlan({"depth": 1, "closer": 1})  # of the conversations, which only the place `language` reads
OWN = ("assets", "out", "seeds", "places", "starts")  # arguments that may differ when an OUT is continued

# Measures of the place `language` -> whether queries and keys are turned by their positions; None: of its answers
LANGUAGE = {"language model, rooms": False, "language model, rooms, turned": True, "answers": None}

Values = dict[str, float]  # name of a number -> its value
Measured = dict[str, dict[str, Values]]  # name of a measure -> model -> its numbers


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
    parser.add_argument("--places", nargs="+", choices=["encoder", "language"], default=["encoder"], help="of heads")
    parser.add_argument("--llm", default="smollm2", help="language model of the place `language`")
    parser.add_argument("--llm-steps", type=int, default=60, help="steps of two sequences, in its layers")
    parser.add_argument("--llm-lr", type=float, default=1e-3, help="of the LoRA; heads have four times as much")
    parser.add_argument("--lora-rank", type=int, default=32)
    parser.add_argument("--align-steps", type=int, default=40, help="steps of 4 conversations, for its projector")
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
    if "language" in args.places:  # conversations about one image, of other rooms
        sources["talk"] = Rooms(args.rooms + 16, first=200_000, size=args.size)
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


def encoder_place(args: argparse.Namespace, frames: dict[str, Subset], seed: int, store: Store) -> None:
    """Train Attn+ with heads on the encoder's blocks, and the control; measure both and the base."""
    measures: dict[str, Callable[[Any], Any]] = {**attentions(args, frames), **probes(args, frames)}
    if all(store.has(seed, name) for name in measures):
        return
    experiment = run_experiment(
        configuration(args), args.out / "encoder", probes={}, controls=SHUFFLED_PAIRS, seeds=[seed]
    )
    run = experiment.runs[0]
    for name, measure in measures.items():
        store.keep(seed, name, lambda measure=measure: numbers_of(measure(run.encoders)))


def language_place(args: argparse.Namespace, seed: int, store: Store) -> None:
    """Train a LoRA with heads on the language model's layers, and the control; measure both and the model before."""
    if all(store.has(seed, name) for name in LANGUAGE):
        return
    folder, own = args.out / "language" / f"seed{seed}", language_configuration(args)
    later = {"stage1": None, "teacher": {**own["teacher"], "earlier_run": str(folder / "base")}}
    runs: dict[str, dict[str, Any]] = {
        "base": {"match": None},
        "taught": later,
        "shuffled pairs": {**later, "match": {**own["match"], "shuffle_pairs": True}},
    }
    for name, changes in runs.items():
        measure_language({**own, **changes, "seed": seed, "out": str(folder / name)}, name, args, store)
        gc.collect()


def measure_language(config: dict[str, Any], name: str, args: argparse.Namespace, store: Store) -> None:
    """Train one model of the place `language`, or load it, and measure it."""
    teacher: Any = train(load_config(config)).teacher
    vlm = teacher.vlm.eval()
    scenes = Rooms(min(32, args.measure // 2), first=600_000, size=args.size, views=args.views)
    for measure, rotary in LANGUAGE.items():
        if rotary is None:
            store.part(config["seed"], measure, name, lambda: answers(Path(config["out"])))
            continue
        match = partial(language_matches, vlm, teacher.tokenizer, scenes, image_size=args.size, rotary=rotary)
        store.part(config["seed"], measure, name, lambda match=match: numbers(match()))


def language_configuration(args: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the place `language`, with the keys of its YAML file."""
    config = configuration(args)
    step = {"log_every": 5, "save_every": 20, "bf16": True}
    teacher = {key: config["teacher"][key] for key in ("frames", "grids", "width", "evaluate")}
    return {
        "encoder": config["encoder"],
        "data": config["data"],
        "teacher": {
            **teacher,
            "kind": "language-correspondence",
            "llm": {"name": args.llm},
            "instruction_folders": [str(args.out / "data" / "talk")],
            "lora_rank": args.lora_rank,
        },
        "stage1": {**step, "steps": args.align_steps, "batch_size": 4, "lr": 1e-3},
        "match": {**step, "steps": args.llm_steps, "batch_size": 2, "lr": args.llm_lr},
        "boost": None,
    }


def answers(run: Path) -> Values:
    """How well a model knows the true answers of held-out rows, token by token."""
    found = next(score for score in evaluate(run, rows=16) if score.kind == "answer tokens")
    return {"share of tokens": found.accuracy, "loss": float(found.loss or 0), "tokens": found.answers}


class Store:
    """What was measured, in one file for each seed and measure, so that it is measured once.

    Args:
        out: Folder of the benchmark.
    """

    def __init__(self, out: Path) -> None:
        self.folder = out / "measured"

    def file(self, seed: int, name: str) -> Path:
        return self.folder / f"seed{seed}" / f"{name}.json"

    def has(self, seed: int, name: str) -> bool:
        """Whether all models were measured."""
        found = self.read(seed, name)
        return {"shuffled pairs", "base"} <= found.keys() and len(found) > 2

    def read(self, seed: int, name: str) -> dict[str, Values]:
        file = self.file(seed, name)
        return json.loads(file.read_text()) if file.is_file() else {}

    def keep(self, seed: int, name: str, make: Callable[[], dict[str, Values]]) -> None:
        """Measure all models at once, unless it is done."""
        if not self.has(seed, name):
            logging.getLogger("spatialboost").info("seed %d: %s ...", seed, name)
            self._write(seed, name, make())

    def part(self, seed: int, name: str, model: str, make: Callable[[], Values]) -> Values:
        """Measure one model, unless it is done."""
        found = self.read(seed, name)
        if model not in found:
            found[model] = make()
            self._write(seed, name, found)
        return found[model]

    def _write(self, seed: int, name: str, values: dict[str, Values]) -> None:
        self.file(seed, name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.file(seed, name), values)

    def all(self) -> dict[int, Measured]:
        """Seed -> everything that was measured with it."""
        seeds = sorted(int(folder.name.removeprefix("seed")) for folder in self.folder.glob("seed*"))
        return {
            seed: {
                file.stem: self.read(seed, file.stem) for file in sorted((self.folder / f"seed{seed}").glob("*.json"))
            }
            for seed in seeds
        }


def numbers(found: AttentionMatches) -> Values:
    """The numbers of a measurement of attention."""
    sure = [each for each in found.confidence if each == each]
    apart = sorted(found.by_distance)
    robustness = found.robustness[apart[-1]]
    return {
        "mean": found.mean,
        "chance": found.chance,
        "matches": found.points,
        "confidence": sum(sure) / len(sure) if sure else 0.0,
        **{f"layer {layer}": share for layer, share in zip(found.layers, found.pck, strict=True)},
        **{f"{dt} apart": found.by_distance[dt] for dt in apart},
        **{f"{dt} apart, chance": found.chance_by_distance[dt] for dt in apart},
        **({} if math.isnan(robustness) else {"robustness": robustness}),
    }


def numbers_of(found: Any) -> dict[str, Values]:
    """The numbers of each encoder, of a probe or of measurements of attention; of a probe, means over its seeds."""
    if isinstance(found, Mapping):
        return {name: numbers(each) for name, each in found.items()}
    return {
        name: {
            metric.label: float(np.mean(values))
            for key, metric in found.metrics.items()
            if (values := found.values(name, key))
        }
        for name in found.names
    }


def main() -> None:
    args = parse()
    if args.starts:
        return print_starts(args)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("spatialboost").setLevel(logging.INFO)
    check_arguments(args)
    frames = split(RGBDFolder(args.assets / "rgbd_room"))
    built = build_sequences(args, frames)
    if empty := [name for name, report in built.items() if not report.written]:
        raise SystemExit(f"no row of {', '.join(empty)} could be built: {dict(built[empty[0]].skipped)}")
    store = Store(args.out)
    for seed in args.seeds:
        if "encoder" in args.places:
            encoder_place(args, frames, seed, store)
        if "language" in args.places:
            language_place(args, seed, store)
        write(args, store, built)
    print((args.out / "table.md").read_text())


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse an OUT that was begun with other arguments, as its results would not belong together."""
    given = {key: value for key, value in vars(args).items() if key not in OWN}
    file = args.out / "arguments.json"
    found = json.loads(file.read_text()) if file.is_file() else given
    if wrong := [key for key in given if found.get(key, given[key]) != given[key]]:
        key = wrong[0]
        raise SystemExit(
            f"{args.out} was begun with {key} = {found[key]}, now it is {given[key]}: choose another --out"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(file, given)


def write(args: argparse.Namespace, store: Store, built: Mapping[str, Any]) -> None:
    """Write what is measured so far."""
    measured = store.all()
    facts = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processor_seconds": round(time.process_time()),
        "arguments": {key: value for key, value in vars(args).items() if key not in ("assets", "out")},
        "data": {name: {"written": report.written, "skipped": dict(report.skipped)} for name, report in built.items()},
        "measured": measured,
    }
    (args.out / "result.json").write_text(json.dumps(facts, indent=2, default=str) + "\n")
    names = list(dict.fromkeys(name for each in measured.values() for name in each))
    lines = [line for name in names for line in table_of(name, {s: m[name] for s, m in measured.items() if name in m})]
    (args.out / "table.md").write_text("\n".join(lines))


def table_of(name: str, by_seed: Mapping[int, Mapping[str, Values]]) -> list[str]:
    """One measure as Markdown lines: mean over seeds, and with several seeds the standard deviation."""
    models = list(dict.fromkeys(model for each in by_seed.values() for model in each))
    columns = list(dict.fromkeys(key for each in by_seed.values() for values in each.values() for key in values))
    lines = ["", f"{name}, seeds {', '.join(map(str, by_seed))}", ""]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for model in models:
        cells = []
        for column in columns:
            found = [each[model][column] for each in by_seed.values() if column in each.get(model, {})]
            cells.append(spread(found))
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


def spread(values: list[float]) -> str:
    """Mean, and standard deviation if there are several values.

    >>> spread([0.5]), spread([0.4, 0.6]), spread([])
    ('0.500', '0.500 +- 0.141', '')
    """
    if not values:
        return ""
    mean = statistics.fmean(values)
    text = f"{mean:.0f}" if mean > 50 else f"{mean:.3f}"
    return text if len(values) == 1 else f"{text} +- {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
