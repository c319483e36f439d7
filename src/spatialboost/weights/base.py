"""The base encoder of a delta: find its name from a model, and build it again from that name."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from spatialboost.boosting.channel import boosted_layers
from spatialboost.boosting.refuse import WRAPPERS
from spatialboost.errors import SpatialBoostError
from spatialboost.weights.hub import HubOptions, translated

TIMM_SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


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


def describe_base(model: nn.Module, *, name: str | None = None, license: str | None = None) -> dict[str, str | None]:
    """Library, name, class, revision, licence and Hub id of a model, as far as its own attributes contain them."""
    model = encoder_inside(model)
    config, cfg = getattr(model, "config", None), getattr(model, "pretrained_cfg", None)
    found: dict[str, str | None] = {"class": type(model).__name__, "revision": None, "license": license}
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
        found |= {"library": "timm", "name": name or own, "license": license or cfg.get("license")}
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
    base: dict[str, Any], *, pretrained: bool, options: HubOptions, model_kwargs: dict[str, Any]
) -> nn.Module:
    """Build the base model by its recorded name, with timm or transformers. Code from a repository is never run.

    Weights are float32 unless `model_kwargs` have a `dtype`; random weights use seed 0.
    """
    library, name = base.get("library"), base.get("name")
    if library == "timm" and isinstance(name, str) and name != "VisionTransformer":  # only a class, no size
        return _build_timm(name, pretrained=pretrained, options=options, model_kwargs=model_kwargs)
    if library == "transformers" and isinstance(name, str):
        return _build_transformers(base, name, pretrained=pretrained, options=options, model_kwargs=model_kwargs)
    raise SpatialBoostError(
        f"the base is {name!r} of {library!r}, which cannot be built by name: only timm and transformers can. Build "
        "it yourself and call load_pretrained(model, ...)."
    )


def _build_timm(name: str, *, pretrained: bool, options: HubOptions, model_kwargs: dict[str, Any]) -> nn.Module:
    from spatialboost.encoders.build import build_encoder
    from spatialboost.encoders.spec import EncoderConfig

    cache = {} if options.cache_dir is None else {"cache_dir": options.cache_dir}
    dtype = model_kwargs.get("dtype", torch.float32)
    kwargs = cache | {key: value for key, value in model_kwargs.items() if key != "dtype"}
    return build_encoder(EncoderConfig(name, "timm", kwargs, pretrained=pretrained), dtype=dtype)


def _build_transformers(
    base: dict[str, Any], name: str, *, pretrained: bool, options: HubOptions, model_kwargs: dict[str, Any]
) -> nn.Module:
    import transformers

    from spatialboost.encoders.build import seeded
    from spatialboost.encoders.libraries.transformers import image_tower, processor_options, with_processor

    cls = _model_class(str(base.get("class")))
    asked: dict[str, Any] = {
        "revision": base.get("revision"),
        "token": options.token,
        "cache_dir": options.cache_dir,
        "local_files_only": options.local_files_only or None,
        "force_download": options.force_download or None,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    processor = asked | processor_options(name, asked)
    chosen = {"dtype": torch.float32} | model_kwargs
    with translated(f"transformers could not build the base {name!r}"), seeded(0):
        if pretrained:
            options_of_weights = {"use_safetensors": True, "trust_remote_code": False} | asked | chosen
            model = cls.from_pretrained(name, **options_of_weights)
        else:
            config = getattr(cls, "config_class", None) or transformers.AutoConfig
            dtype = chosen.pop("dtype")
            model = cls(config.from_pretrained(name, trust_remote_code=False, **asked), **chosen).to(dtype)
    tower = image_tower(model, name) if type(model).__name__ != base.get("class") else model
    return with_processor(tower, name, **processor)


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
