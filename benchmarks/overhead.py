"""What a second channel costs: time, FLOPs and memory of a boosted ViT, compared with its base and with alternatives.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py --out runs/overhead --page docs/overhead.md    # CPU: half an hour
    python benchmarks/overhead.py --out runs/h100 --device cuda --dtype bfloat16 --models small base large \\
        --sizes 224 518 --batches 1 32 --compile

All variants of a model run in one process and take turns, so that other work on the machine slows all of them. Time is
the fastest repetition. On a CPU with one thread it is the CPU time of the process, which does not include waiting; else
it is wall time. A step is forward and backward without the optimiser, whose work is not in the FLOPs count.
In OUT: `overhead.json` and `overhead.md`; a second run with the same OUT keeps the points that are there and adds new
ones. With `--page`, the table is put between that page's markers.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import timm
import torch
from overhead_memory import PeakMemory
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import spatialboost as sb
from spatialboost.boosting import set_kernel

WIDTHS = {"tiny": (192, 12), "small": (384, 12), "base": (768, 12), "large": (1024, 24)}  # and depth
CPU_GRID = [
    ("small", 224, 1),
    ("small", 224, 8),
    ("small", 224, 32),
    ("small", 518, 1),
    ("base", 224, 1),
    ("base", 224, 8),
    ("base", 518, 1),
    ("large", 224, 1),
]
PACKAGES = ("torch", "timm", "peft", "xformers")
MARKERS = ("<!-- overhead: begin -->", "<!-- overhead: end -->")


@dataclass
class Row:
    """One variant in one mode; ratios are to the base's forward, or to full fine-tuning for a step."""

    model: str
    size: int
    batch: int
    dtype: str
    mode: str
    variant: str
    milliseconds: float
    ratio: float
    bound: float
    megabytes: float | None
    trainable: int

    @property
    def point(self) -> tuple[str, int, int, str]:
        return self.model, self.size, self.batch, self.dtype

    @property
    def over_bound(self) -> float:
        return self.ratio / self.bound


class NaiveBranches(nn.Module):
    """Two attention modules and their gated sum, exactly as in equation 1."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.base, self.plus = attention.requires_grad_(False), copy.deepcopy(attention).requires_grad_(True)
        self.gate = nn.Parameter(torch.zeros(attention.proj.out_features))

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        g = self.gate.sigmoid().to(x.dtype)
        options = {"attn_mask": attn_mask, "is_causal": is_causal}
        return g * self.base(x, **options) + (1 - g) * self.plus(x, **options)


def naive(model: nn.Module) -> nn.Module:
    model.requires_grad_(False)
    for block in model.blocks:
        block.attn = NaiveBranches(block.attn)
    return model


def lora(model: nn.Module) -> nn.Module:
    import peft

    peft.inject_adapter_in_model(peft.LoraConfig(r=32, target_modules=["qkv", "proj"]), model)
    return model


def boosted(kernel: str) -> Callable[[nn.Module], nn.Module]:
    return lambda model: set_kernel(sb.boost(model), kernel)


def variants(device: str, compiled: bool) -> dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[str, ...]]]:
    """Name -> function that makes the variant from the base, and its modes. All are compared with the first variant."""
    both = ("forward", "step")
    found = {
        "base, full fine-tuning": (lambda model: model, both),
        "boosted, host (default)": (boosted("host"), both),
        "boosted, sdpa": (boosted("sdpa"), both),
        "boosted, math": (boosted("math"), both),
        "fused": (lambda model: sb.fuse(sb.boost(model)), ("forward",)),
        "two naive branches": (naive, both),
        "LoRA r=32": (lora, both),
    }
    if device == "cuda":
        found["boosted, auto"] = (boosted("auto"), both)
        found["boosted, xformers"] = (boosted("xformers"), both)
    if compiled:
        kinds = {"compiled": "default"} | ({"CUDA graphs": "reduce-overhead"} if device == "cuda" else {})
        for name in ("base, full fine-tuning", "boosted, host (default)", "boosted, sdpa", "fused"):
            make, modes = found[name]
            for kind, mode in kinds.items():
                found[f"{name}, {kind}"] = (
                    lambda model, make=make, mode=mode: torch.compile(make(model), mode=mode),
                    modes,
                )
    return found


def run(model: nn.Module, images: Tensor, mode: str) -> None:
    if mode == "forward":
        with torch.no_grad():
            model(images)
    else:
        model(images).float().square().mean().backward()


def flops(model: nn.Module, images: Tensor, mode: str) -> int:
    with FlopCounterMode(display=False) as counter:
        run(model, images, mode)
    model.zero_grad()
    return counter.get_total_flops()


def forward_flops(name: str, size: int, batch: int, channels: int) -> int:
    """FLOPs by a formula: patches of 16 pixels, a class token, MLPs of four times the width."""
    width, depth = WIDTHS[name]
    patches = (size // 16) ** 2
    tokens = patches + 1
    attention = 2 * tokens * 4 * width**2 + 4 * tokens**2 * width
    return batch * (2 * patches * 3 * 16**2 * width + depth * (channels * attention + 2 * tokens * 8 * width**2))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def stopwatch(device: str) -> Callable[[], float]:
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def time_in_turns(models: dict[str, nn.Module], images: Tensor, mode: str, seconds: float) -> dict[str, float]:
    """Fastest time of each model in milliseconds, over rounds that take `seconds` for each model, at least three."""
    device = images.device.type
    clock = stopwatch(device)
    took: dict[str, list[float]] = {name: [] for name in models}
    rounds, began = 0, clock()
    while rounds < 4 or clock() - began < seconds * len(models):
        for name, model in models.items():
            synchronize(device)
            start = clock()
            run(model, images, mode)
            synchronize(device)
            if rounds:  # the first round is a warm-up
                took[name].append(1e3 * (clock() - start))
            for parameter in model.parameters():
                parameter.grad = None
        rounds += 1
    return {name: min(times) for name, times in took.items()}


def step_megabytes(model: nn.Module, images: Tensor) -> float:
    """Weights, AdamW's two moments, and the peak of what a step adds: activations, gradients, temporaries."""
    parameters = list(model.parameters())
    held = sum(p.nbytes for p in parameters) + sum(2 * p.nbytes for p in parameters if p.requires_grad)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(model, images, "step")
        held += torch.cuda.max_memory_allocated() - before
    else:
        with PeakMemory() as memory:
            run(model, images, "step")
        held += memory.peak
    model.zero_grad()
    return held / 1e6


