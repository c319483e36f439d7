"""The encoder that a specification of the command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spatialboost.errors import SpatialBoostError

if TYPE_CHECKING:
    from torch import nn


def open_encoder(
    spec: str, *, delta: str | None = None, weights: Path | None = None, random: bool = False, image_size: int = 224
) -> nn.Module:
    """The encoder that a specification names: `timm:NAME`, `hf:ID`, the YAML file of a training run, or a delta.

    Of a training run it is the boosted encoder, as soon as stage 3 has saved its delta.

    Raises:
        SpatialBoostError: there is no such encoder, or its weights cannot be had.
    """
    from spatialboost.weights.pretrained import from_pretrained, load_pretrained

    library, colon, name = spec.partition(":")
    if colon and library not in ("timm", "hf"):
        raise SpatialBoostError(f"encoder is {spec!r}; expected timm:NAME, hf:ID, a run's FILE.yaml, or a delta")
    if weights is not None and library != "timm":
        raise SpatialBoostError(f"--weights is for timm:NAME encoders, found {spec!r}")
    try:
        if not colon and spec.endswith((".yaml", ".yml")):
            from spatialboost.training.build import build_encoder
            from spatialboost.training.config import load_config

            run = load_config(spec)
            model, own = build_encoder(run.encoder), run.out / "stage3" / "delta"
            delta = str(own) if delta is None and own.is_dir() else delta
        elif not colon:
            model = from_pretrained(spec)
            _fit_image_size(model, image_size)
        elif library == "timm":
            model = _open_timm(name, weights, random, image_size)
        else:
            model = _open_transformers(name, random)
    except SpatialBoostError:
        raise
    except OSError as error:  # what timm and transformers raise where there is no file, no network or no such id
        raise SpatialBoostError(
            f"cannot get {spec!r}: {str(error).splitlines()[0]} Give a local file or folder, or take the encoder "
            "untrained (--random-weights)"
        ) from error
    return model.eval() if delta is None else load_pretrained(model, delta).eval()


def _open_timm(name: str, weights: Path | None, random: bool, image_size: int) -> nn.Module:
    import timm
    import torch

    if not timm.is_model(name):
        raise SpatialBoostError(f"timm {timm.__version__} has no model {name!r}; timm.list_models() names them")
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=weights is None and not random, num_classes=0)
    if weights is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            model.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise SpatialBoostError(f"{weights} does not hold weights of {name}: {error}") from error
    _fit_image_size(model, image_size)
    return model


def _fit_image_size(model: Any, image_size: int) -> None:
    """A timm model's position grid is made for one size; transformers models fit theirs in each call."""
    if hasattr(model, "set_input_size"):
        model.set_input_size(img_size=(image_size, image_size))


def _open_transformers(name: str, random: bool) -> nn.Module:
    import torch
    from transformers import AutoConfig, AutoModel

    if random:
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.from_pretrained(name), trust_remote_code=False)
    else:
        model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    return getattr(model, "vision_model", model)
