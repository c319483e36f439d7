"""The libraries whose encoders can be opened by name and read: one file each, and one line in `LIBRARIES`."""

from __future__ import annotations

from typing import Any

from torch import nn

from spatialboost.encoders.libraries.hub import Hub
from spatialboost.encoders.libraries.open_clip import OpenClip
from spatialboost.encoders.libraries.protocol import Library
from spatialboost.encoders.libraries.timm import Timm
from spatialboost.encoders.libraries.torchvision import Torchvision
from spatialboost.encoders.libraries.transformers import Transformers
from spatialboost.errors import SpatialBoostError, unknown

# prefix of a specification -> library; an encoder is read by the first that says it can
LIBRARIES: dict[str, Library] = {
    "open_clip": OpenClip(),
    "timm": Timm(),
    "hf": Transformers(),
    "torchvision": Torchvision(),
    "hub": Hub(),
}
ALIASES = {"transformers": "hf"}


def find_library(prefix: str) -> Library:
    """The library of a prefix.

    Raises:
        SpatialBoostError: There is none, with the nearest right one.
    """
    name = ALIASES.get(prefix, prefix)
    if name not in LIBRARIES:
        raise unknown("encoder library", prefix, [*LIBRARIES, *ALIASES])
    return LIBRARIES[name]


def find_reader(encoder: nn.Module) -> tuple[Library, Any]:
    """The library that reads an encoder, and the module that it reads, which a wrapper or a head may hold.

    Raises:
        SpatialBoostError: It has no patch tokens that any library could read.
    """
    inner = _unwrapped(encoder)
    for library in LIBRARIES.values():
        if library.reads(inner):
            return library, inner
    towers = [name for name in ("vision_model", "vision_tower", "visual") if hasattr(encoder, name)]
    hint = f": it holds a vision model, so give that one (`model.{towers[0]}`)" if towers else ""
    raise SpatialBoostError(
        f"cannot read patch tokens of {type(encoder).__module__}.{type(encoder).__name__}{hint}. Expected an image "
        f"encoder of {', '.join(LIBRARIES)} with a grid of patches"
    )


def _unwrapped(encoder: nn.Module) -> nn.Module:
    """What `torch.compile`, open_clip's and transformers' wrappers of timm models, and transformers' heads hold."""
    for name in ("_orig_mod", "trunk", "timm_model"):
        if isinstance(held := encoder._modules.get(name), nn.Module):
            return _unwrapped(held)
    config, body = getattr(encoder, "config", None), getattr(encoder, "base_model", None)
    if hasattr(config, "model_type") and hasattr(body, "embeddings") and not hasattr(encoder, "embeddings"):
        return body  # type: ignore[return-value]
    return encoder
