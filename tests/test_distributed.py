"""Two processes on gloo train as one process does, by DDP and by FSDP2: the channel alone, and whole runs.

The workers are started once, do all jobs in order, and leave what they have found in a file. At last one of them is
killed in the middle of a run; then one process goes on with the checkpoint that the two have left.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer

import spatialboost as sb
from host_models import HOSTS, images, output, perturb
from paths_of_rooms import PLAN
from paths_of_rooms import SHAPE as ROOM_SHAPE
from spatialboost.demo import ASSETS
from spatialboost.scenes.dataset.writer import build_dataset
from spatialboost.scenes.rooms import Rooms
from spatialboost.training import load_config, sharding, train
from spatialboost.training.config import StageConfig
from spatialboost.training.fit import fit
from spatialboost.training.processes import begin
from spatialboost.training.strategy import StrategyConfig
from training_rows import SHAPE, make_rows

STEPS, KINDS = 2, ("ddp", "fsdp2")


def train_channel(model: nn.Module, x: torch.Tensor, run: nn.Module) -> None:
    optimizer = torch.optim.SGD(sb.param_groups(model, lr=0.05))
    for _ in range(STEPS):
        run(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def channel(folder: Path) -> None:
    """The channel alone, in a loop of one's own."""
    for kind in KINDS:
        model = perturb(sb.boost(HOSTS["timm"].make()))
        run: nn.Module = model
        if kind == "ddp":
            run = DistributedDataParallel(model)
        else:
            for block in model.blocks:
                fully_shard(block)
            fully_shard(model)
        train_channel(model, images(4)["x"].chunk(2)[dist.get_rank()], run)
        # every process calls, the first one writes, unless it is told otherwise
        sb.save_pretrained(run, folder / kind)
        sb.save_pretrained(model, folder / f"{kind}-shards", max_shard_size="10KB", dtype=torch.float32)
        sb.save_pretrained(model, folder / f"{kind}-second", is_main_process=dist.get_rank() == 1)
    with pytest.raises(sb.SpatialBoostError, match="already sharded"):
        sb.load_pretrained(model, folder / "ddp")


