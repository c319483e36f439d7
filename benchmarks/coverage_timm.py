"""Every model of `timm.list_models()`, with random weights, cut short where it is large."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from itertools import product
from typing import Any

import timm
import torch
from coverage_check import Built
from torch import nn

LARGE = 6e6  # parameters
DEPTHS = {"depths", "layers", "num_layers", "stages"}  # what architectures call their blocks a stage
SIZES = (224, 256, 192, 288, 384)


def names() -> list[str]:
    return timm.list_models()


def build_on_meta(name: str) -> Built:
    """The whole model without weights, to ask what it computes."""
    with torch.device("meta"):
        return _built(timm.create_model(name).eval(), "meta", {})


def build(name: str) -> Built:
    """The model with weights: whole, or with few blocks and small images and still every class of layer that it has."""
    with torch.device("meta"):
        whole = timm.create_model(name)
    options = _smaller(name, whole)
    with _overriding(type(whole), options):
        model = timm.create_model(name)
    return _built(model, "cpu", options)


@contextmanager
def _overriding(cls: Any, options: dict[str, Any]) -> Iterator[None]:
    """Within it `cls` is built with these arguments, or with a `cfg` that has them, whatever its entry point says."""
    original = cls.__init__

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        for key, value in options.items():
            for where in (args[0] if args else None, kwargs.get("cfg")):
                if is_dataclass(where) and hasattr(where, key):
                    args = (replace(where, **{key: value}), *args[1:]) if args else ()
                    kwargs |= {} if args else {"cfg": replace(where, **{key: value})}
                    break
            else:
                kwargs[key] = value
        original(self, *args, **kwargs)

    cls.__init__ = build
    try:
        yield
    finally:
        cls.__init__ = original


def _smaller(name: str, whole: Any) -> dict[str, Any]:
    """The first smaller way to build this architecture that keeps every class of layer."""
    accepted = _arguments(type(whole)) | (DEPTHS if "cfg" in _arguments(type(whole)) else set())
    depths: list[dict[str, Any]] = [{}]
    if sum(p.numel() for p in whole.parameters()) > LARGE:
        depths = [{key: value} for key, value in _depths() if key in accepted] + depths
    widths: list[dict[str, Any]] = [{}]
    width, heads = getattr(whole, "embed_dim", None), _heads(whole)
    if isinstance(width, int) and heads and heads > 4 and {"embed_dim", "num_heads"} <= accepted:
        widths = [{"embed_dim": 4 * (width // heads), "num_heads": 4}, *widths]
    sizes: list[dict[str, Any]] = [{}]
    if _input_size(whole)[-1] > 256 and "img_size" in accepted:
        sizes = [{"img_size": size} for size in SIZES] + sizes
    for depth, width_, size in product(depths, widths, sizes):
        if (options := depth | width_ | size) and _keeps(name, whole, options):
            return options
    return {}


def _heads(model: nn.Module) -> int | None:
    found = {m.num_heads for m in model.modules() if isinstance(getattr(m, "num_heads", None), int)}
    return found.pop() if len(found) == 1 else None


def _depths() -> Iterator[tuple[str, Any]]:
    for count in (1, 2):
        yield "depth", 2 * count
        for key in sorted(DEPTHS):
            for stages in (4, 3, 5):
                yield key, (count,) * stages


def _arguments(cls: type) -> set[str]:
    return {name for base in cls.__mro__ if base is not nn.Module for name in inspect.signature(base).parameters}


def _keeps(name: str, whole: nn.Module, options: dict[str, Any]) -> bool:
    """Whether the smaller model runs and has every class of layer of the whole one."""
    try:
        with torch.device("meta"), torch.no_grad(), _overriding(type(whole), options):
            built = _built(timm.create_model(name).eval(), "meta", options)
            built.call(built.model)
    except Exception:  # whatever it is that this architecture cannot do
        return False
    return {type(m) for m in built.model.modules()} == {type(m) for m in whole.modules()}


def _input_size(model: Any) -> tuple[int, ...]:
    return tuple(model.pretrained_cfg["input_size"])


def _built(model: Any, device: str, options: dict[str, Any]) -> Built:
    size, img_size = _input_size(model), options.get("img_size")
    if (own := getattr(getattr(model, "patch_embed", None), "img_size", None)) is not None:
        size = (size[0], *own) if isinstance(own, tuple) else (size[0], own, own)
    elif img_size is not None:
        size = (size[0], img_size, img_size)
    x = torch.randn(1, *size, generator=torch.Generator().manual_seed(1)).to(device)
    return Built(model, lambda m: m(x), ", ".join(f"{k}={v}" for k, v in options.items()))
