"""The specification of an encoder: the `encoder:` section of a run's YAML file, or a string such as `timm:NAME`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from spatialboost.encoders.run_file import resolve_path, user_path
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.yaml_file import check_size

RGB = tuple[float, float, float]
# fields of `EncoderConfig` whose type is checked: name, types, and how an error message says them
TYPES: tuple[tuple[str, Any, str], ...] = (
    ("name", str, "the name of a model"),
    ("library", str, "the name of a library"),
    ("kwargs", dict, "arguments, each with its name"),
    ("weights", Path | None, "the path of a safetensors file"),
    ("pretrained", bool | None, "true or false"),
    ("interpolation", str | None, "a name"),
)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder to open, and how.

    Example:
        >>> EncoderConfig.of("timm:vit_tiny_patch16_224").name
        'vit_tiny_patch16_224'

    Attributes:
        library: Its library: ``timm``, ``transformers`` (or ``hf``), ``open_clip``, ``torchvision``, ``hub``.
        name: A timm model, a Hub id or folder for transformers, ``MODEL[/PRETRAINED]`` of open_clip, a torchvision
            model, or ``FOLDER:ENTRY`` of a local torch.hub folder. ``VisionTransformer`` is timm's class itself, built
            from `kwargs`.
        kwargs: Arguments for timm's ``create_model``, transformers' ``from_pretrained``, and so on.
        weights: A safetensors file to load strictly, in place of the library's weights.
        pretrained: True loads the library's own weights, false uses random weights of a fixed seed. None loads them
            for transformers, and for open_clip if the name says which.
        mean: Mean of each colour channel for pixels in [0, 1], in place of the checkpoint's.
        std: Standard deviation of each colour channel for pixels in [0, 1], in place of the checkpoint's.
        interpolation: How images are resized (nearest, bilinear, bicubic, lanczos), in place of the checkpoint's.
    """

    # only pydantic reads this, when it validates a run's YAML file
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    name: str
    library: str = "timm"
    kwargs: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    pretrained: bool | None = None
    mean: RGB | None = None
    std: RGB | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        from spatialboost.encoders.libraries import find_library

        for key, kind, expected in TYPES:
            if not isinstance(value := getattr(self, key), kind):
                raise SpatialBoostError(f"encoder.{key} is {str(value)[:80]!r}; expected {expected}")
        if odd := [key for key in self.kwargs if not isinstance(key, str)]:
            raise SpatialBoostError(f"encoder.kwargs has the key {str(odd[0])[:80]!r}; expected names of arguments")
        for key in ("mean", "std"):
            value = getattr(self, key)
            if value is not None and not all(math.isfinite(each) for each in value):
                raise SpatialBoostError(f"encoder.{key} is {value}; expected three finite numbers")
        if self.std is not None and min(self.std) <= 0:
            raise SpatialBoostError(f"encoder.std is {self.std}; expected three numbers above zero")
        find_library(self.library)
        check_size(self.kwargs, "encoder.kwargs")
        if self.weights is not None:
            object.__setattr__(self, "weights", user_path(self.weights))
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, INTERPOLATIONS)

    @classmethod
    def of(cls, section: Mapping[str, Any] | str) -> EncoderConfig:
        """Read the `encoder:` section of a YAML file, or `LIBRARY:NAME`, which means pretrained weights.

        Raises:
            SpatialBoostError: A key is unknown, missing or wrong; the message names the first such key.
        """
        if isinstance(section, str):
            library, colon, name = section.partition(":")
            if not colon or not name:
                raise SpatialBoostError(
                    f"encoder is {section!r}; expected LIBRARY:NAME, such as timm:vit_small_patch14"
                )
            return cls(name=name, library=library, pretrained=True)
        known = [each.name for each in fields(cls)]
        for key in section:
            if key not in known:
                raise unknown("key of the encoder", key, known)
        if "name" not in section:
            raise SpatialBoostError(f"the encoder has no name, only {sorted(section)}; expected `name:` of a model")
        values = dict(section)
        if isinstance(values.get("weights"), str | os.PathLike):
            values["weights"] = Path(values["weights"])
        for key in ("mean", "std"):
            values[key] = _rgb(key, values.get(key))
        if values.get("kwargs") is None:
            values["kwargs"] = {}
        return cls(**values)


def _rgb(key: str, value: Any) -> RGB | None:
    if value is None:
        return None
    try:
        red, green, blue = (float(each) for each in value)
    except (TypeError, ValueError):
        raise SpatialBoostError(f"encoder.{key} is {value!r}; expected three numbers, one for each channel") from None
    return red, green, blue


def resolve_paths(config: EncoderConfig, folder: Path) -> EncoderConfig:
    """The configuration with its relative paths joined to `folder`, the folder of its YAML file."""
    own: dict[str, Any] = {}
    if config.weights is not None:
        own["weights"] = resolve_path(config.weights, folder)
    here, colon, entry = config.name.rpartition(":") if config.library == "hub" else (config.name, "", "")
    if config.library != "timm" and here and resolve_path(here, folder).is_dir():
        own["name"] = f"{resolve_path(here, folder)}{colon}{entry}"
    return replace(config, **own)
