"""Two processes on gloo: DDP and FSDP2 train the channel as one process does, and rank 0 saves the full delta."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import spatialboost as sb
from host_models import HOSTS, images, output, perturb

STEPS, KINDS = 2, ("ddp", "fsdp2")


def train(model: torch.nn.Module, x: torch.Tensor, run: torch.nn.Module) -> None:
    optimizer = torch.optim.SGD(sb.param_groups(model, lr=0.05))
    for _ in range(STEPS):
        run(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def worker(folder: Path) -> None:
    dist.init_process_group("gloo")
    for kind in KINDS:
        model = perturb(sb.boost(HOSTS["timm"].make()))
        run: torch.nn.Module = model
        if kind == "ddp":
            run = DistributedDataParallel(model)
        else:
            for block in model.blocks:
                fully_shard(block)
            fully_shard(model)
        train(model, images(4)["x"].chunk(2)[dist.get_rank()], run)
        # every process calls, the first one writes, unless it is told otherwise
        sb.save_pretrained(run, folder / kind)
        sb.save_pretrained(model, folder / f"{kind}-shards", max_shard_size="10KB", dtype=torch.float32)
        sb.save_pretrained(model, folder / f"{kind}-second", is_main_process=dist.get_rank() == 1)
    try:
        sb.load_pretrained(model, folder / "ddp")
    except sb.SpatialBoostError as error:
        assert "already sharded" in str(error)
    else:
        raise AssertionError("a sharded model has taken a delta")
    dist.destroy_process_group()


def test_two_processes_train_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, __file__, str(tmp_path)]
    workers = [subprocess.Popen(command, env=common | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=300) for process in workers] == [0, 0]
    finally:
        for process in workers:
            process.kill()

    alone = perturb(sb.boost(HOSTS["timm"].make()))
    train(alone, images(4)["x"], alone)
    folders = sorted(tmp_path.iterdir())
    assert [path.name for path in folders] == [f"{kind}{name}" for kind in KINDS for name in ("", "-second", "-shards")]
    assert len(list((tmp_path / "fsdp2-shards").glob("model-*.safetensors"))) > 2
    for folder in folders:
        assert not list(folder.glob("*.tmp"))
        loaded = sb.load_pretrained(HOSTS["timm"].make(), folder)
        with torch.no_grad():
            torch.testing.assert_close(output(loaded, images()), output(alone, images()), rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
