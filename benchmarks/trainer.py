"""How fast the trainer is, and how much memory it takes. Each part prints ratios of what is measured in the same run.

    python benchmarks/trainer.py overhead             # the trainer against a bare loop on tensors in memory
    python benchmarks/trainer.py features             # the first epoch with cached features against the later ones
    python benchmarks/trainer.py rows                 # 10^6 rows in parquet files against 10^3: first step, memory
    python benchmarks/trainer.py workers --workers 0 1 2

`overhead` and `features` take the demo's language model (`--llm` takes another folder) and time each step from the
beginning of one forward pass to the beginning of the next; they print medians. Without a GPU this is the time of the
processor, so other work on the machine changes little. `rows` runs `spatialboost train` with one step in a new process
for each number of rows.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from spatialboost.demo import ASSETS, SIZE, encoder_section, load_encoder
from spatialboost.encoders import open_encoder
from spatialboost.scenes.dataset.reader import open_rows
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms
from spatialboost.teachers.language import BoostConfig, ChatDataset, InstructConfig
from spatialboost.teachers.language.teacher import LanguageTeacher
from spatialboost.training import RowImages
from spatialboost.training.data import RowCollator
from spatialboost.training.fit import fit
from spatialboost.training.optimizers import build_optimizer
from spatialboost.training.stage import train_stage
from spatialboost.vlm import SpatialVLM, load_llm
from spatialboost.vlm.projector import build_projector

ROWS_PER_FILE = 256  # what `spatialboost data build` writes by default


def rooms(folder: Path, count: int, size: int) -> Path:
    """A data set of procedural rooms."""
    plan = TurnPlan({"depth": 12}, wordings=2)  # what the demo's language model knows
    build_dataset(Rooms(count, size=size), folder, seed=0, plan=plan, rows_per_shard=ROWS_PER_FILE, progress=False)
    return folder


def model(args: argparse.Namespace, encoder: nn.Module) -> tuple[SpatialVLM, Any]:
    llm, tokenizer = load_llm(args.llm)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return SpatialVLM(encoder, llm, projector=build_projector(encoder, llm)).to(device), tokenizer


def timed(module: nn.Module, run: Callable[[], Any]) -> list[float]:
    """Seconds from each forward pass of a module to the next one, while a function runs."""
    times: list[float] = []
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    hook = module.register_forward_pre_hook(lambda *_: times.append(clock()))
    run()
    hook.remove()
    return [after - before for before, after in pairwise(times)]


def overhead(args: argparse.Namespace, scratch: Path) -> None:
    """Tokens per second of the trainer and of a bare loop that takes the same steps on the same tensors."""
    data = rooms(scratch / "rooms", args.batch, SIZE)
    for name, config in (("stage2", InstructConfig), ("stage3", BoostConfig)):
        encoder = load_encoder()
        vlm, tokenizer = model(args, encoder)
        numbers = list(range(args.batch)) * args.steps
        dataset = ChatDataset(open_rows([data]), RowImages(encoder, SIZE), tokenizer, numbers=numbers)
        teacher = LanguageTeacher(vlm, tokenizer, dataset.images.num_tokens)
        stage = config(steps=args.steps, batch_size=args.batch, save_every=0, bf16=args.bf16)
        first = config(steps=2, batch_size=args.batch, save_every=0)  # freezes, boosts, and computes the features
        train_stage(teacher, name, first, dataset, folder=scratch / "first")
        rows = dataset.with_features(name == "stage2")
        memory = Memory([rows[place] for place in range(args.batch)], args.steps)
        groups = _groups(teacher)
        times: dict[str, list[float]] = {"bare": [], "trainer": [], "trainer, from parquet": []}
        for turn in range(args.repeats):
            times["bare"] += timed(teacher.objective, partial(bare, teacher, memory.examples, groups, stage))[2:]
            for source, label in ((memory, "trainer"), (rows, "trainer, from parquet")):
                options: dict[str, Any] = {"folder": scratch / f"{name}-{turn}-{label}", "collate": teacher.collate}
                train = partial(fit, teacher.objective, source, groups, stage, **options)
                times[label] += timed(teacher.objective, train)[2:]
        tokens = int(RowCollator(teacher.collate)(memory.examples)["attention_mask"].sum())
        speed = {label: tokens / statistics.median(found) for label, found in times.items()}
        for label, value in speed.items():
            print(f"{name}, {label}: {value:,.0f} tokens/s, {value / speed['bare']:.3f} of the bare loop")


class Memory(torch.utils.data.Dataset[Any]):
    """A few examples in memory, repeated."""

    def __init__(self, examples: Sequence[Any], repeats: int) -> None:
        self.examples = [{key: value for key, value in each.items() if key != "row"} for each in examples]
        self.repeats = repeats

    def __len__(self) -> int:
        return len(self.examples) * self.repeats

    def __getitem__(self, place: int) -> Any:
        return self.examples[place % len(self.examples)]


def bare(teacher: LanguageTeacher, examples: Sequence[Any], groups: Any, stage: Any) -> None:
    """The shortest loop that takes the same steps."""
    objective = teacher.objective
    device = next(objective.parameters()).device
    optimizer = build_optimizer(groups, beta2=stage.beta2, fused=True)
    parameters = [p for group in groups for p in group["params"]]
    batch = {key: value.to(device) for key, value in RowCollator(teacher.collate)(examples).items()}
    objective.train()
    for _ in range(stage.steps):
        with torch.autocast(device.type, torch.bfloat16, enabled=stage.bf16):
            loss = objective(**batch)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, stage.clip)
        optimizer.step()
        optimizer.zero_grad()


def _groups(teacher: LanguageTeacher) -> list[dict[str, Any]]:
    """All trained parameters, at a low rate."""
    return [{"params": [p for p in teacher.objective.parameters() if p.requires_grad], "lr": 1e-5}]


def features(args: argparse.Namespace, scratch: Path) -> None:
    """Seconds of a step in the first epoch, which computes the features, and in later ones, which read them."""
    encoder = open_encoder({"name": args.encoder, "kwargs": {"img_size": args.size}}, seed=0)
    vlm, tokenizer = model(args, encoder)
    rows = open_rows([rooms(scratch / "rooms", 12 * args.batch, args.size)])
    dataset = ChatDataset(rows, RowImages(encoder, args.size), tokenizer)
    teacher = LanguageTeacher(vlm, tokenizer, dataset.images.num_tokens)
    for name in ("stage1", "stage2"):
        dataset.features = type(dataset.features)(len(rows))
        stage = teacher.stages[name].config(epochs=3, batch_size=args.batch, save_every=0, bf16=args.bf16)
        options: dict[str, Any] = {"folder": scratch / name, "workers": args.workers[0]}
        times = timed(teacher.objective, partial(train_stage, teacher, name, stage, dataset, **options))
        first, later = statistics.median(times[2:11]), statistics.median(times[12:])
        print(f"{name}: {first:.3f} s a step in the first epoch, {later:.3f} s later: {first / later:.2f} times faster")


def workers(args: argparse.Namespace, scratch: Path) -> None:
    """Rows that are read, decoded, resized and tokenised in a second, by number of worker processes."""
    encoder = load_encoder()
    _, tokenizer = model(args, encoder)
    rows = open_rows([rooms(scratch / "rooms", 32 * args.batch, args.size)])
    dataset = ChatDataset(rows, RowImages(encoder, SIZE), tokenizer)
    speed = {}
    for count in args.workers:
        loader = DataLoader(
            dataset, args.batch, shuffle=True, collate_fn=RowCollator(lambda rest: {}), num_workers=count
        )
        batches = iter(loader)
        next(batches)  # the workers have begun
        began = time.perf_counter()
        read = sum(len(batch["pixel_values"]) for batch in batches)
        speed[count] = read / (time.perf_counter() - began)
        print(
            f"{count} workers: {speed[count]:.1f} rows/s, {speed[count] / speed[args.workers[0]]:.2f} times "
            f"{args.workers[0]} workers"
        )


def rows(args: argparse.Namespace, scratch: Path) -> None:
    """Seconds until the end of a run of one step, and the peak memory, for different numbers of rows."""
    source = next(rooms(scratch / "source", ROWS_PER_FILE, 32).glob("*.parquet")).read_bytes()
    found: dict[int, list[dict[str, float]]] = {}
    for count in args.counts:
        folder = scratch / str(count)
        folder.mkdir()
        for number in range(max(1, count // ROWS_PER_FILE)):
            (folder / f"part-{number:05d}.parquet").write_bytes(source)
    for turn in range(args.repeats):
        for count in args.counts:
            config = {
                "encoder": encoder_section(),
                "teacher": {"llm": {"name": args.llm}, "evaluate": 0},
                "data": {"folders": [str(scratch / str(count))], "image_size": SIZE, "held_out": 0},
                "stage1": None,
                "stage2": {"steps": 1, "batch_size": args.batch},
                "stage3": None,
                "out": str(scratch / f"run-{count}-{turn}"),
            }
            command = [sys.executable, __file__, "one", "--config", json.dumps(config)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.setdefault(count, []).append(json.loads(done.stdout.splitlines()[-1]))
    best = {count: {key: min(each[key] for each in runs) for key in runs[0]} for count, runs in found.items()}
    for count, numbers in best.items():
        read = max(1, count // ROWS_PER_FILE) * ROWS_PER_FILE
        print(
            f"{read} rows: {numbers['seconds']:.2f} s, of which {numbers['processor']:.2f} s of the processor, "
            f"{numbers['megabytes']:.0f} MB"
        )
    few, many = best[args.counts[0]], best[args.counts[-1]]
    print(
        f"difference: {many['seconds'] - few['seconds']:+.2f} s, "
        f"{many['processor'] - few['processor']:+.2f} s of the processor, "
        f"{many['megabytes'] - few['megabytes']:+.0f} MB"
    )


def one(args: argparse.Namespace, scratch: Path) -> None:
    """Train in this process; print seconds and peak memory as JSON."""
    from spatialboost.training.config import load_config
    from spatialboost.training.run import train

    began, busy = time.perf_counter(), time.process_time()
    train(load_config(json.loads(args.config)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds, processor = time.perf_counter() - began, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "processor": processor, "megabytes": peak}))


PARTS = {part.__name__: part for part in (overhead, features, rows, workers, one)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--llm", default=str(ASSETS / "llm"))
    parser.add_argument("--encoder", default="vit_small_patch16_224", help="of `features`")
    parser.add_argument("--size", type=int, default=224, help="of the images of `features` and `workers`")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="of each repeat of `overhead`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=[10**3, 10**6], help="of `rows`")
    parser.add_argument("--config", help="of `one`, which `rows` calls")
    args = parser.parse_args()
    for noisy in ("transformers", "spatialboost"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        PARTS[args.part](args, Path(scratch))


if __name__ == "__main__":
    main()
