"""The report of a run: ``report.json`` and the loss curves."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers

logger = logging.getLogger(__name__)


def write_report(
    out: Path, config: Mapping[str, Any], stages: Mapping[str, Mapping[str, Any]], encoder: nn.Module
) -> dict[str, Any]:
    """Write ``report.json`` and ``losses.png`` into the folder of a run.

    Args:
        out: Folder of the run.
        config: Configuration of the run, as JSON values.
        stages: Stage name -> its record: ``fit`` (steps, seconds, history, trainable) and ``scores``.
        encoder: The encoder after the last stage.
    """
    report = {
        "config": dict(config),
        "versions": {name: version(name) for name in ("torch", "transformers", "timm", "accelerate")},
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "stages": {name: dict(record) for name, record in stages.items()},
        "gates": gates_per_layer(encoder),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    plot_losses(stages, out / "losses.png")
    for line in report_lines(stages):
        logger.info("%s", line)
    return report


def gates_per_layer(encoder: nn.Module) -> list[dict[str, float]]:
    """Mean, smallest and largest gate of each boosted layer.

    A gate is the share of Attn: 0.5 at the start, lower where Attn+ has a larger share.

    Example:
        >>> import spatialboost as sb
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = sb.boost(VisionTransformer(embed_dim=48, depth=1, num_heads=2))
        >>> gates_per_layer(encoder)
        [{'layer': 0, 'mean': 0.5, 'min': 0.5, 'max': 0.5}]
    """
    found = []
    for _, _, channel in boosted_layers(encoder):
        gate = channel.gate.detach().float().sigmoid()
        found.append(
            {"layer": channel.index, "mean": gate.mean().item(), "min": gate.min().item(), "max": gate.max().item()}
        )
    return found


def plot_losses(stages: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Save a picture of the loss of each stage over its steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * max(1, len(stages)), 3), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, record) in enumerate(stages.items()):
        axes = figure.add_subplot(1, len(stages), place + 1)
        history = record["fit"]["history"]
        axes.plot([entry["step"] for entry in history], [entry["loss"] for entry in history])
        axes.set(xlabel="step", ylabel="loss")
        axes.set_title(name, parse_math=False)
    figure.savefig(file, dpi=120)


def report_lines(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A summary of a run in a few lines of text.

    Example:
        >>> fit = {"steps": 2, "seconds": 1.0, "history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]}
        >>> report_lines({"stage1": {"fit": fit}})
        ['stage1: 2 steps in 1 s, loss 2.000 -> 1.500']
    """
    lines = []
    for name, record in stages.items():
        fit = record["fit"]
        losses = [entry["loss"] for entry in fit["history"]]
        change = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ""
        lines.append(f"{name}: {fit['steps']} steps in {fit['seconds']:.0f} s{change}")
        for score in record.get("scores", []):
            error = score["relative_error"]
            lines.append(
                f"  {score['kind']:>16} {score['answerer']:>6}: {score['accuracy']:.1%} of {score['answers']}"
                + (f", relative error {error:.3f}" if error is not None else "")
            )
    return lines