def title(name: str) -> str:
    return f"ViT-{name[0].upper()}/16"


def measure_alone(
    *, model: str, size: int, batch: int, variant: str, dtype: str, device: str, seconds: float
) -> list[dict[str, Any]]:
    """One variant in a process of its own: for each of its modes, time, FLOPs and memory, without ratios."""
    torch.manual_seed(0)
    make, modes = variants(device, True)[variant]
    kind = getattr(torch, dtype)
    base = timm.create_model(f"vit_{model}_patch16_224", img_size=size, num_classes=0).to(device, kind)
    images = torch.randn(batch, 3, size, size, device=device, dtype=kind)
    built, found = make(base), []
    countable = not is_compiled(variant) and "xformers" not in variant  # the counter does not know its operators
    for mode in modes:
        counted = flops(built, images, mode) if countable else None
        took = time_in_turns({variant: built}, images, mode, seconds)[variant]
        memory = None if mode == "forward" or is_compiled(variant) else step_megabytes(built, images)
        trainable = sum(p.numel() for p in built.parameters() if p.requires_grad)
        found.append(
            {"mode": mode, "milliseconds": took, "flops": counted, "megabytes": memory, "trainable": trainable}
        )
    return found


def is_compiled(variant: str) -> bool:
    return variant.endswith(("compiled", "CUDA graphs"))


def measure(name: str, size: int, batch: int, args: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    base = timm.create_model(f"vit_{name}_patch16_224", img_size=size, num_classes=0).to(args.device, dtype)
    images = torch.randn(batch, 3, size, size, device=args.device, dtype=dtype)
    makers = variants(args.device, args.compile)
    chosen = {v: m for v, m in makers.items() if not args.variants or any(part in v for part in args.variants)}
    for mode in ("forward", "step"):
        models = {}
        for variant, (make, modes) in chosen.items():
            if mode in modes:
                try:
                    models[variant] = make(copy.deepcopy(base))
                except sb.SpatialBoostError as error:
                    print(f"{variant}: {error}")
        of_boosted = flops(boosted("host")(copy.deepcopy(base)), images, mode)
        first = next(iter(models))
        of_base = flops(models[first], images, mode)
        if mode == "forward":
            for channels, found in ((1, of_base), (2, of_boosted)):
                by_hand = forward_flops(name, size, batch, channels)
                assert abs(found / by_hand - 1) < 0.01, (found, by_hand)
        took = time_in_turns(models, images, mode, args.seconds)
        for variant, model in models.items():
            if variant.startswith(("boosted", "fused")):
                bound = of_boosted / of_base
            else:
                bound = 1.0 if variant.startswith("base") else flops(model, images, mode) / of_base
            yield Row(
                model=title(name),
                size=size,
                batch=batch,
                dtype=args.dtype,
                mode=mode,
                variant=variant,
                milliseconds=took[variant],
                ratio=took[variant] / took[first],
                bound=bound,
                megabytes=None if mode == "forward" or is_compiled(variant) else step_megabytes(model, images),
                trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
            )
        del models
        gc.collect()


def machine(device: str) -> str:
    what = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} thread(s), {stopwatch('cpu').__name__}"
    return f"{what}{threads}, {', '.join(map(installed, PACKAGES))}, Python {platform.python_version()}"


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def measured_before(folder: Path, where: str) -> list[Row]:
    """The rows of an earlier run in the folder; rows of another machine are refused."""
    if not (file := folder / "overhead.json").is_file():
        return []
    found = json.loads(file.read_text())
    if found["machine"] != where:
        raise SystemExit(f"{file} was measured on another machine ({found['machine']}); give a new folder with --out")
    return [Row(**{key: value for key, value in row.items() if key != "over_bound"}) for row in found["rows"]]


