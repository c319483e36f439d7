"""The processes of a distributed run: begin together, agree, and end together."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from spatialboost.errors import SpatialBoostError

LAUNCHERS = "start one process per GPU with `torchrun --nproc-per-node N` or `accelerate launch`"
PATIENCE = timedelta(minutes=30)  # the longest that a process waits for the others
_NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("closed by peer", "reset by peer", "broken pipe", "timed out", "timeout", "gloo", "nccl", "store")


def rank() -> int:
    """Number of this process; 0 is the main one."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def begin(device: str) -> None:
    """Connect the processes; all but the main one print warnings and errors only.

    Args:
        device: ``cpu``, or ``auto`` for a GPU if there is one.

    Raises:
        SpatialBoostError: The environment tells only a part of what is needed, or the others do not come.
    """
    given = [name for name in _NEEDED if name in os.environ]
    if "LOCAL_RANK" not in given and world_size() == 1:
        return
    missing = [name for name in _NEEDED if name not in given]
    if missing:
        raise SpatialBoostError(
            f"the environment has {', '.join(given)} but not {', '.join(missing)}: {LAUNCHERS}, or unset "
            f"{', '.join(given)} for one process"
        )
    if not is_main():
        logging.getLogger("spatialboost").setLevel(logging.ERROR)
        logging.getLogger("transformers").setLevel(logging.ERROR)
    if world_size() == 1 or dist.is_initialized():
        return
    from accelerate import PartialState

    try:
        PartialState(cpu=device == "cpu" or not torch.accelerator.is_available(), timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise SpatialBoostError(
            f"process {rank()} of {world_size()} cannot connect to the others at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({_one_line(error)}): {LAUNCHERS}"
        ) from error


def own_device(wanted: str) -> torch.device:
    """The device of this process: ``cpu``, or for ``auto`` its own GPU if there is one."""
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def wait() -> None:
    """Wait until all processes are here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def anywhere(*flags: bool | torch.Tensor) -> list[bool]:
    """For each flag, whether it is true in any process. All processes have to call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return [bool(flag) for flag in flags]
    found = torch.stack([torch.as_tensor(flag, dtype=torch.int32, device=_device()) for flag in flags])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return [bool(flag) for flag in found.tolist()]


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes. All processes have to call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    values = values.to(_device(), copy=True)
    dist.all_reduce(values)
    return values


def from_main(value: Any) -> Any:
    """What the main process has found, in all processes. All processes have to call this."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, device=_device())
    return box[0]


@contextmanager
def loss_explained(name: str) -> Iterator[None]:
    """Say so if another process has ended, which this process sees as a broken connection."""
    try:
        yield
    except RuntimeError as error:
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        text = _one_line(error)
        if not distributed or isinstance(error, torch.OutOfMemoryError) or not any(w in text.lower() for w in _LOST):
            raise
        raise SpatialBoostError(
            f"{name}: process {rank()} has lost the connection to another process, which has ended or hangs: look for "
            f"its message. The same command goes on from the last checkpoint ({text[:160]})"
        ) from error


def _device() -> torch.device:
    """Where tensors have to be that processes exchange."""
    if dist.get_backend() == "gloo":
        return torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator()
    return (
        torch.device("cpu")
        if accelerator is None
        else torch.device(accelerator.type, torch.accelerator.current_device_index())
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
