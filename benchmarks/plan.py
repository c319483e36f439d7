"""The figures of `spatialboost train --plan` beside the peak memory of real training steps.

    python benchmarks/plan.py check --out runs/plan                  # on a CPU: about 10 minutes on two cores
    python benchmarks/plan.py check --out runs/plan --device cuda    # on a GPU: torch.cuda.max_memory_allocated
    python benchmarks/plan.py models                                 # encoder x language model, from their sizes

`check` trains five steps of each stage of both teachers, with two sizes of encoder and language model, with and without
checkpointing, each in a process of its own. On a CPU it measures twice: what torch's allocator has given out (the
profiler's memory events), and the resident memory of the process, from which that before the models were built is taken
away. The first step is not measured, as the check of what moved makes copies. It prints a table for docs/training.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

MB = 10**6
SIZE, BATCH = 112, 4
SIZES = {
    "S": ({"embed_dim": 192, "depth": 6, "num_heads": 3}, {"width": 256, "layers": 3, "heads": 4}),
    "M": ({"embed_dim": 384, "depth": 12, "num_heads": 6}, {"width": 512, "layers": 6, "heads": 8}),
}
STAGES = {"stage1": "language", "stage2": "language", "stage3": "language", "head": "pixel", "boost": "pixel"}


def configuration(folder: Path, stage: str, size: str, checkpointing: bool) -> dict[str, Any]:
    """The content of a run's file."""
    encoder, llm = SIZES[size]
    shape = {"img_size": SIZE, "patch_size": 14, "num_classes": 0, **encoder}
    language = {"kind": "language", "llm": {"name": "small", "kwargs": llm}}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": shape, "pretrained": False},
        "data": {"folders": [str(folder / "rows")], "image_size": SIZE, "held_out": 0, "workers": 0},
        "teacher": language if STAGES[stage] == "language" else {"kind": "pixel", "targets": ["depth"]},
        **{name: None for name, kind in STAGES.items() if kind == STAGES[stage] and name != stage},
        stage: {"steps": 5, "batch_size": BATCH, "checkpointing": checkpointing, "save_every": 0},
        "out": str(folder / "run"),
    }


def write_rows(folder: Path) -> None:
    """64 times the same row, so that each batch is as large as the plan takes it to be."""
    import pyarrow
    import pyarrow.parquet as parquet

    from spatialboost.scenes.dataset.writer import build_dataset
    from spatialboost.scenes.rooms import Rooms

    build_dataset(Rooms(1, size=SIZE), folder / "one", seed=0, with_depth=True, progress=False)
    table = parquet.read_table(next((folder / "one").glob("*.parquet")))
    (folder / "rows").mkdir(parents=True)
    parquet.write_table(pyarrow.concat_tables([table] * 64), folder / "rows" / "part-00000.parquet")


class Measured(TrainerCallback):
    """Measures the memory of the steps after the first: on a CPU two steps in each way, on a GPU four."""

    def __init__(self, device: str) -> None:
        self.device, self.standing = device, 0
        self.peaks: dict[str, int] = {}
        self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def on_step_end(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, model: Any = None, **_: Any
    ) -> None:
        if state.global_step == 1 and self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif state.global_step == 5 and self.device == "cuda":
            self.peaks["allocator"] = torch.cuda.max_memory_allocated()
        elif state.global_step == 1:
            Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident memory starts again from here
        elif state.global_step == 3:
            self.peaks["resident"] = resident("VmHWM")
            tensors = [*model.parameters(), *model.buffers()]
            tensors += [each for one in states(optimizer) for each in one.values() if isinstance(each, torch.Tensor)]
            storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
            self.standing = sum(storages.values())
            self.profiler.__enter__()
        elif state.global_step == 5:
            self.profiler.__exit__(None, None, None)
            events = self.profiler.profiler.kineto_results.events()
            live = accumulate(event.nbytes() for event in events if event.name() == "[memory]")
            self.peaks["allocator"] = self.standing + max(live)


def states(optimizer: Any) -> list[dict[str, Any]]:
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    return [one for part in getattr(inner, "parts", [inner]) for one in part.state.values()]


def resident(key: str) -> int:
    """Bytes of memory of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def train(config: dict[str, Any], stage: str, device: str, folder: Path) -> dict[str, int]:
    """Train a stage; returns the peaks in bytes."""
    import spatialboost.training.fit as fit_module
    from spatialboost.training.config import load_config
    from spatialboost.training.run import _Run
    from spatialboost.training.stage import train_stage

    measured = Measured(device)
    fit_module.Movement = lambda *_, **__: measured  # in the place of the check of the first step
    settings = load_config(config)
    run = _Run(settings)
    own = getattr(settings, stage)
    options = {"folder": folder / stage, "device": "auto" if device == "cuda" else "cpu"}
    train_stage(run.teacher, stage, own, run.dataset(own, run.training), **options)
    return measured.peaks


def measure(args: argparse.Namespace) -> None:
    """One case in this process: prints its peaks in bytes."""
    config = configuration(args.out, args.stage, args.size, args.checkpointing)
    before = 0
    if args.device == "cpu":
        train(configuration(args.out, args.stage, "S", False), args.stage, "cpu", args.out / "warm-up")
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS")
    peaks = train(config, args.stage, args.device, args.out / "case")
    print(json.dumps({way: peak - before * (way == "resident") for way, peak in peaks.items()}))


def measured_elsewhere(args: argparse.Namespace, stage: str, size: str, checkpointing: bool) -> dict[str, int]:
    words = [sys.executable, __file__, "measure", "--out", str(args.out), "--device", args.device]
    words += ["--stage", stage, "--size", size, *(["--checkpointing"] if checkpointing else [])]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}  # freed memory goes back
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(args: argparse.Namespace) -> None:
    """The table of planned and measured peaks."""
    from spatialboost.training.config import load_config
    from spatialboost.training.plan import plan

    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "rows").exists():
        write_rows(args.out)
    ways = ["allocator"] if args.device == "cuda" else ["allocator", "resident"]
    print("| stage | size | checkpointing | plan MB | " + " | ".join(f"{way} MB | plan / {way}" for way in ways) + " |")
    print("|---" * (4 + 2 * len(ways)) + "|")
    for stage in STAGES:
        for size in SIZES:
            for checkpointing in (False, True):
                if checkpointing and stage == "head":
                    continue  # the heads alone keep nothing that could be computed again
                settings = load_config(configuration(args.out, stage, size, checkpointing))
                total = plan(settings)[0].total()
                peaks = measured_elsewhere(args, stage, size, checkpointing)
                cells = [stage, size, "yes" if checkpointing else "no", f"{total / MB:.0f}"]
                for way in ways:
                    cells += [f"{peaks[way] / MB:.0f}", f"{total / peaks[way]:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("check", help=check.__doc__)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(run=check)
    one = commands.add_parser("measure", help=measure.__doc__)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--stage", required=True)
    one.add_argument("--size", required=True)
    one.add_argument("--checkpointing", action="store_true")
    one.set_defaults(run=measure)
    for one in commands.choices.values():
        one.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
