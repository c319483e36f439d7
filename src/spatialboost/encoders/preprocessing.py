"""Mean, standard deviation and interpolation that a checkpoint was trained with."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

from torch import nn

from spatialboost.encoders.spec import INTERPOLATIONS, RGB
from spatialboost.errors import SpatialBoostError, unknown

logger = logging.getLogger(__name__)

IMAGENET: tuple[RGB, RGB] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP: tuple[RGB, RGB] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF: tuple[RGB, RGB] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

RECORD = "spatialboost_preprocessing"  # attribute of an encoder that stores its `Preprocessing`; not in the state dict


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the numbers that an encoder was trained on: `(pixel - mean) / std`, for pixels in [0, 1].

    A checkpoint for pixels of another range, or one that normalises inside the model, is converted to these terms: mean
    0 and std 1 leave the pixels unchanged.

    Attributes:
        mean: Mean of each colour channel.
        std: Standard deviation of each colour channel.
        interpolation: How images are resized: nearest, bilinear, bicubic or lanczos.
    """

    mean: RGB
    std: RGB
    interpolation: str = "bilinear"


def read_preprocessing(encoder: nn.Module) -> Preprocessing:
    """The preprocessing that the encoder's checkpoint was trained with, or the one that `set_preprocessing` has set.

    Example:
        >>> import timm
        >>> read_preprocessing(timm.create_model("vit_base_patch16_clip_224.openai", depth=1)).interpolation
        'bicubic'

    timm stores it in ``pretrained_cfg``, transformers in ``preprocessor_config.json`` next to the weights, open_clip
    and torchvision with the weights. If a model has no stored preprocessing (it was built from a configuration, or its
    weights were loaded by hand), the usual values for its kind are used, and a warning is logged.
    """
    from spatialboost.encoders.libraries import find_reader

    known: Preprocessing | None = getattr(encoder, RECORD, None)
    if known is not None:
        return known
    library, inner = find_reader(encoder)
    found: Preprocessing | None = getattr(inner, RECORD, None)
    if found is None and isinstance(config := getattr(encoder, "preprocess_cfg", None), dict):
        found = from_config(config)  # a timm model inside open_clip: open_clip's values apply, not timm's
    found = found or library.preprocessing(inner)
    if found is not None:
        return found
    usual = library.usual_preprocessing(inner)
    _warn_once(encoder, usual)
    return usual


def set_preprocessing(
    encoder: nn.Module, *, mean: RGB | None = None, std: RGB | None = None, interpolation: str | None = None
) -> None:
    """Set the preprocessing of an encoder, if its checkpoint stores none or a wrong one; None keeps a value.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(embed_dim=48, depth=1, num_heads=2)
        >>> set_preprocessing(encoder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> read_preprocessing(encoder).mean
        (0.5, 0.5, 0.5)

    The values are stored on the encoder. Copying, pickling, `boost` and `unboost` keep them.
    """
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    if std is not None and not all(math.isfinite(each) and each > 0 for each in std):
        raise SpatialBoostError(f"std is {std}; expected three numbers above zero")
    if mean is not None and std is not None:
        from spatialboost.encoders.libraries import find_reader

        library, inner = find_reader(encoder)
        known = getattr(encoder, RECORD, None) or library.preprocessing(inner)
        base = known or library.usual_preprocessing(inner)  # only its interpolation is used, so no warning is needed
    else:
        base = read_preprocessing(encoder)
    given = {"mean": mean, "std": std, "interpolation": interpolation}
    setattr(encoder, RECORD, replace(base, **{key: value for key, value in given.items() if value is not None}))


def from_config(config: dict[str, Any]) -> Preprocessing | None:
    """Read a dictionary with ``mean``, ``std`` and ``interpolation``, as timm and open_clip store it."""
    if config.get("mean") is None or config.get("std") is None:
        return None
    interpolation = str(config.get("interpolation") or "bilinear")
    # some models were trained with an interpolation drawn at random for each image; bicubic is one of those
    interpolation = interpolation if interpolation in INTERPOLATIONS else "bicubic"
    return Preprocessing(as_rgb(config["mean"]), as_rgb(config["std"]), interpolation)


def as_rgb(values: Any) -> RGB:
    """Three numbers, from one number for all channels or from three."""
    if isinstance(values, (int, float)):
        return (float(values),) * 3
    red, green, blue = (float(value) for value in values)
    return red, green, blue


_warned: WeakSet[nn.Module] = WeakSet()


def _warn_once(encoder: nn.Module, usual: Preprocessing) -> None:
    if encoder in _warned:
        return
    _warned.add(encoder)
    logger.warning(
        "%s does not say how its images are normalised; this run uses mean %s, std %s, %s. If it was trained with "
        "other values, give `mean`, `std` and `interpolation` (to open_encoder, or in the `encoder:` section), or call "
        "spatialboost.encoders.set_preprocessing",
        type(encoder).__name__,
        usual.mean,
        usual.std,
        usual.interpolation,
    )