def summary(rows: list[Row]) -> list[str]:
    """Time divided by the FLOPs bound for the boosted variants, one line for each point and mode."""
    variants = list(dict.fromkeys(r.variant for r in rows if r.variant.startswith(("boosted", "fused"))))
    lines = [f"| time / FLOPs bound | mode | {' | '.join(variants)} |", "|---" * (len(variants) + 2) + "|"]
    for mode in ("forward", "step"):
        for point in dict.fromkeys(r.point for r in rows):
            found = {r.variant: f"{r.over_bound:.3f}" for r in rows if (r.point, r.mode) == (point, mode)}
            cells = [found.get(variant, "") for variant in variants]
            lines.append(f"| {point[0]}, {point[1]} px, batch {point[2]}, {point[3]} | {mode} | {' | '.join(cells)} |")
    return [*lines, ""]


def table(rows: list[Row], where: str) -> str:
    lines = [f"Machine: {where}.", "", *summary(rows)]
    head = "| variant | ms | ratio | FLOPs bound | ratio / bound | peak MB | trains, M |\n|---|---|---|---|---|---|---|"
    for mode, compared in (("forward", "the base's forward"), ("step", "full fine-tuning")):
        for point in dict.fromkeys(r.point for r in rows):
            own = [r for r in rows if r.mode == mode and r.point == point]
            model, size, batch, dtype = point
            lines += [f"**{model}, {size} px, batch {batch}, {dtype}: {mode}**, against {compared}", "", head]
            for r in own:
                memory = "" if r.megabytes is None else f"{r.megabytes:,.0f}"
                trains = "" if mode == "forward" else f"{r.trainable / 1e6:.1f}"
                lines.append(
                    f"| {r.variant} | {r.milliseconds:.1f} | {r.ratio:.3f} | {r.bound:.3f} | {r.over_bound:.3f} "
                    f"| {memory} | {trains} |"
                )
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--page", type=Path, help="page whose markers take the table")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--models", nargs="+", choices=WIDTHS, help="all of these with all sizes and batches")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--batches", nargs="+", type=int, default=[1])
    parser.add_argument("--variants", nargs="+", help="parts of names; the base is always there")
    parser.add_argument("--compile", action="store_true", help="compiled variants as well, with CUDA graphs on a GPU")
    parser.add_argument("--seconds", type=float, default=4.0, help="of measuring, for each variant and mode")
    args = parser.parse_args()
    if args.variants:
        args.variants.insert(0, "base, full")

    grid = CPU_GRID
    if args.models:
        grid = [(m, s, b) for m in args.models for s in args.sizes for b in args.batches]
    args.out.mkdir(parents=True, exist_ok=True)
    where = machine(args.device)
    rows = measured_before(args.out, where)
    known = {row.point for row in rows}
    for name, size, batch in grid:
        if (title(name), size, batch, args.dtype) in known:
            continue
        print(name, size, batch, args.dtype, flush=True)
        rows += measure(name, size, batch, args)
        result = {"machine": where, "rows": [asdict(r) | {"over_bound": r.over_bound} for r in rows]}
        (args.out / "overhead.json").write_text(json.dumps(result, indent=1))
        (args.out / "overhead.md").write_text(table(rows, where))
    text = table(rows, where)
    print(text)
    if args.page:
        page = args.page.read_text()
        before, after = page.split(MARKERS[0])[0], page.split(MARKERS[1])[1]
        args.page.write_text(f"{before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{after}")


if __name__ == "__main__":
    main()
