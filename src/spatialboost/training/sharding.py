"""FSDP2: divide the weights of a teacher's objective among the processes, and gather what was trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spatialboost.boosting.channel import full_value, is_sharded
from spatialboost.errors import SpatialBoostError
from spatialboost.teachers.protocol import Groups, Teacher
from spatialboost.training.processes import world_size
from spatialboost.training.strategy import StrategyConfig
from spatialboost.training.zero import full_weight

Result = TypeVar("Result")
_CALL = "call_with_all_weights"


@contextmanager
def sharded(
    teacher: Teacher, groups: Groups, strategy: StrategyConfig, device: torch.device
) -> Iterator[tuple[Teacher, Groups]]:
    """A copy of a teacher with weights that are divided among the processes, and its parameter groups.

    The teacher itself stays whole, in main memory. When the context ends without an error, it gets the trained values.
    Without FSDP2, or with one process, the teacher itself is given.

    Args:
        teacher: The teacher.
        groups: Parameter groups of its objective.
        strategy: Settings of FSDP2.
        device: Device of this process.
    """
    if strategy.kind == "ddp" or world_size() == 1:
        yield teacher, groups
        return
    whole = dict(teacher.objective.named_parameters())
    names = {id(p): name for name, p in whole.items()}
    # The copy has other parameters over the same values; sharding then moves one block at a time to the device
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) if p.is_floating_point() else p
        for p in whole.values()
    }
    ours = copy.deepcopy(teacher, memo)
    del memo
    if strategy.kind == "fsdp2":
        shard(ours.objective, strategy, device)
    else:
        ours.objective.to(device)  # DeepSpeed divides it in `fit`
    parts = dict(ours.objective.named_parameters())
    yield ours, [{**group, "params": [parts[names[id(p)]] for p in group["params"]]} for group in groups]
    with torch.no_grad():
        for name, parameter in parts.items():
            if parameter.requires_grad:
                whole[name].copy_(full_weight(parameter))


def shard(objective: nn.Module, strategy: StrategyConfig, device: torch.device) -> None:
    """Divide the parameters of an objective in place: those of each block together, and all others together.

    Raises:
        SpatialBoostError: The trained weights of a block have several dtypes, which FSDP2 cannot divide.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method

    units = [*blocks(objective), objective]
    seen: set[int] = set()
    for unit in units:
        dtypes = {p.dtype for p in unit.parameters() if p.requires_grad and id(p) not in seen}
        seen |= {id(p) for p in unit.parameters()}
        if len(dtypes) > 1:
            kinds = " and ".join(sorted(str(each).removeprefix("torch.") for each in dtypes))
            raise SpatialBoostError(
                f"fsdp2 cannot divide trained weights of several types, and {type(unit).__name__} has {kinds}: load "
                "the encoder and the language model that are trained in float32 (`bf16: true` computes in bfloat16), "
                "or choose `strategy: ddp`"
            )
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world_size(),)),
        "offload_policy": CPUOffloadPolicy() if strategy.offload and device.type != "cpu" else OffloadPolicy(),
        "ignored_params": {
            p for p in objective.parameters() if not p.is_floating_point()
        },  # quantised: stay as they are
    }
    for unit in units[:-1]:
        fully_shard(unit, reshard_after_forward=strategy.reshard, **options)
    setattr(objective, _CALL, lambda function: function())
    fully_shard(objective, **options)
    register_fsdp_forward_method(objective, _CALL)


def call(objective: nn.Module, function: Callable[[], Result]) -> Result:
    """Call a function that uses parts of an objective directly, such as the encoder; all processes have to call this.

    If the objective is sharded, the weights outside its blocks are whole while the function runs, and those of a block
    while the block runs.
    """
    run = getattr(objective, _CALL, None)
    if run is None:
        return function()
    try:
        return run(function)
    finally:
        module: Any = objective
        module.reshard()


def blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of all towers inside a module: the items of the outermost lists of modules with parts of their own.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> len(blocks(nn.ModuleDict({"a": VisionTransformer(embed_dim=48, depth=3, num_heads=2)})))
        3
    """
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        items = [each for each in module if any(True for _ in each.parameters())]
        composed = all(any(any(True for _ in part.parameters()) for part in each.children()) for each in items)
        alike = isinstance(module, nn.ModuleList) or len({type(each) for each in module}) == 1
        if items and composed and alike:
            return items
    return [found for part in module.children() for found in blocks(part)]


def shards_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The part of a whole value that this process has of a sharded parameter; the value itself if it is whole."""
    if not is_sharded(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    own: Any = parameter
    value = value.to(own.to_local().device)
    return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)


def full_state(value: Any, *, keep: bool = True) -> Any:
    """A state with all sharded tensors gathered, in main memory; all processes have to call this.

    Args:
        value: Tensors in dictionaries, lists and tuples.
        keep: Whether this process needs the result.
    """
    if isinstance(value, Tensor):
        whole = full_value(value) if is_sharded(value) else value
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {key: full_state(each, keep=keep) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(full_state(each, keep=keep) for each in value)
    return value
