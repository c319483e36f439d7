"""Find the self-attention layers of an image tower, and choose among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from spatialboost.boosting.channel import SpatialChannel
from spatialboost.boosting.refuse import check_host
from spatialboost.errors import SpatialBoostError
from spatialboost.hosts import Family, family_of

Choice = int | slice | str | re.Pattern[str]
Layers = Choice | Sequence[Choice] | Callable[[str, nn.Module], bool] | None

IMAGE_TOWERS = {"vision_model", "visual", "vision_tower", "image_encoder", "vision_encoder", "vision_backbone"}
TEXT_TOWERS = {"text_model", "text_encoder", "text", "language_model", "text_decoder", "decoder", "lm_head"}
TEXT_TOWERS |= {"text_backbone", "language_backbone", "text_enhancer_layer"}  # of Grounding DINO and OmDet
POOLING = re.compile(r"pooler|pooling_?head|att(entio)?n(al)?_?pool(?!first)|pool(2d|ing)?$", re.IGNORECASE)


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
    if POOLING.search(cls):
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
        raise SpatialBoostError(_nothing_found(found, root))
    chosen = known if layers is None else _chosen(layers, known, found)
    for f in chosen:
        check_host(f.name, f.module, f.family)
    return chosen


def _chosen(layers: Layers, known: list[Found], found: Sequence[Found]) -> list[Found]:
    if callable(layers):
        chosen = [f for f in known if layers(f.name, f.module)]
        if not chosen:
            raise SpatialBoostError(
                f"`layers` selected none of {_names(known)}. It is called with each one's name and module and has to "
                "return True for some."
            )
        return chosen
    several = isinstance(layers, Sequence) and not isinstance(layers, str)
    wanted: list[Any] = list(layers) if several else [layers]  # type: ignore[arg-type]
    if not wanted:
        raise SpatialBoostError(f"layers={layers!r}: no index given; there are layers {_indices(known)}.")
    taken = {f.index for one in wanted for f in _asked_for(one, known, found, layers)}
    return [f for f in known if f.index in taken]


def _asked_for(one: Any, known: list[Found], found: Sequence[Found], layers: Layers) -> list[Found]:
    """The layers that one index, slice, name or pattern means."""
    span = max(f.index for f in known) + 1
    if isinstance(one, int) and not isinstance(one, bool):
        index = one + span if one < 0 else one
        if not (chosen := [f for f in known if f.index == index]):
            raise SpatialBoostError(
                f"layers={layers!r}: block {index} has no self-attention layer; there are layers {_indices(known)}."
            )
        return chosen
    if isinstance(one, slice):
        inside = range(span)[one]
        if not (chosen := [f for f in known if f.index in inside]):
            raise SpatialBoostError(f"layers={layers!r} is empty; there are layers {_indices(known)}.")
        return chosen
    if isinstance(one, str | re.Pattern):
        if chosen := [f for f in known if _matches(one, f.name)]:
            return chosen
        passed = next((f for f in found if f.reason is not None and _matches(one, f.name)), None)
        why = f"{passed.name} is passed over: {passed.reason}" if passed else f"no name matches {one!r}"
        raise SpatialBoostError(f"layers={layers!r}: {why}; there are {_names(known)}.")
    raise SpatialBoostError(
        f"layers={layers!r}: {type(one).__name__} is no way to choose layers; expected indices, a slice, names or "
        "patterns, or a predicate `(name, module) -> bool`."
    )


def _matches(pattern: str | re.Pattern[str], name: str) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    return name == pattern or name.startswith(f"{pattern}.") or fnmatchcase(name, pattern)


def _names(known: list[Found]) -> str:
    return (
        f"the {len(known)} self-attention layers ({', '.join(f.name for f in known[:4])}{', ...' * (len(known) > 4)})"
    )


def _indices(known: list[Found]) -> list[int]:
    return sorted(f.index for f in known)


def _nothing_found(found: Sequence[Found], root: nn.Module) -> str:
    kinds = Counter(type(m).__name__ for m in root.modules() if m is not root and next(m.children(), None) is None)
    seen = "; ".join(f"{f.name} ({type(f.module).__name__}): {f.reason}" for f in found[:5])
    what = seen or f"its layers are {', '.join(f'{n} {k}' for k, n in kinds.most_common(6)) or 'none'}"
    return (
        f"no self-attention layer found in {type(root).__name__}: {what}. Expected a vision transformer of timm, "
        "transformers, torchvision or torch.hub, or modules whose class is named ...Attention and that map tokens to "
        "tokens."
    )
