"""Every model of `timm.list_models()`, with random weights, cut short where it is large."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any

import timm
import torch
from torch import nn

from spatialboost.experiments.coverage import Built

# What architectures call their numbers of blocks, and their widths.
DEPTHS = re.compile(r"depths?$|^(num_)?(layers|blocks|stages)$")
WIDTHS = {"embed_dim", "embed_dims", "dims", "num_heads", "num_kv_heads", "heads", "channels", "widths"}
FED = "images fed"  # their size, where a model takes any
SIZES = (224, 256, 192, 288, 384)


def names() -> list[str]:
    return timm.list_models()


def build_on_meta(name: str) -> Built:
    """The whole model without weights, to ask what it computes."""
    with torch.device("meta"):
        return _built(timm.create_model(name).eval(), "meta", {})


def build(name: str, whole: Any) -> Built:
    """The model with weights: with few blocks, narrow, on small images, and every class of layer that it has."""
    with torch.device("meta"), _building(type(whole), {}) as given:
        timm.create_model(name)
    options = _smaller(name, whole, given)
    with _building(type(whole), options):
        model = timm.create_model(name)
    return _built(model, "cpu", options)


@contextmanager
def _building(cls: Any, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Within it `cls` is built with these arguments, or with a `cfg` that has them, whatever its entry point says.

    Gives what the entry point said.
    """
    original = cls.__init__
    given: dict[str, Any] = {}

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(original).bind(self, *args, **kwargs)
        bound.apply_defaults()
        own = bound.arguments | bound.arguments.get("kwargs", {})
        given.update(own)
        if is_dataclass(cfg := own.get("cfg")):
            given.update(vars(cfg))
            bound.arguments["cfg"] = replace(cfg, **{k: v for k, v in options.items() if hasattr(cfg, k)})
        for key, value in options.items():
            if key == FED:
                continue
            if key in bound.arguments:
                bound.arguments[key] = value
            elif not hasattr(cfg, key):
                bound.arguments.setdefault("kwargs", {})[key] = value
        original(*bound.args, **bound.kwargs)

    cls.__init__ = build
    try:
        yield given
    finally:
        cls.__init__ = original


def _smaller(name: str, whole: Any, given: dict[str, Any]) -> dict[str, Any]:
    """What makes this architecture smaller and keeps every class of layer: first depth, then width, then images."""
    depths = {k: v for k, v in given.items() if DEPTHS.search(k) and v}
    per_block = {k: v for k, v in given.items() if isinstance(v, list | tuple) and len(v) == given.get("depth")}
    widths = {k: v for k, v in given.items() if k in WIDTHS and isinstance(v, int | list | tuple) and v}
    image = "img_size" if "img_size" in given else FED
    large = _input_size(whole)[-1] > 256
    ways: list[list[dict[str, Any]]] = [
        [
            {k: _cut(v, count) for k, v in depths.items()} | {k: v[: 2 * count] for k, v in per_block.items()}
            for count in (1, 2)
        ],
        [{k: _divided(v, n) for k, v in widths.items() if _divisible(v, n)} for n in (8, 6, 4, 3, 2)],
        [{image: size} for size in SIZES if large],
    ]
    options: dict[str, Any] = {}
    for way in ways:
        options |= next((o for o in way if o and _keeps(name, whole, options | o)), {})
    return options


def _cut(value: Any, count: int) -> Any:
    """At most so many blocks in a stage; twice as many where all are in one."""
    if isinstance(value, list | tuple):
        return type(value)(min(v, count) if isinstance(v, int) else _cut(v, count) for v in value)
    return min(value, 2 * count) if isinstance(value, int) else value


def _divisible(value: Any, factor: int) -> bool:
    return all(_divisible(v, factor) for v in value) if isinstance(value, list | tuple) else value % factor == 0


def _divided(value: Any, factor: int) -> Any:
    return type(value)(_divided(v, factor) for v in value) if isinstance(value, list | tuple) else value // factor


def _keeps(name: str, whole: nn.Module, options: dict[str, Any]) -> bool:
    """Whether the smaller model runs and has every class of layer of the whole one."""
    try:
        with torch.device("meta"), torch.no_grad(), _building(type(whole), options):
            built = _built(timm.create_model(name).eval(), "meta", options)
            built.call(built.model)
    except Exception:  # whatever it is that this architecture cannot do
        return False
    return {type(m) for m in built.model.modules()} == {type(m) for m in whole.modules()}


def _input_size(model: Any) -> tuple[int, ...]:
    return tuple(model.pretrained_cfg["input_size"])


def _built(model: Any, device: str, options: dict[str, Any]) -> Built:
    size, img_size = _input_size(model), options.get("img_size", options.get(FED))
    if (own := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        size = (size[0], *own) if isinstance(own, tuple) else (size[0], own, own)
    elif img_size is not None:
        size = (size[0], img_size, img_size)
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(1)).to(device)
    return Built(model, lambda m: m(x), ", ".join(f"{k}={v}" for k, v in options.items()))
