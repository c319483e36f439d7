"""How each host's attention reads: a small handler per kind, looked up by class path so that no host is imported.

A new host is one `Family` in this folder, added to `FAMILIES`.
"""

from __future__ import annotations

from torch import nn

from spatialboost.hosts.dino import DINO_HUB
from spatialboost.hosts.generic import GENERIC, is_complete, looks_like_attention
from spatialboost.hosts.mha import MHA
from spatialboost.hosts.parallel_block import PARALLEL
from spatialboost.hosts.protocol import Family, Part, Slot, class_path
from spatialboost.hosts.timm import TIMM, TIMM_EVA, TIMM_ROPE
from spatialboost.hosts.transformers import TRANSFORMERS

__all__ = ["FAMILIES", "Family", "Part", "Slot", "class_path", "family_named", "family_of"]

FAMILIES: tuple[Family, ...] = (TIMM, TIMM_ROPE, TIMM_EVA, TRANSFORMERS, MHA, DINO_HUB, PARALLEL, GENERIC)
_BY_NAME = {family.name: family for family in FAMILIES}
_BY_CLASS = {path: family for family in FAMILIES for path in family.classes}


def family_named(name: str) -> Family:
    """The family of that name."""
    return _BY_NAME[name]


def family_of(module: nn.Module) -> Family | None:
    """The family that reads `module`, by its class or its nearest known base; None where it is no attention layer.

    A module that is named attention and holds a whole one, beside norms or an MLP, is a block: the inner one counts.
    """
    if (family := _family_by_class(module)) is not None:
        return family
    if not looks_like_attention(module):
        return None
    inner = (child for child in module.modules() if child is not module)
    return None if any(_family_by_class(child) or is_complete(child) for child in inner) else GENERIC


def _family_by_class(module: nn.Module) -> Family | None:
    found = next((family for cls in type(module).__mro__ if (family := _BY_CLASS.get(class_path(cls)))), None)
    return found or (DINO_HUB if DINO_HUB.reads(module) else None)
