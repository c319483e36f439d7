"""The table of families, and the look-up of a module's family in it."""

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

# A new host is one line here.
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
    """The family of that name.

    Raises:
        SpatialBoostError: There is none.
    """
    if name not in FAMILIES:
        raise unknown("family of attention", name, FAMILIES)
    return FAMILIES[name]


def family_of(module: nn.Module) -> Family | None:
    """The family that reads `module`: by its class or the nearest known base, then by its structure; else None.

    A module that is named attention and holds a complete one, beside norms or an MLP, is a block: the inner one counts.
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
