"""The figures of `spatialboost train --plan` beside the peak memory of real training steps.

    python benchmarks/plan.py check --out runs/plan                  # on a CPU: about 10 minutes on two cores
    python benchmarks/plan.py check --out runs/plan --device cuda    # on a GPU: torch.cuda.max_memory_allocated
    python benchmarks/plan.py models --out runs/models               # encoder x language model, from their sizes

`check` trains five steps of each stage of both teachers, with two sizes of encoder and language model, with and without
checkpointing. On a CPU it measures twice: what torch's allocator has given out (the profiler's memory events), and the
resident memory of the process, from which that before the models were built is taken away. The first step is not
measured, as the check of what moved makes copies. It prints a table for docs/training.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

MB = 10**6
SIZE, BATCH = 112, 2
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

    told = ""  # `fit` reads what the check of the first steps has found

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


def measure(args: argparse.Namespace, stage: str, size: str, checkpointing: bool) -> dict[str, int]:
    """The peaks of one case in bytes."""
    before = 0
    if args.device == "cpu":
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS")
    case = f"{stage}-{size}-{checkpointing}"
    peaks = train(configuration(args.out, stage, size, checkpointing), stage, args.device, args.out / case)
    return {way: peak - before * (way == "resident") for way, peak in peaks.items()}


def check(args: argparse.Namespace) -> None:
    """The table of planned and measured peaks."""
    if os.environ.get("MALLOC_ARENA_MAX") != "1":  # begin again, so that freed memory goes back to the system
        os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from spatialboost.training.config import load_config
    from spatialboost.training.plan import plan

    logging.disable(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "rows").exists():
        write_rows(args.out)
    for stage in ("stage3", "boost"):
        measure(args, stage, "S", False)  # what is loaded once is not counted
    ways = ["allocator"] if args.device == "cuda" else ["allocator", "resident"]
    print("| stage | size | checkpointing | plan MB | " + " | ".join(f"{way} MB | plan / {way}" for way in ways) + " |")
    print("|---" * (4 + 2 * len(ways)) + "|")
    for stage in STAGES:
        for size in SIZES:
            for checkpointing in (False, True):
                if checkpointing and stage == "head":
                    continue  # the heads alone keep nothing that could be computed again
                total = plan(load_config(configuration(args.out, stage, size, checkpointing)))[0].total()
                peaks = measure(args, stage, size, checkpointing)
                cells = [stage, size, "yes" if checkpointing else "no", f"{total / MB:.0f}"]
                for way in ways:
                    cells += [f"{peaks[way] / MB:.0f}", f"{total / peaks[way]:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


def save_models(folder: Path) -> None:
    """Configurations of published models, with the sizes that their authors give; no weights."""
    from transformers import Dinov2Config, DINOv3ViTConfig, Qwen2Config, SiglipVisionConfig

    def qwen(vocabulary: int, width: int, inner: int, layers: int, heads: int, groups: int, **rest: Any) -> Any:
        shape = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
        shape |= {"vocab_size": vocabulary, "num_attention_heads": heads, "num_key_value_heads": groups}
        return Qwen2Config(**shape, rope_theta=1e6, rms_norm_eps=1e-6, max_position_embeddings=32768, **rest)

    shapes = {
        "Qwen2-7B": qwen(152064, 3584, 18944, 28, 28, 4, tie_word_embeddings=False),
        "Qwen2.5-0.5B": qwen(151936, 896, 4864, 24, 14, 2, tie_word_embeddings=True),
        "DINOv2 B/14": Dinov2Config(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, image_size=518, patch_size=14
        ),
        "DINOv2 g/14": Dinov2Config(
            hidden_size=1536,
            num_hidden_layers=40,
            num_attention_heads=24,
            image_size=518,
            patch_size=14,
            use_swiglu_ffn=True,
        ),
        "SigLIP2 g/16": SiglipVisionConfig(
            hidden_size=1536,
            intermediate_size=6144,
            num_hidden_layers=40,
            num_attention_heads=16,
            image_size=256,
            patch_size=16,
        ),
        "DINOv3 L/16": dinov3(DINOv3ViTConfig, 1024, 4096, 24, 16),
        "DINOv3 7B/16": dinov3(DINOv3ViTConfig, 4096, 8192, 40, 32, use_gated_mlp=True),
    }
    for name, config in shapes.items():
        config.save_pretrained(folder / name)


def dinov3(cls: Any, width: int, inner: int, layers: int, heads: int, **rest: Any) -> Any:
    shape = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return cls(**shape, patch_size=16, image_size=256, num_register_tokens=4, **rest)


# preset, encoder (None: the preset's own, which timm builds by its name), language model, stages
SETTINGS = (
    ("single-gpu-24gb", "DINOv2 B/14", "Qwen2.5-0.5B", ("stage1", "stage2", "stage3")),
    ("paper/dinov3", "DINOv3 L/16", "Qwen2-7B", ("stage3",)),
    ("paper/openclip", None, "Qwen2-7B", ("stage3",)),
    ("paper/siglip2", "SigLIP2 g/16", "Qwen2-7B", ("stage3",)),
    ("paper/dinov2", "DINOv2 g/14", "Qwen2-7B", ("stage3",)),
    ("paper/dinov3", "DINOv3 7B/16", "Qwen2-7B", ("stage1", "stage2", "stage3")),
)


def models(args: argparse.Namespace) -> None:
    """The presets with the published sizes of their models: memory by encoder, language model, stage and strategy."""
    from spatialboost.training.config import load_config
    from spatialboost.training.plan import CARDS, GB, ONE, STRATEGIES, _outline, _plan_stage

    save_models(args.out)
    several = [each.label for each in STRATEGIES]
    heads = ["preset, encoder, language model", "stage", "batch", "trains, M", "weights", "optimiser", "gradients"]
    heads += ["activations", "one GPU", *(f"{label}, {args.gpus} GPUs" for label in several)]
    heads += [f"largest batch, {label}, {args.gpus} x {CARDS[-1]} GB" for label in several]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|", flush=True)
    for preset, encoder, llm, stages in SETTINGS:
        changes = [f"teacher.llm.name={args.out / llm}", f"data.folders=[{args.out / 'no-data'}]", *args.override]
        changes += [] if encoder is None else [f"encoder.name={args.out / encoder}"]
        config = load_config(preset, changes)
        parts = _outline(config)
        for name in stages:
            stage = getattr(config, name)
            found = _plan_stage(parts, name, stage)
            memory = found.memory[stage.batch_size]
            cells = [f"{preset}, {encoder or 'OpenCLIP G/14'}, {llm}", name, str(stage.batch_size)]
            cells += [f"{found.trained / 1e6:,.1f}"]
            sizes = [memory.weights, memory.optimizer, memory.gradients, memory.activations, found.total(ONE)]
            sizes += [found.total(each, args.gpus) for each in STRATEGIES]
            cells += [f"{size / GB:.1f}" for size in sizes]
            batches = [found.largest_batch(CARDS[-1] * GB, each, args.gpus) for each in STRATEGIES]
            print("| " + " | ".join([*cells, *(str(size) if size else "none" for size in batches)]) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("check", help=check.__doc__)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(run=check)
    one = commands.add_parser("models", help=models.__doc__)
    one.add_argument("--out", type=Path, required=True)
    one.add_argument("--gpus", type=int, default=8)
    one.add_argument("--override", "-o", action="append", default=[], help="KEY=VALUE, as for `spatialboost train`")
    one.set_defaults(run=models)
    for one in commands.choices.values():
        one.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
