"""Refuse models and layers that cannot get a second channel, before anything is changed. Each error says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from spatialboost.boosting.channel import channel_parameters, is_sharded
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts.layers import class_path, is_linear
from spatialboost.hosts.protocol import Family, check_slots
from spatialboost.hosts.transformers import checkpoints_reentrantly, restored_forward

WRAPPERS = {"DistributedDataParallel", "FullyShardedDataParallel", "DataParallel", "DeepSpeedEngine"}
PLAIN = (torch.Tensor, nn.Parameter)


def check_model(root: nn.Module) -> None:
    """Raise if the model is in a state in which it cannot be boosted."""
    if torch.is_inference_mode_enabled() or any(p.is_inference() for p in root.parameters() if not is_lazy(p)):
        raise SpatialBoostError(
            f"{type(root).__name__} is boosted or was made within torch.inference_mode: weights that are made there "
            "cannot be trained. Leave the context, or use torch.no_grad."
        )
    if (path := _contains_itself(root, (), set())) is not None:
        raise SpatialBoostError(f"the module {path!r} contains itself. Delete the reference to the outer module.")
    for name, module in root.named_modules():
        where = f"{name} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            raise SpatialBoostError(
                f"{where} is a traced or scripted program and no longer has attention layers. Boost the eager "
                "model, then trace or export it."
            )
        names = {cls.__name__ for cls in type(module).__mro__}
        if found := sorted(names & WRAPPERS):
            raise SpatialBoostError(
                f"{where} is wrapped already ({found[0]}), which would not synchronise new weights. Boost the model "
                "before it is wrapped."
            )
        if "FSDPModule" in names:
            raise SpatialBoostError(
                f"{where} is sharded already (fully_shard): new weights would not be sharded. Boost the model before "
                "it is sharded."
            )
        if any(is_lazy(p) for p in (*module._parameters.values(), *module._buffers.values())):
            raise SpatialBoostError(f"{where} has lazy parameters without shapes. Run the model once, then boost it.")
        if checkpoints_reentrantly(module):
            raise SpatialBoostError(
                f"{type(module).__name__} uses gradient checkpointing with use_reentrant=True. With it, Attn+ in a "
                "frozen encoder gets no gradient. Call "
                'gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False}) first.'
            )


def _contains_itself(
    module: nn.Module, above: tuple[nn.Module, ...], done: set[nn.Module], name: str = ""
) -> str | None:
    """Name of a module that is its own descendant, or None."""
    if module in above:
        return name
    if module in done:
        return None
    done.add(module)
    children = ((f"{name}.{key}".lstrip("."), child) for key, child in module._modules.items() if child is not None)
    inside = (_contains_itself(child, (*above, module), done, path) for path, child in children)
    return next((path for path in inside if path is not None), None)


def check_host(name: str, attention: nn.Module, family: Family) -> None:
    """Raise if the host computes in a way that a second channel cannot repeat exactly."""
    check_slots(family, attention)
    for what, do in _objections(name, attention, family):
        raise SpatialBoostError(
            f"{name} ({class_path(type(attention))}) {what}. {do}, or leave the layer out with `layers=`."
        )


def _objections(name: str, attention: nn.Module, family: Family) -> Iterator[tuple[str, str]]:
    if name.rpartition(".")[2] == "base_layer":
        yield (
            "carries adapters around the whole attention",
            "Boost the model before the adapters are added, or merge them",
        )
    own = list(channel_parameters(attention, family))
    for parameter_name, owner, leaf, _ in own:
        parameter = owner.get_parameter(leaf)
        if is_sharded(parameter) or hasattr(parameter, "ds_id"):
            yield f"is sharded already ({parameter_name})", "Boost the model before it is sharded"
        elif kind := quantised(parameter):
            yield f"has quantised weights ({parameter_name}: {kind})", "Boost the model before it is quantised"
    for path, module in attention.named_modules():
        if "forward" in vars(module) and not restored_forward(module):
            yield (
                f"has a forward of its own on the instance of {type(module).__name__}",
                "Boost the model before such hooks are installed",
            )
        if any(isinstance(value, torch.Tensor) for value in vars(module).values()):
            yield f"computes weights in a hook ({type(module).__name__})", "Make them plain parameters first"
        if is_linear(module) and module._parameters.get("weight") is None and not hasattr(module, "parametrizations"):
            yield (
                f"has a projection without a weight of its own ({path}: {class_path(type(module))})",
                "Boost the model before it is quantised",
            )
    if not own:
        yield "has no weights of its own", "Boost the module that holds them"


def quantised(parameter: Any) -> str | None:
    """How a parameter is quantised (integers, 8-bit floats, tensor classes of torchao and others), or None."""
    if not parameter.is_floating_point() or parameter.itemsize == 1:
        return str(parameter.dtype)
    cls = type(parameter)
    # a lazy or fake tensor counts as a plain one
    if cls in PLAIN or cls.__module__.startswith(("torch.nn.parameter", "torch._subclasses")):
        return None
    return class_path(cls)
