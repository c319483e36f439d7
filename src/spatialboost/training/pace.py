"""How fast a training is, what memory it uses, and where its gates are: what each entry of the log adds to the loss."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.training.parts import count_tokens

RANGES = 3  # early, middle and late layers, for which the gates are told apart


class Pace:
    """Counts the tokens of each batch; everything else is measured only when the log is written.

    Example:
        >>> pace = Pace(nn.Linear(2, 2), torch.device("cpu"))
        >>> mask = torch.tensor([[True, False, False]])
        >>> pace.count({"input_ids": mask.long(), "visual_mask": mask, "labels": mask.long()})
        >>> sorted(pace.entry(step=1, steps=10))[:4]
        ['answer_tokens_per_second', 'memory_gb', 'seconds_left', 'steps_per_second']

    Args:
        objective: The objective; its encoder has the gates.
        device: Where it is trained.
        processes: Processes of the run: speeds are those of all, by the tokens of this one.
    """

    def __init__(self, objective: nn.Module, device: torch.device, processes: int = 1) -> None:
        self.encoder = getattr(objective, "encoder", None)
        self.device, self.processes = device, processes
        self.counts: dict[str, Any] = {}
        self.began, self.step = time.perf_counter(), 0

    def start(self, step: int) -> None:
        """Begin to measure after this step."""
        self.began, self.step, self.counts = time.perf_counter(), step, {}

    def count(self, batch: Mapping[str, Any]) -> None:
        """Count the tokens of a batch. On a GPU the sums stay there, so that nothing waits for them."""
        found = count_tokens(batch)
        images = batch.get("pixel_values", batch.get("patch_features"))
        if not found and isinstance(images, Tensor):
            found = {"images": len(images)}
        for kind, number in found.items():
            self.counts[kind] = self.counts.get(kind, 0) + number

    def entry(self, step: int, steps: int) -> dict[str, float]:
        """What the log gets for the steps since the last entry."""
        seconds = max(time.perf_counter() - self.began, 1e-9)
        rate = max(step - self.step, 1) / seconds
        found = {"steps_per_second": rate, "seconds_left": max(steps - step, 0) / rate}
        for kind, number in self.counts.items():
            name = f"{kind}_per_second" if kind == "images" else f"{kind}_tokens_per_second"
            found[name] = float(number) * self.processes / seconds
        found |= device_use(self.device)
        if isinstance(self.encoder, nn.Module):
            found |= gate_shares(self.encoder)
        self.start(step)
        return {name: float(f"{value:.5g}") for name, value in found.items()}


def device_use(device: torch.device) -> dict[str, float]:
    """Largest memory so far in GB, and the use of the GPU in percent if NVIDIA's library is installed.

    Without a GPU, it is the memory of this process.
    """
    if device.type == "cuda":
        found = {"memory_gb": torch.cuda.max_memory_allocated(device) / 1e9}
        with suppress(Exception):  # no pynvml, or a driver that does not tell
            found["gpu_percent"] = float(torch.cuda.utilization(device))
        return found
    try:
        import resource
    except ImportError:  # Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


@torch.no_grad()
def gate_shares(encoder: nn.Module) -> dict[str, float]:
    """Mean share of Attn+ (1 - gate) in all boosted layers, and in early, middle and late ones; 0.5 at the start.

    Example:
        >>> import spatialboost as sb
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = sb.boost(VisionTransformer(embed_dim=48, depth=4, num_heads=2, num_classes=0))
        >>> gate_shares(encoder)
        {'attn_plus': 0.5, 'attn_plus_layers_0_1': 0.5, 'attn_plus_layers_2': 0.5, 'attn_plus_layers_3': 0.5}
    """
    layers: list[int] = []
    shares: list[Tensor] = []
    for _, _, channel in boosted_layers(encoder):
        gate = channel.gate.detach()
        gate = gate.full_tensor() if hasattr(gate, "full_tensor") else gate  # FSDP2: each process has a part
        if gate.numel():  # ZeRO 3 keeps nothing here between steps
            layers.append(channel.index)
            shares.append(1 - gate.float().sigmoid().mean())
    if not shares:
        return {}
    values = torch.stack(shares).tolist()  # one transfer
    found = {"attn_plus": sum(values) / len(values)}
    for first, last in _ranges(len(values)):
        name = "_".join(dict.fromkeys(str(layers[place]) for place in (first, last - 1)))
        found[f"attn_plus_layers_{name}"] = sum(values[first:last]) / (last - first)
    return found


def _ranges(count: int) -> Sequence[tuple[int, int]]:
    """(first, after the last) of up to three ranges of nearly the same length."""
    parts = min(RANGES, count)
    ends = [-(-count * part // parts) for part in range(parts + 1)]
    return [(first, last) for first, last in pairwise(ends) if last > first]


def progress_words(entry: Mapping[str, float]) -> dict[str, str]:
    """The entry of a log in short words, for a progress bar or one line.

    Example:
        >>> progress_words({"loss": 1.23456, "learning_rate": 1e-4, "text_tokens_per_second": 5120.0})
        {'loss': '1.2346', 'lr': '0.0001', 'text/s': '5.1k'}
    """
    found = {"loss": f"{float(entry['loss']):.4f}"} if "loss" in entry else {}
    if "learning_rate" in entry:
        found["lr"] = f"{float(entry['learning_rate']):.2g}"
    for kind in ("visual", "text", "answer"):
        if f"{kind}_tokens_per_second" in entry:
            found[f"{kind}/s"] = _short(entry[f"{kind}_tokens_per_second"])
    if "images_per_second" in entry:
        found["images/s"] = _short(entry["images_per_second"])
    shares = [f"{value:.4f}" for name, value in entry.items() if name.startswith("attn_plus_layers_")]
    if shares:
        found["Attn+"] = "|".join(shares)
    if "memory_gb" in entry:
        found["memory"] = f"{entry['memory_gb']:.1f} GB"
    if "gpu_percent" in entry:
        found["GPU"] = f"{entry['gpu_percent']:.0f}%"
    return found


def _short(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"
