"""Find the self-attention layers of an image tower."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from spatialboost.boosting.channel import SpatialChannel
from spatialboost.hosts.protocol import Family
from spatialboost.hosts.registry import family_of
from spatialboost.hosts.towers import IMAGE_TOWERS, is_causal, outside_of_image_tower, text_towers


@dataclass(frozen=True)
class Found:
    """An attention module of a model. It can be boosted if `reason` is None; else it is passed over for this reason."""

    name: str
    module: nn.Module
    family: Family
    index: int = -1
    reason: str | None = None


def uncompiled(model: nn.Module) -> nn.Module:
    """The module inside a `torch.compile` wrapper, or the model itself; its names have no `_orig_mod`."""
    while "_orig_mod" in model._modules:
        model = model._modules["_orig_mod"]  # type: ignore[assignment]
    return model


def find_attention(model: nn.Module) -> list[Found]:
    """Every attention module that is not inside another one, each with the reason if it cannot be boosted."""
    found = list(_walk(model, "", model, None, set()))
    taken = [f for f in found if f.reason is None]
    others = _of_language_models(model, taken)
    others |= _outside(model, [f.name for f in taken if f.name not in others])
    found = [Found(f.name, f.module, f.family, reason=others[f.name]) if f.name in others else f for f in found]
    taken = [f for f in taken if f.name not in others]
    indices = dict(zip((f.name for f in taken), _block_indices([f.name for f in taken]), strict=True))
    return [Found(f.name, f.module, f.family, indices.get(f.name, -1), f.reason) for f in found]


def _outside(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Layers beside a module whose name says that it is the image tower.

    In a user's own model the two have to be side by side: a name inside one of its encoders does not speak of another.
    """
    towers = [name.split(".") for name in names if IMAGE_TOWERS & set(name.split("."))]
    inside = {".".join(tower) for tower in towers}

    def beside(name: str) -> bool:
        pairs = (zip(name.split("."), tower, strict=False) for tower in towers)
        return any(next((t in IMAGE_TOWERS for n, t in pair if n != t), False) for pair in pairs)

    others = [name for name in names if towers and name not in inside and (_is_library(model) or beside(name))]
    return dict.fromkeys(others, "outside of the image tower")


def _is_library(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] in ("timm", "transformers", "torchvision", "open_clip")


def _of_language_models(model: nn.Module, taken: Sequence[Found]) -> dict[str, str]:
    """Why layers belong to a language model beside the image tower; {} if no other layers would be left."""
    embeddings = text_towers(model, [f.name for f in taken])
    others = {name: f"in a tower that reads tokens of text ({embedding})" for name, embedding in embeddings.items()}
    others |= {f.name: "causal attention, as in a language model" for f in taken if is_causal(f.module)}
    return others if len(others) < len(taken) else {}


def towers_in_question(model: nn.Module, found: Sequence[Found]) -> dict[str, int]:
    """Names and numbers of layers of the encoders that a model holds side by side, if it holds several.

    The modules of one encoder (stages, branches) are of one class or plain containers. A class of a library knows
    itself which of its modules belong together.
    """
    module, name, names = model, "", [f.name for f in found if f.reason is None]
    while True:
        children = {key: [n for n in names if n.startswith(f"{name}{key}.")] for key in module._modules}
        children = {key: inside for key, inside in children.items() if inside}
        if len(children) != 1:
            break
        (key,) = children
        module, name = module._modules[key], f"{name}{key}."  # type: ignore[assignment]
    inside = [module._modules[key] for key in children]
    if _is_library(module) or len(inside) < 2 or isinstance(module, nn.ModuleList):
        return {}
    models = [m for m in inside if hasattr(m, "pretrained_cfg") or hasattr(getattr(m, "config", None), "model_type")]
    differ = len({type(m) for m in inside}) > 1 and not any(
        isinstance(m, nn.ModuleList | nn.Sequential) for m in inside
    )
    several = len(models) > 1 or (differ and all(len(n) > 1 for n in children.values()))
    return {f"{name}{key}": len(n) for key, n in children.items()} if several else {}


def tower(model: nn.Module) -> dict[int, Found]:
    """The self-attention layers of the model by block index."""
    return {f.index: f for f in find_attention(model) if f.reason is None}


def _walk(module: nn.Module, name: str, parent: nn.Module, reason: str | None, seen: set[nn.Module]) -> Iterator[Found]:
    """Attention modules in the order of the model; one that is there under two names is found under the first."""
    if isinstance(module, SpatialChannel) or module in seen:
        return
    seen.add(module)
    reason = reason or outside_of_image_tower(name, module, parent)
    if (family := family_of(module)) is not None:
        yield Found(name, module, family, reason=reason or family.refusal(module))
        return
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, f"{name}.{child_name}" if name else child_name, module, reason, seen)


def _block_indices(names: Sequence[str]) -> list[int]:
    """The block number in each name (`blocks.3.attn`, `encoder_layer_3.self_attention`); 0, 1, ... if not unique."""
    numbers = [re.findall(r"(?:^|[._])(\d+)(?=\.|$)", name) for name in names]
    if all(len(n) == 1 for n in numbers) and len({n[0] for n in numbers}) == len(names):
        return [int(n[0]) for n in numbers]
    return list(range(len(names)))
