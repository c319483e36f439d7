"""Find the self-attention layers of an image tower, choose among them, refuse what cannot be run twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .channel import SpatialChannel, host_parameters, is_sharded, restored_forward
from .errors import SpatialBoostError
from .families import Family, class_path, family_of

Layers = Sequence[int] | Callable[[str, nn.Module], bool] | None

IMAGE_TOWERS = {"vision_model", "visual", "vision_tower", "image_encoder", "vision_encoder", "vision_backbone"}
TEXT_TOWERS = {"text_model", "text_encoder", "text", "language_model", "text_decoder", "decoder", "lm_head"}


@dataclass(frozen=True)
class Found:
    """An attention module of a model: taken if `reason` is None, else passed over for that reason."""

    name: str
    module: nn.Module
    family: Family
    index: int = -1
    reason: str | None = None


def uncompiled(model: nn.Module) -> nn.Module:
    """The module under `torch.compile`, whose names are those of the user's own model."""
    while "_orig_mod" in model._modules:
        model = model._modules["_orig_mod"]  # type: ignore[assignment]
    return model


def find_attention(model: nn.Module) -> list[Found]:
    """Every attention module, outermost ones only: with an index in the image tower, or the reason why not."""
    found = list(_walk(model, "", model, None))
    taken = [f for f in found if f.reason is None]
    towers = {t for f in taken for t in f.name.split(".") if t in IMAGE_TOWERS}
    if towers:
        outside = [f for f in taken if not towers & set(f.name.split("."))]
        found = [
            Found(f.name, f.module, f.family, reason="outside of the image tower") if f in outside else f for f in found
        ]
        taken = [f for f in taken if f not in outside]
    indices = dict(zip((f.name for f in taken), _block_indices([f.name for f in taken]), strict=True))
    return [Found(f.name, f.module, f.family, indices.get(f.name, -1), f.reason) for f in found]


def tower(model: nn.Module) -> dict[int, Found]:
    """The self-attention layers of the model by block index."""
    return {f.index: f for f in find_attention(model) if f.reason is None}


def _walk(module: nn.Module, name: str, parent: nn.Module, reason: str | None) -> Iterator[Found]:
    if isinstance(module, SpatialChannel):
        return
    leaf = name.rpartition(".")[2]
    cls = type(module).__name__
    if leaf in TEXT_TOWERS:
        reason = reason or f"in `{leaf}`, which is no image tower"
    if "pool" in cls.lower():
        reason = reason or f"in a pooling head ({cls})"
    if re.search("cross|multihead_attn|encoder_attn", leaf) or hasattr(
        parent, "ln_1_kv"
    ):  # the last: open_clip's resampler blocks
        reason = reason or "cross-attention, by its name"
    if (family := family_of(module)) is not None:
        yield Found(name, module, family, reason=reason or family.refusal(module))
        return
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{name}.{child_name}" if name else child_name, module, reason)


def _block_indices(names: Sequence[str]) -> list[int]:
    """The number in each name (`blocks.3.attn`, `encoder_layer_3.self_attention`) if unique, else the order."""
    numbers = [re.findall(r"(?:^|[._])(\d+)(?=\.|$)", name) for name in names]
    if all(len(n) == 1 for n in numbers) and len({n[0] for n in numbers}) == len(names):
        return [int(n[0]) for n in numbers]
    return list(range(len(names)))


def select(found: Sequence[Found], layers: Layers, root: nn.Module) -> list[Found]:
    """The layers that `layers` asks for, in order; raises where it asks for none or for one that is not there."""
    known = [f for f in found if f.reason is None]
    if not known:
        seen = [f"{f.name} ({type(f.module).__name__}): {f.reason}" for f in found[:5]]
        kinds = Counter(type(m).__name__ for m in root.modules() if m is not root and next(m.children(), None) is None)
        what = "; ".join(seen) or f"its layers are {', '.join(f'{n} {k}' for k, n in kinds.most_common(6)) or 'none'}"
        raise SpatialBoostError(
            f"no self-attention layer found in {type(root).__name__}: {what}. Expected a vision transformer of timm, "
            "transformers, "
            "torchvision or torch.hub, or modules whose class is named ...Attention and that map tokens to tokens."
        )
    if layers is None:
        return known
    if callable(layers):
        chosen = [f for f in known if layers(f.name, f.module)]
        if not chosen:
            names = ", ".join(f.name for f in known[:4])
            raise SpatialBoostError(
                f"`layers` selected none of the {len(known)} self-attention layers ({names}, ...). It is called with "
                "each one's name "
                "and module and has to return True for some."
            )
        return chosen
    by_index = {f.index: f for f in known}
    span = max(by_index) + 1
    wanted = [i + span if i < 0 else i for i in layers]
    if not wanted or (missing := [i for i in wanted if i not in by_index]):
        what = f"block {missing[0]} has no self-attention layer" if wanted else "no index given"
        raise SpatialBoostError(f"layers={list(layers)!r}: {what}; there are layers {sorted(by_index)}.")
    return [by_index[i] for i in sorted(set(wanted))]


def check_host(name: str, attention: nn.Module) -> None:
    """Raise where the host computes in a way that a second channel could not repeat exactly."""

    def refuse(what: str, do: str) -> None:
        raise SpatialBoostError(
            f"{name} ({class_path(type(attention))}) {what}. {do}, or leave the layer out with `layers=`."
        )

    for parameter_name, owner, leaf in host_parameters(attention):
        parameter = owner.get_parameter(leaf)
        if not parameter.is_floating_point():
            refuse(f"has quantised weights ({parameter_name})", "Boost the model before it is quantised")
        if is_sharded(parameter):
            refuse(f"is sharded already ({parameter_name})", "Boost the model before it is sharded")
    for module in attention.modules():
        if "forward" in vars(module) and not restored_forward(module):
            refuse(
                f"has a forward of its own on the instance of {type(module).__name__}",
                "Boost before such hooks are put on",
            )
        if any(isinstance(value, torch.Tensor) for value in vars(module).values()):
            refuse(f"computes weights in a hook ({type(module).__name__})", "Make them plain parameters first")
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            refuse("holds batch normalisation, whose statistics both channels would update", "Fold it first")
    if not any(True for _ in host_parameters(attention)):
        refuse("has no weights of its own", "Boost the module that holds them")
