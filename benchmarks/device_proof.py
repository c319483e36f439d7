"""The main rows of the proof on one device: language on rooms, base, boosted and shuffled answers, by two probes.

It is the experiment of `spatialboost demo` with more of everything. The conversations are written in files, and each
stage saves a checkpoint every 50 steps, so a process that is ended goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from spatialboost.demo import SIDE, Settings, configuration, probes
from spatialboost.experiments.experiment import run_experiment
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.questions.plan import TurnPlan
from spatialboost.scenes.rooms import Rooms

TRAINING_ROOMS = 1_000_000  # number of the first room that teaches: neither the demo's nor those of the probes
BATCH = 32
# of the stages: optimiser steps are conversations / BATCH, at most these for the two stages that prepare the third
PREPARING = {"demo": (400, 200), "smollm2": (600, 1500)}
RATES = {
    "demo": ("stage1.lr=1e-3", "stage2.lr=3e-4"),
    "smollm2": ("stage1.lr=1e-3", "stage2.lr=1e-4", "teacher.max_length=1024"),
}


def measure(llm: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train with one language model, train the control, measure the probes."""
    out = args.out / "proof" / llm
    settings = settings_for(llm, args)
    config = configuration(out, "default" if llm == "demo" else args.smollm2, settings, args.encoder)
    if llm == "smollm2" and (file := Path(args.smollm2)).suffix == ".gguf":
        config["teacher"]["llm"] = {"name": str(file.parent), "kwargs": {"gguf_file": file.name}}
    size = config["data"]["image_size"]
    build_dataset(
        Rooms(settings.rooms, first=TRAINING_ROOMS, size=size, device=args.device),
        out / "data",
        plan=TurnPlan({"depth": settings.depth_turns}, wordings=2) if llm == "demo" else TurnPlan(),
        processes=1 if args.device == "cuda" else max(1, (os.cpu_count() or 2) - 1),
    )
    experiment = run_experiment(config, out, probes=probes(settings, size), seeds=[0])
    run = experiment.runs[0]
    return {
        "conversations": settings.rooms,
        "image_size": size,
        "visual_tokens": SIDE * SIDE,
        "stages": {
            name: {key: record["fit"][key] for key in ("steps", "seconds")}
            for name, record in run.stages["boosted"].items()
        },
        "verdicts": {name: experiment.verdict(name) for name in run.probes},
        "probes": {
            name: {
                encoder: {
                    key: [probe.spread(encoder, key).mean, probe.spread(encoder, key).std]
                    for key in list(probe.metrics)[:1]
                }
                for encoder in probe.names
            }
            for name, probe in run.probes.items()
        },
    }


def settings_for(llm: str, args: argparse.Namespace) -> Settings:
    """How much is done: a third stage of one pass over the conversations."""
    if args.tiny:
        steps, rooms, batch = (1, 1, 1), 12, 4
        settings = Settings(rooms, depth_turns=2, probe=(8, 4), pairs=4)
        more: tuple[str, ...] = ("data.held_out=4", "teacher.evaluate=2")
    else:
        steps = tuple(min(each, max(1, args.conversations // BATCH)) for each in PREPARING[llm])
        steps, rooms, batch = (*steps, max(1, args.conversations // BATCH)), args.conversations, BATCH
        settings = Settings(rooms, probe=(2000, 1000), pairs=500)
        more = ("data.held_out=256", "teacher.evaluate=256", "stage3.matrix_lr=0.0015", *RATES[llm])
    stages = [f"stage{n}" for n in (1, 2, 3)]
    changes = [f"{stage}.steps={count}" for stage, count in zip(stages, steps, strict=True)]
    changes += [f"{stage}.batch_size={batch}" for stage in stages] + [f"{stage}.save_every=50" for stage in stages]
    if args.device == "cuda":
        changes += [f"{stage}.bf16=true" for stage in stages]
    else:
        changes.append("device=cpu")
    return replace(settings, changes=(*changes, *more))
