"""A run that is killed again and again, in steps and in the middle of writing a file, ends as an unbroken run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from training_rows import SHAPE, make_rows, write_parquet

# Each child goes on with the run and is killed at one event; the parent only counts. Imports are done once
KILLER = """
import json, os, signal, sys, torch
from pathlib import Path
import shutil, transformers
from transformers import Trainer, TrainerState
from spatialboost.teachers.language.teacher import LanguageTeacher
from spatialboost.training import fit, run
from spatialboost.training.config import load_config

torch.set_num_threads(1)
left = 0

def dies(what):
    global left
    left -= 1
    if not left:
        print(what, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        dies(f"before {name}")
        return real(*args, **kwargs)
    setattr(owner, name, call)

def amid(owner, name, written):
    real = getattr(owner, name)
    def call(*args, **kwargs):
        file = written(args)
        real(*args, **kwargs)
        if left == 1:  # as if it was killed while it wrote
            data = Path(file).read_bytes()
            Path(file).write_bytes(data[: len(data) // 2])
        dies(f"amid {name}")
    setattr(owner, name, call)

before(Trainer, "training_step")
before(shutil, "rmtree")
before(LanguageTeacher, "save")
before(run, "write_json")
amid(fit, "save_file", lambda args: args[1])
amid(torch, "save", lambda args: args[1])
amid(TrainerState, "save_to_json", lambda args: args[1])
for left in (3, 8, 9, 7, 10, 6, 9, 11, 8):
    child = os.fork()
    if not child:
        run.train(load_config(json.loads(sys.argv[1])))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != -signal.SIGKILL:
        break
left = 0
for given in sys.argv[1:]:
    run.train(load_config(json.loads(given)))
"""


def settings(folder: Path, out: str) -> dict[str, Any]:
    stage = {"steps": 3, "batch_size": 4, "log_every": 1, "save_every": 1, "lr": 1e-3}
    llm = {"name": "small", "kwargs": {"width": 32, "layers": 1, "heads": 2, "max_length": 128}}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(folder / "encoder.safetensors")},
        "teacher": {"kind": "language", "llm": llm, "evaluate": 0},
        "data": {"folders": [str(folder / "rows")], "image_size": 32, "held_out": 2, "workers": 0},
        "stage1": {**stage, "steps": 2},
        "stage2": {**stage, "matrix_lr": 0.01},
        "stage3": {**stage, "train_projector": True},
        "device": "cpu",
        "out": str(folder / out),
    }


def test_a_run_that_is_killed_often_ends_the_same(tmp_path):
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), tmp_path / "encoder.safetensors")
    write_parquet(make_rows(14), tmp_path / "rows")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    both = [json.dumps(settings(tmp_path, out)) for out in ("killed", "whole")]
    done = subprocess.run([sys.executable, "-c", KILLER, *both], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    killed = done.stdout.split("\n")[:-1]
    assert len(killed) > 6 and sum(each.startswith("amid") for each in killed) > 2, killed
    reports = [json.loads((tmp_path / out / "report.json").read_text()) for out in ("whole", "killed")]
    learnt = ("step", "loss", "grad_norm", "learning_rate")  # the other entries are times and memory
    ours, theirs = (
        {n: [[e[key] for key in learnt] for e in s["fit"]["history"]] for n, s in report["stages"].items()}
        for report in reports
    )
    assert ours == theirs
    for name in ("stage1/projector", "stage2/llm/model", "stage3/projector", "stage3/delta/model"):
        whole, again = (load_file(tmp_path / out / f"{name}.safetensors") for out in ("whole", "killed"))
        assert whole.keys() == again.keys() and all(torch.equal(whole[key], again[key]) for key in whole), name