def settings(world: Path, name: str, *, processes: int = 2, **changes: Any) -> dict[str, Any]:
    """A run of three stages. Rows have one or two answers, and a batch of one process is as large as those of two."""
    stage = {"steps": 3, "batch_size": 4 // processes, "accumulate": 2, "log_every": 1, "save_every": 2, "lr": 1e-3}
    llm = {"name": "small", "kwargs": {"width": 32, "layers": 2, "heads": 2, "max_length": 128}}
    return {
        "encoder": {"name": "VisionTransformer", "kwargs": SHAPE, "weights": str(world / "encoder.safetensors")},
        "teacher": {"kind": "language", "llm": llm, "evaluate": 1},
        "data": {"folders": [str(world / "rows")], "image_size": 32, "held_out": 8, "workers": 0},
        "stage1": {**stage, "steps": 1},
        "stage2": {**stage, "matrix_lr": 0.01},
        "stage3": {**stage, "require_answers": False, "train_projector": True},
        "device": "cpu",
        "out": str(world / name),
        **changes,
    }


def pixel_settings(world: Path, name: str, *, processes: int = 2, **changes: Any) -> dict[str, Any]:
    given = settings(world, name, processes=processes)
    stages = {"head": {**given["stage1"], "steps": 2}, "boost": {**given["stage1"], "steps": 2}}
    kept = {key: given[key] for key in ("encoder", "data", "device", "out")}
    return {**kept, "teacher": {"kind": "pixel"}, **stages, **changes}


SEVERAL_VIEWS: dict[str, dict[str, Any]] = {
    "correspondence": {"teacher": {"grids": [6, 0], "width": 16}, "stages": ("boost",)},
    "field": {"teacher": {"width": 32, "heads": 2, "depth": 1, "latents": 8}, "stages": ("field", "boost")},
    "language-correspondence": {
        "teacher": {
            "llm": {"name": str(ASSETS / "llm")},
            "grids": [6, 0],
            "width": 8,
            "lora_rank": 2,
        },
        "stages": ("stage1", "match", "boost"),
    },
}


def several_views_settings(world: Path, name: str, kind: str, *, processes: int = 2, **changes: Any) -> dict[str, Any]:
    """A run of a teacher that needs several views."""
    stage = {"steps": 2, "batch_size": 4 // processes, "log_every": 1, "save_every": 0, "lr": 1e-3}
    return {
        "encoder": {
            "name": "VisionTransformer",
            "kwargs": ROOM_SHAPE,
            "weights": str(world / "rooms-encoder.safetensors"),
        },
        "teacher": {"kind": kind, "frames": [2, 3], "evaluate": 2, **SEVERAL_VIEWS[kind]["teacher"]},
        "data": {"folders": [str(world / "rooms")], "image_size": 64, "held_out": 4, "workers": 0},
        **{each: stage for each in SEVERAL_VIEWS[kind]["stages"]},
        "device": "cpu",
        "out": str(world / name),
        **changes,
    }


def result_of(given: dict[str, Any]) -> dict[str, Any]:
    stages = train(load_config(given)).stages
    return {name: [e["loss"] for e in stage["fit"]["history"]] for name, stage in stages.items()} | {
        f"{name} scores": [score["loss"] for score in stage.get("scores", [])] for name, stage in stages.items()
    }


def error_of(action: Any, *args: Any) -> str:
    with pytest.raises(sb.SpatialBoostError) as caught:
        action(*args)
    return f"{caught.value} [{'all' if caught.value.everywhere else 'one'}]"


class Line(nn.Module):
    """An objective with a frozen part; the rows of the second process contain a NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.frozen = nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.line(x) + self.frozen(x)).square().mean()}


def fit_line(folder: Path, kind: str, rows: int) -> None:
    objective = Line()
    if kind == "fsdp2":
        sharding.shard(objective, StrategyConfig(kind="fsdp2"), torch.device("cpu"))
    data = [{"x": torch.full((2,), float("nan") if dist.get_rank() and i > 1 else 1.0)} for i in range(rows)]
    stage = StageConfig(steps=4, batch_size=1, save_every=0, lr=0.1)
    fit(objective, data, [{"params": list(objective.line.parameters()), "lr": 0.1}], stage, folder=folder, device="cpu")


class _At:
    """Sends a signal to the second process when it computes a step for the n-th time."""

    def __init__(self, call: int, number: int) -> None:
        self.left, self.number, self.step = call, number, Trainer.training_step

    def __enter__(self) -> None:
        def step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if not self.left and dist.get_rank():
                os.kill(os.getpid(), self.number)
            return self.step(trainer, *args, **kwargs)

        Trainer.training_step = step  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        Trainer.training_step = self.step  # type: ignore[method-assign]


def worker(world: Path) -> None:
    torch.set_num_threads(1)
    begin("cpu")
    found: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        found[name] = value
        (world / f"found-{dist.get_rank()}.json").write_text(json.dumps(found))

    channel(world / "channel")
    note("ddp", result_of(settings(world, "ddp", strategy="ddp")))
    shares, shard = [], sharding.shard

    def watched(objective: Any, *args: Any) -> None:
        shard(objective, *args)
        shares.append(sum(p.to_local().numel() for p in objective.parameters()))

    sharding.shard = watched
    given = settings(world, "fsdp2", strategy="fsdp2")
    with _At(8, signal.SIGTERM):  # two batches a step: in step 3 of stage 2, its last
        note("asked", error_of(result_of, given))
    shutil.copytree(world / "fsdp2", world / "one-goes-on") if not dist.get_rank() else None
    note("fsdp2", result_of(given))
    note("shares", list(shares))
    for kind in KINDS:
        note(f"pixel {kind}", result_of(pixel_settings(world, f"pixel-{kind}", strategy=kind)))
        note(f"nan {kind}", error_of(fit_line, world / f"nan-{kind}", kind, 8))
        for teacher in SEVERAL_VIEWS:
            own = several_views_settings(world, f"{teacher}-{kind}", teacher, strategy=kind)
            note(f"{teacher} {kind}", result_of(own))
    note("few", error_of(fit_line, world / "few", "ddp", 1))
    refused = settings(world, "refused", strategy={"kind": "fsdp2", "reshard": False})
    refused["stage2"] = {**refused["stage2"], "steps": 1}
    refused["stage3"] = {**refused["stage3"], "require_answers": True}
    note("refused", error_of(result_of, refused))
    with _At(13, signal.SIGKILL):  # in step 3 of stage 3
        note("killed", error_of(result_of, settings(world, "killed", strategy={"kind": "fsdp2", "offload": True})))


def png(values: np.ndarray) -> dict[str, Any]:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def write_rows(folder: Path) -> None:
    import datasets

    rows = make_rows(32)
    for number, row in enumerate(rows):
        depth = np.full((4, 4), 1000 + 100 * number, np.uint16)
        if number % 3 == 0:  # fewer answers, and fewer patches with a depth
            row["messages"], depth[:2] = row["messages"][:2], 0
        row["depths"] = [png(depth)]
    pictures, text = datasets.List(datasets.Image()), datasets.Value("string")
    messages = datasets.List({"role": text, "content": text})
    features = datasets.Features({"images": pictures, "messages": messages, "meta": text, "depths": pictures})
    folder.mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "part-00000.parquet")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which two processes have done all jobs of `worker`."""
    folder = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    save_file(VisionTransformer(**SHAPE).state_dict(), folder / "encoder.safetensors")
    write_rows(folder / "rows")
    save_file(VisionTransformer(**ROOM_SHAPE).state_dict(), folder / "rooms-encoder.safetensors")
    build_dataset(Rooms(16, size=64, views=3), folder / "rooms", seed=0, plan=PLAN, with_depth=True, progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    common |= {"PYTHONPATH": os.pathsep.join(sys.path), "HF_DATASETS_CACHE": str(folder / "cache")}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=1200)[1].decode() for process in workers]
    finally:
        for process in workers:
            process.kill()
    codes = [process.returncode for process in workers]
    assert codes == [0, -signal.SIGKILL], "\n".join(each[-3000:] for each in told)
    return folder


def found(world: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((world / f"found-{rank}.json").read_text())


def test_the_channel_alone(world):
    alone = perturb(sb.boost(HOSTS["timm"].make()))
    train_channel(alone, images(4)["x"], alone)
    folders = sorted((world / "channel").iterdir())
    assert [path.name for path in folders] == [f"{kind}{name}" for kind in KINDS for name in ("", "-second", "-shards")]
    assert len(list((world / "channel" / "fsdp2-shards").glob("model-*.safetensors"))) > 2
    for folder in folders:
        assert not list(folder.glob("*.tmp"))
        loaded = sb.load_pretrained(HOSTS["timm"].make(), folder)
        with torch.no_grad():
            torch.testing.assert_close(output(loaded, images()), output(alone, images()), rtol=1e-4, atol=1e-4)


def test_runs_are_those_of_one_process(world):
    """Losses, scores and weights, of all stages; two processes were asked to end in between, and one was killed."""
    one = result_of(settings(world, "one", processes=1))
    ours = found(world)
    for name in ("ddp", "fsdp2"):
        for stage, values in one.items():
            torch.testing.assert_close(ours[name][stage], values, rtol=1e-4, atol=1e-5, msg=f"{name} {stage}")
    expected = load_file(world / "one" / "stage3" / "delta" / "model.safetensors")
    for name in ("one-goes-on", "killed"):
        assert [each.name for each in (world / name).glob("stage?/checkpoint-?")], name
        again = result_of(settings(world, name, processes=1))
        for stage, values in one.items():
            torch.testing.assert_close(again[stage], values, rtol=1e-4, atol=1e-5, msg=f"{name} {stage}")
    for name in ("ddp", "fsdp2", "one-goes-on", "killed"):
        delta = load_file(world / name / "stage3" / "delta" / "model.safetensors")
        assert delta.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(delta[key], value, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")


def test_pixel_runs_are_those_of_one_process(world):
    one = result_of(pixel_settings(world, "pixel", processes=1))
    for kind in KINDS:
        for stage, values in one.items():
            ours = found(world)[f"pixel {kind}"][stage]
            assert len(ours) == len(values)
            for a, b in zip(ours, values, strict=True):
                assert a == b or abs(a - b) < 1e-5, (kind, stage, ours, values)


@pytest.mark.parametrize("teacher", SEVERAL_VIEWS)
def test_runs_of_teachers_with_several_views_are_those_of_one_process(world, teacher):
    one = result_of(several_views_settings(world, teacher, teacher, processes=1))
    expected = load_file(world / teacher / "boost" / "delta" / "model.safetensors")
    for kind in KINDS:
        ours = found(world)[f"{teacher} {kind}"]
        assert ours.keys() == one.keys()
        for stage, values in one.items():
            for a, b in zip(ours[stage], values, strict=True):
                assert a == b or abs(a - b) < 1e-4 * max(1, abs(b)), (kind, stage, ours, values)
        delta = load_file(world / f"{teacher}-{kind}" / "boost" / "delta" / "model.safetensors")
        assert delta.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(delta[key], value, rtol=1e-3, atol=1e-4, msg=f"{kind} {key}")


def test_each_process_has_half_of_the_weights(world):
    one, two = (found(world, rank)["shares"] for rank in range(2))
    assert len(one) >= 3 and all(0.4 < a / (a + b) < 0.6 for a, b in zip(one, two, strict=True))


def test_what_one_process_sees_stops_both(world):
    for rank in range(2):
        ours = found(world, rank)
        assert "stage2 was asked to end (SIGTERM) and has saved a checkpoint after step 3" in ours["asked"]
        for kind in KINDS:
            assert "training: the loss is not finite in step" in ours[f"nan {kind}"] and "[all]" in ours[f"nan {kind}"]
        assert "training has 1 rows for 2 processes" in ours["few"]
        assert "stage3 is not begun: the language model does not answer better" in ours["refused"]
    assert "process 0 has lost the connection to another process" in found(world)["killed"]
    assert "[one]" in found(world)["killed"]
    assert not (world / "nan-ddp" / "checkpoint-4").exists()


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
