"""Which encoder a delta belongs to: named from a model, and built again from that name."""

from __future__ import annotations

import os
from typing import Any

from torch import nn

from .errors import SpatialBoostError


def describe_base(model: nn.Module, *, name: str | None = None, license: str | None = None) -> dict[str, str | None]:
    """Library, name, class, revision and licence of a model, as far as it tells them itself."""
    config, cfg = getattr(model, "config", None), getattr(model, "pretrained_cfg", None)
    found: dict[str, str | None] = {"class": type(model).__name__, "revision": None, "license": license}
    if hasattr(config, "model_type"):
        own = getattr(config, "_name_or_path", None) or None
        # a path on this machine tells nobody anything
        own = os.path.basename(os.path.normpath(own)) if own and os.path.isabs(own) else own
        return (
            {"library": "transformers", "name": name or own}
            | found
            | {"revision": getattr(config, "_commit_hash", None)}
        )
    if isinstance(cfg, dict) and cfg.get("architecture"):
        own = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
        return {"library": "timm", "name": name or own} | found | {"license": license or cfg.get("license")}
    return {"library": type(model).__module__.partition(".")[0], "name": name or type(model).__name__} | found


def patch_size_of(model: nn.Module) -> int | None:
    """Side of a patch in pixels: of the first convolution that strides by its own size, else as the config says."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.stride[0] > 1:
            return int(module.stride[0])
    size = getattr(getattr(model, "config", None), "patch_size", None)
    return size if isinstance(size, int) else None


def build_base(base: dict[str, Any], *, pretrained: bool, model_kwargs: dict[str, Any]) -> nn.Module:
    """The base model by its recorded name, through timm or transformers; code from a repository is never run."""
    library, name = base.get("library"), base.get("name")
    if library == "timm" and isinstance(name, str):
        import timm

        if not timm.is_model(name):
            raise SpatialBoostError(
                f"timm {timm.__version__} has no model {name!r}. Build the base yourself and use load_pretrained."
            )
        return timm.create_model(name, pretrained=pretrained, **({"num_classes": 0} | model_kwargs))
    if library == "transformers" and isinstance(name, str):
        import transformers

        cls: Any = getattr(transformers, str(base.get("class")), None)
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
            raise SpatialBoostError(
                f"transformers {transformers.__version__} has no model class {base.get('class')!r}."
            )
        options: dict[str, Any] = {
            "revision": base.get("revision"),
            "use_safetensors": True,
            "trust_remote_code": False,
        }
        options |= model_kwargs
        if pretrained:
            return cls.from_pretrained(name, **{k: v for k, v in options.items() if v is not None})
        return cls(transformers.AutoConfig.from_pretrained(name), **model_kwargs)
    raise SpatialBoostError(
        f"the base is {name!r} of {library!r}, which cannot be built by name: only timm and transformers can. Build "
        "it yourself and call "
        "load_pretrained(model, ...)."
    )
