"""The table of families, and the functions that find a family in it."""

from __future__ import annotations

from torch import nn

from spatialboost.errors import unknown
from spatialboost.hosts.dino import DinoHubAttention
from spatialboost.hosts.generic import GenericAttention, is_complete, looks_like_attention
from spatialboost.hosts.layers import class_path
from spatialboost.hosts.mha import MultiheadAttention
from spatialboost.hosts.parallel_block import ParallelScaling
from spatialboost.hosts.protocol import Family
from spatialboost.hosts.timm import TimmAttention, TimmAttentionRope, TimmEvaAttention
from spatialboost.hosts.transformers import TransformersAttention

# For a new host, add one line here.
FAMILIES: dict[str, Family] = {
    "timm": TimmAttention(),
    "timm_rope": TimmAttentionRope(),
    "timm_eva": TimmEvaAttention(),
    "transformers": TransformersAttention(),
    "mha": MultiheadAttention(),
    "dino_hub": DinoHubAttention(),
    "parallel": ParallelScaling(),
    "generic": GenericAttention(),
}


def family_named(name: str) -> Family:
    """The family with this name.

    Raises:
        SpatialBoostError: There is no such family.
    """
    if name not in FAMILIES:
        raise unknown("family of attention", name, FAMILIES)
    return FAMILIES[name]


def family_of(module: nn.Module) -> Family | None:
    """The family of `module`: by its class or its nearest known base class, else by its structure; else None.

    A module that is named attention but contains a complete attention module is a block: then the inner module counts.
    """
    if (family := _known_family(module)) is not None:
        return family
    if not looks_like_attention(module):
        return None
    inner = (child for child in module.modules() if child is not module)
    return None if any(_known_family(child) or is_complete(child) for child in inner) else FAMILIES["generic"]


def _known_family(module: nn.Module) -> Family | None:
    for cls in type(module).__mro__:
        path = class_path(cls)
        if found := next((family for family in FAMILIES.values() if path in family.classes), None):
            return found
    return next((family for family in FAMILIES.values() if family.reads(module)), None)
