"""Open an encoder from its specification: the name of a library's model, a training run, a delta, or a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spatialboost.encoders.build import build_encoder, fit_image_size
from spatialboost.encoders.grid import check_grid
from spatialboost.encoders.learnt import FOLDERS, load_learnt
from spatialboost.encoders.libraries import ALIASES, LIBRARIES
from spatialboost.encoders.preprocessing import set_preprocessing
from spatialboost.encoders.run_file import user_path
from spatialboost.encoders.spec import RGB, EncoderConfig, resolve_paths
from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.yaml_file import read_yaml

Spec = str | os.PathLike[str] | Mapping[str, Any] | EncoderConfig | nn.Module
YAML = (".yaml", ".yml")


def open_encoder(
    spec: Spec,
    *,
    pretrained: bool = True,
    delta: str | os.PathLike[str] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
    image_size: tuple[int, int] | int | None = None,
    dtype: torch.dtype | None = torch.float32,
    seed: int | None = 0,
    mean: RGB | None = None,
    std: RGB | None = None,
    interpolation: str | None = None,
) -> nn.Module:
    """The encoder that a specification names, in evaluation mode.

    Example:
        >>> encoder = open_encoder("timm:vit_tiny_patch16_224", pretrained=False, kwargs={"depth": 2})
        >>> len(encoder.blocks), encoder.training
        (2, False)

    For a model that also reads text, this is the image tower. Code from the Hub is never run. The code of a local
    torch.hub folder is run, so use only a folder that you trust. `docs/encoders.md` lists where each library gets its
    weights.

    Args:
        spec: One of

            - ``timm:NAME``, ``hf:ID_OR_FOLDER`` (transformers), ``open_clip:MODEL[/PRETRAINED]``, ``torchvision:NAME``,
              ``hub:FOLDER:ENTRY`` (a folder of torch.hub on this machine);
            - the YAML file of a training run: its encoder with the delta that the run has written. Relative paths in
              it start at the file's folder, or at the working directory if only that path exists;
            - a delta (a folder or a Hub id): its base encoder with the delta loaded;
            - the ``encoder:`` section of such a YAML file, as a dictionary or an `EncoderConfig`;
            - a model: the same object is returned.
        pretrained: False uses random weights from `seed` and not the library's pretrained ones.
        delta: A delta (boosted weights) to load into the encoder.
        kwargs: More arguments for the library's own builder; they replace equal keys of the specification.
        weights: A safetensors file to load strictly, in place of the library's weights.
        image_size: Height and width in pixels; the position embeddings of a timm model are resampled for this size.
        dtype: Dtype of the weights; None keeps the dtype in which the library loads them.
        seed: Seed of random weights; the state of torch's global generator is not changed. None draws the weights from
            that generator.
        mean: Mean of each colour channel for pixels in [0, 1], in place of the checkpoint's.
        std: Standard deviation of each colour channel for pixels in [0, 1], in place of the checkpoint's.
        interpolation: nearest, bilinear, bicubic or lanczos, in place of the checkpoint's.

    Raises:
        SpatialBoostError: There is no such encoder, its weights cannot be loaded, the run has no delta yet, or the
            tokens cannot be placed on a grid.
    """
    checked_size = image_size
    if isinstance(spec, nn.Module):
        encoder = spec
    else:
        parsed = _parse(spec, delta)
        if isinstance(parsed, str):
            encoder = _open_delta(
                parsed, pretrained=pretrained, kwargs=dict(kwargs or {}), weights=weights, dtype=dtype
            )
        else:
            config, delta, seed_of_run = parsed
            own: dict[str, Any] = {"kwargs": {**config.kwargs, **(kwargs or {})}}
            own |= {"weights": Path(weights)} if weights is not None else {}
            own |= {} if pretrained else {"pretrained": False}
            config = replace(config, **own)
            checked_size = image_size or config.kwargs.get("img_size")
            encoder = build_encoder(config, dtype=dtype, seed=seed if seed_of_run is None else seed_of_run)
    if image_size is not None:
        fit_image_size(encoder, image_size)
    if not (mean is std is interpolation is None):
        set_preprocessing(encoder, mean=mean, std=std, interpolation=interpolation)
    if delta is not None:
        load_learnt(encoder, delta)
    check_grid(encoder, checked_size)
    return encoder if isinstance(spec, nn.Module) else encoder.eval()


def _parse(spec: Any, delta: Any) -> tuple[EncoderConfig, Any, int | None] | str:
    """The configuration, the delta to load and the run's seed; or the name of a delta, if `spec` is one."""
    if isinstance(spec, EncoderConfig):
        return spec, delta, None
    if isinstance(spec, Mapping):
        return EncoderConfig.of(spec), delta, None
    if not isinstance(spec, (str, os.PathLike)):
        raise SpatialBoostError(
            f"encoder is {type(spec).__name__}; expected a name such as timm:NAME, a dictionary with `name`, or a model"
        )
    text = os.fspath(spec)
    prefix, colon, name = text.partition(":")
    if colon and name and prefix in (*LIBRARIES, *ALIASES):
        return EncoderConfig.of(text), delta, None
    if text.lower().endswith(YAML):
        return _read_run(Path(text), delta)
    if not text or (colon and not name and prefix in (*LIBRARIES, *ALIASES)):
        raise SpatialBoostError(f"encoder is {text!r}, without a name; expected one such as {prefix or 'timm'}:NAME")
    if colon and not Path(text).exists():
        raise unknown("encoder prefix", prefix, [*LIBRARIES, *ALIASES])
    return text


