"""A run goes on with another number of processes: the same rows in the same steps, and the same weights to rounding."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from spatialboost.errors import SpatialBoostError
from spatialboost.training import fit, run
from spatialboost.training.config import load_config
from spatialboost.training.data import RowCollator
from spatialboost.training.features import FeatureStore
from training_rows import SHAPE, make_rows, write_parquet

ROWS, HELD_OUT = 11, 2  # 9 rows to train on: steps of 4, 4 and 1 rows, so one process has nothing in the third
STEPS = {"stage1": 3, "stage2": 8}


def settings(folder: Path, out: Path, **stage: Any) -> dict[str, Any]:
    stage = {"batch_size": 2, "accumulate": 2, "log_every": 1, "save_every": 3, "lr": 1e-2, "clip": 0, **stage}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(folder / "encoder.safetensors")},
        "teacher": {
            "llm": {"name": "small", "kwargs": {"width": 16, "layers": 1, "heads": 2, "max_length": 128}},
            "evaluate": 0,
        },
        "stage3": None,
        "data": {"folders": [str(folder / "data")], "image_size": 32, "held_out": HELD_OUT, "workers": 0},
        **{name: {**stage, "steps": steps} for name, steps in STEPS.items()},
        "device": "cpu",
        "out": str(out),
    }


def train_and_note(config: dict[str, Any], kill: tuple[str, int] | None = None) -> None:
    """Train, and append to files which rows each step reads, and how many images the encoder reads for the store."""
    rank = os.environ.get("RANK", "0")
    out = Path(config["out"])
    out.mkdir(parents=True, exist_ok=True)
    read: list[list[int]] = []
    collate, step, compute = RowCollator.__call__, fit._Engine.training_step, FeatureStore._compute

    def noted_collate(self, examples):
        read.append([int(each["row"]) for each in examples])
        return collate(self, examples)

    def noted_step(self, *args, **kwargs):
        at = (Path(self.args.output_dir).name, self.state.global_step)
        if at == kill:
            torch.distributed.barrier()  # what both processes do before is the same each time
            os.kill(os.getpid(), signal.SIGKILL)
        line = {"at": at, "rows": read.pop(0) if self._shares[0] else read.pop(0)[:0]}
        with (out / f"rows-{rank}.txt").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return step(self, *args, **kwargs)

    def noted_compute(self, pixel_values):
        with (out / f"images-{rank}.txt").open("a") as file:
            file.write(f"{len(pixel_values)}\n")
        return compute(self, pixel_values)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowCollator, "__call__", noted_collate)
        patch.setattr(fit._Engine, "training_step", noted_step)
        patch.setattr(FeatureStore, "_compute", noted_compute)
        run.train(load_config(config))


def noted(out: Path) -> dict[tuple[str, int], list[int]]:
    """The rows of each step, by stage and number of the step, without those that were read again after the kill."""
    rows: dict[Any, Counter[int]] = {}
    for file in sorted(out.glob("rows-*.txt")):
        own: dict[Any, list[int]] = {}
        for line in map(json.loads, file.read_text().splitlines()):
            own.setdefault(tuple(line["at"]), []).extend(line["rows"])
        for at, numbers in own.items():
            rows.setdefault(at, Counter()).update(numbers)
    return {at: sorted(found) for at, found in rows.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with rows, the encoder's weights, and an unbroken run of one process."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    write_parquet(make_rows(ROWS), folder / "data")
    train_and_note(settings(folder, folder / "whole"))
    return folder


def two_processes(folder: Path, out: Path, stage: str, step: int) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([*sys.path, str(Path(__file__).parents[1])])
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(out), stage, str(step)],
            env={**os.environ, **common, "PYTHONPATH": path, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    try:
        return [process.wait(timeout=600) for process in workers]
    finally:
        for process in workers:
            process.kill()


def test_two_processes_are_killed_and_one_goes_on(world):
    out = world / "broken"
    assert two_processes(world, out, "stage2", 5) == [-signal.SIGKILL] * 2
    # the same file as the two processes had, in which they had accumulate 1
    train_and_note(settings(world, out, accumulate=1))
    assert noted(out) == noted(world / "whole")
    assert sum(int(line) for file in out.glob("images-*.txt") for line in file.read_text().split()) == ROWS - HELD_OUT
    for name in ("stage1/projector.safetensors", "stage2/projector.safetensors", "stage2/llm/model.safetensors"):
        ours, theirs = load_file(out / name), load_file(world / "whole" / name)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "keys, told",
    [
        ({"batch_size": 3}, "stage2: the run began with 4 rows in a step.*set batch_size: 2 and accumulate: 2"),
        ({"accumulate": 3}, "stage2: the run began with 4 rows in a step: set batch_size: 2 and accumulate: 2"),
    ],
)
def test_other_global_batches_are_refused_with_the_settings_that_fit(world, keys, told, tmp_path):
    out = Path(shutil.copytree(world / "whole", tmp_path / "whole"))
    (out / "stage2" / "result.json").unlink()  # what is finished is only loaded
    given = settings(world, out)
    with pytest.raises(SpatialBoostError, match=told):
        run.train(load_config({**given, "stage2": {**given["stage2"], **keys}}))


if __name__ == "__main__":
    folder, out = map(Path, sys.argv[1:3])
    torch.set_num_threads(1)
    train_and_note(settings(folder, out, accumulate=1), (sys.argv[3], int(sys.argv[4])))
