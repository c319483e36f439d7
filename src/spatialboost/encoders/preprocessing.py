"""Mean, standard deviation and interpolation that a checkpoint was trained with, from its own word."""

from __future__ import annotations

import logging
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

RECORD = "spatialboost_preprocessing"  # the attribute of an encoder that keeps what was found or set; in no state dict


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become the numbers that an encoder was trained on: `(pixel - mean) / std`, for pixels in [0, 1].

    A checkpoint that takes pixels of another range, or that normalises inside of the model, is written in these terms
    too: 0 and 1 leave the pixels as they are.

    Attributes:
        mean: Of each channel.
        std: Of each channel.
        interpolation: How images are resized: nearest, bilinear, bicubic or lanczos.
    """

    mean: RGB
    std: RGB
    interpolation: str = "bilinear"


def read_preprocessing(encoder: nn.Module) -> Preprocessing:
    """What the encoder's checkpoint says of its images, or what `set_preprocessing` has set in its place.

    Example:
        >>> import timm
        >>> read_preprocessing(timm.create_model("vit_base_patch16_clip_224.openai", depth=1)).interpolation
        'bicubic'

    timm says it in ``pretrained_cfg``, transformers in ``preprocessor_config.json`` beside the weights, open_clip and
    torchvision with the weights. Where a model carries no such word (built from a configuration, or its weights loaded
    by hand), the usual values of its kind are taken and a warning says so.
    """
    from spatialboost.encoders.libraries import find_reader

    known: Preprocessing | None = getattr(encoder, RECORD, None)
    if known is not None:
        return known
    library, inner = find_reader(encoder)
    told: Preprocessing | None = getattr(inner, RECORD, None)
    if told is None and isinstance(config := getattr(encoder, "preprocess_cfg", None), dict):
        told = from_config(config)  # open_clip's word on a model of timm, which may have been trained otherwise there
    told = told or library.preprocessing(inner)
    if told is not None:
        return told
    usual = library.usual_preprocessing(inner)
    _warn_once(encoder, usual)
    return usual


def set_preprocessing(
    encoder: nn.Module, *, mean: RGB | None = None, std: RGB | None = None, interpolation: str | None = None
) -> None:
    """Set what the checkpoint does not say, or says wrongly; what is None stays as it is.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(embed_dim=48, depth=1, num_heads=2)
        >>> set_preprocessing(encoder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> read_preprocessing(encoder).mean
        (0.5, 0.5, 0.5)

    It is kept on the encoder, also through copying, pickling, `boost` and `unboost`.
    """
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise unknown("interpolation", interpolation, INTERPOLATIONS)
    if std is not None and min(std) <= 0:
        raise SpatialBoostError(f"std is {std}; expected three numbers above zero")
    if mean is not None and std is not None:
        from spatialboost.encoders.libraries import find_reader

        library, inner = find_reader(encoder)
        known = getattr(encoder, RECORD, None) or library.preprocessing(inner)
        base = known or library.usual_preprocessing(inner)  # only its interpolation is used: nothing to warn of
    else:
        base = read_preprocessing(encoder)
    given = {"mean": mean, "std": std, "interpolation": interpolation}
    setattr(encoder, RECORD, replace(base, **{key: value for key, value in given.items() if value is not None}))


def from_config(config: dict[str, Any]) -> Preprocessing | None:
    """From a dictionary with ``mean``, ``std`` and ``interpolation``, as timm and open_clip keep it."""
    if config.get("mean") is None or config.get("std") is None:
        return None
    interpolation = str(config.get("interpolation") or "bilinear")
    # timm and open_clip draw one at random for some trainings; bicubic is among them
    interpolation = interpolation if interpolation in INTERPOLATIONS else "bicubic"
    return Preprocessing(as_rgb(config["mean"]), as_rgb(config["std"]), interpolation)


def as_rgb(values: Any) -> RGB:
    """One number for all channels, or three."""
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
        "%s does not say how its images are normalised; taken are mean %s, std %s, %s. Give `mean`, `std` and "
        "`interpolation` (of open_encoder, or in the `encoder:` section), or call "
        "spatialboost.encoders.set_preprocessing, if it was trained with others",
        type(encoder).__name__,
        usual.mean,
        usual.std,
        usual.interpolation,
    )