def _read_run(file: Path, delta: Any) -> tuple[EncoderConfig, Any, int | None]:
    """The encoder of a training run, the delta that the run has written, and the seed of random weights."""
    from spatialboost.teachers.registry import teacher_class

    run = read_yaml(file)
    section = run.get("encoder") if isinstance(run, Mapping) else None
    if not isinstance(section, (Mapping, str)):
        raise SpatialBoostError(f"{file} has no `encoder:` section; expected the YAML file of a training run")
    try:
        config = resolve_paths(EncoderConfig.of(section), file.parent)
    except SpatialBoostError as error:
        raise SpatialBoostError(f"{file}: {error}") from None
    seed = run.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SpatialBoostError(f"{file}: seed is {str(seed)[:80]!r}; expected a whole number")
    section = run.get("teacher", {})
    if not isinstance(section, Mapping):
        raise SpatialBoostError(f"{file}: teacher is {str(section)[:80]!r}; expected a section with `kind`")
    try:
        teacher = teacher_class(section.get("kind", "language"))
    except SpatialBoostError as error:
        raise SpatialBoostError(f"{file}: {error}") from None
    if delta is not None:
        return config, delta, seed
    found = _delta_of_run(file.parent / user_path(str(run.get("out"))))
    boosting = [name for name, stage in teacher.stages.items() if stage.boosts]
    if found is None and not any(name in run and run[name] is None for name in boosting):
        raise SpatialBoostError(
            f"{file}: this run has no delta yet, no stage in its folder has written one. Train it first, or give only "
            "the `encoder:` section to open the encoder without a delta"
        )
    return config, found, seed


def _delta_of_run(out: Path) -> Path | None:
    """The folder of what a stage of this run has learnt last (a delta, a LoRA or all weights), or None."""
    stages = [stage for stage in out.iterdir() if stage.is_dir()] if out.is_dir() else []
    found = [stage / name for stage in stages for name in FOLDERS.values() if (stage / name).is_dir()]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def _open_delta(
    name: str, *, pretrained: bool, kwargs: dict[str, Any], weights: Any, dtype: torch.dtype | None
) -> nn.Module:
    """The base encoder of a delta, with the delta loaded."""
    from spatialboost.weights.pretrained import from_pretrained

    if weights is not None:
        raise SpatialBoostError(
            f"weights are {weights}, but {name!r} is a delta, which names its own base. Leave `weights` out"
        )
    if "/" not in name and not Path(name).is_dir():
        import timm

        hint = f". Did you mean 'timm:{name}'?" if timm.is_model(name) else ""
        raise SpatialBoostError(
            f"encoder is {name!r}; expected {', '.join(f'{prefix}:NAME' for prefix in LIBRARIES)}, a run's FILE.yaml, "
            f"or a delta (folder or user/name){hint}"
        )
    return from_pretrained(name, pretrained=pretrained, **({"dtype": dtype} | kwargs))
