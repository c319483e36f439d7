"""Tokens of a frozen encoder over many images, computed once and kept in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spatialboost.encoders import Tokens, feature_layer, num_layers, prepare_images, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.probes.options import QUARTERS, Layer
from spatialboost.probes.token_store import TokenStore

# Shape legend: V views, B views of one batch, N patches, D width of the tokens.


@dataclass(frozen=True)
class Features:
    """Tokens of all views of one split, on the CPU in float32.

    Attributes:
        tokens: patch tokens ``(N, D)`` of each view, row by row from the top left: a `TokenStore`, or one tensor
            ``(V, N, D)``. The tokens of several layers are joined along D.
        cls_VD: class tokens, or None if the encoder has none.
        grid: rows and columns of patches.
        image_size: height and width in pixels to which the views were resized.
        layer: block after which the tokens were read, from 0; several blocks in the order in which they are joined.
        norm: the norm that was applied to them.
        device: device of the encoder, on which heads are trained.
    """

    tokens: Sequence[Tensor] | Tensor
    cls_VD: Tensor | None
    grid: tuple[int, int]
    image_size: tuple[int, int]
    layer: int | tuple[int, ...]
    norm: str
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens_VND(self) -> Tensor:  # noqa: N802  # shape suffix
        """The patch tokens of all views in one tensor; ``tokens[index]`` reads those of one view only."""
        if isinstance(self.tokens, TokenStore):
            return self.tokens.stacked()
        return self.tokens if isinstance(self.tokens, Tensor) else torch.stack(list(self.tokens))

    def chosen_token(self, token: str = "auto") -> str:
        """Which tokens stand for a whole image: ``class``, ``mean`` (of the patches), ``both``, or ``auto``.

        Returns:
            What is taken, in words. ``auto`` is the class token if there is one.

        Raises:
            SpatialBoostError: the encoder has no class token.
        """
        if self.cls_VD is None and token in ("class", "both"):
            raise SpatialBoostError(f"token is {token!r}, but the encoder has no class token; take mean or auto")
        if token == "both":
            return "class token and mean patch token"
        return "class token" if self.cls_VD is not None and token != "mean" else "mean patch token"

    def vectors(self, token: str = "auto") -> Tensor:
        """One vector ``(V, D)`` for each image, of the tokens that `chosen_token` says."""
        chosen = self.chosen_token(token)
        parts = [self.cls_VD] if "class" in chosen and self.cls_VD is not None else []
        return torch.cat([*parts, *([self.tokens_VND.mean(1).float()] if "mean" in chosen else [])], -1)

    def about(self) -> dict[str, Any]:
        """The settings that are needed to read the same features again."""
        return {
            "layer": self.layer if isinstance(self.layer, int) else list(self.layer),
            "norm": self.norm,
            "resolution": list(self.image_size),
            "grid": list(self.grid),
            "width": self.tokens[0].shape[-1],
        }


def read_features(
    encoder: nn.Module,
    images: Iterable[Any],
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
    batch_size: int = 16,
    patches: bool = True,
    progress: str | None = None,
) -> Features:
    """Run a frozen encoder over images in eval mode, on its own device and in its own dtype.

    Example:
        >>> import numpy as np
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> images = [np.zeros((60, 80, 3), np.uint8)] * 3
        >>> features = read_features(encoder, images, image_size=32)
        >>> features.tokens_VND.shape, features.layer
        (torch.Size([3, 4, 48]), 1)
        >>> read_features(encoder, images, image_size=32, layer=(0, 1)).tokens[2].shape
        torch.Size([4, 96])

    Args:
        encoder: a vision encoder that `spatialboost.encoders` can read.
        images: uint8 arrays ``(H, W, 3)``, PIL images, or views and labelled images, which contain one. The whole
            image is resized to ``image_size``, never cropped.
        image_size: (height, width) in pixels or one number for both; multiples of the patch size.
        layer: block after which tokens are read; negative counts from the end. The tokens of several layers are joined
            along their width. ``"quarters"`` is the last block of each quarter of the encoder.
        batch_size: images that go through the encoder at a time.
        patches: False keeps the mean patch token only (N = 1), for probes of whole images.
        progress: title of the progress bar; None shows no bar.

    Raises:
        SpatialBoostError: the encoder cannot be read, the size does not fit, or there is no image.
    """
    collected = FeatureCollector(encoder, image_size, layer, patches=patches)
    reading: dict[str, Any] = {"image_size": image_size, "layer": layer, "batch_size": batch_size}
    total = len(images) if isinstance(images, Sequence) else None  # a stream has no length
    for _, tokens in read_batches(encoder, images, **reading, progress=progress, total=total):
        collected.add(tokens)
    return collected.features()


class FeatureCollector:
    """Collects the tokens of several batches into `Features`.

    Args:
        encoder: the encoder that gives the tokens.
        image_size: as in `read_features`.
        layer: as in `read_features`.
        patches: as in `read_features`.
    """

    def __init__(self, encoder: nn.Module, image_size: int | tuple[int, int], layer: Layer, *, patches: bool) -> None:
        self._layers = _layers(encoder, layer)
        self._device = next(encoder.parameters()).device
        self._norm = _norm(encoder, self._layers)
        self.image_size = _height_and_width(image_size)
        self._patches = patches
        self._store = TokenStore()
        self._classes = TokenStore()
        self._grid = (0, 0)

    def add(self, tokens: Tokens) -> None:
        """Add the tokens of one batch."""
        if not bool(tokens.patches.isfinite().all()) or (
            tokens.cls is not None and not bool(tokens.cls.isfinite().all())
        ):
            raise SpatialBoostError(
                "the encoder gives features that are not finite: check its weights, its delta, and its mean and std"
            )
        self._store.append(tokens.patches if self._patches else tokens.patches.mean(dim=1, keepdim=True))
        if tokens.cls is not None:
            self._classes.append(tokens.cls[:, None].clone())  # a copy, or all tokens of the batch stay in memory
        self._grid = tokens.grid

    def features(self) -> Features:
        """The features of all batches that were added.

        Raises:
            SpatialBoostError: nothing was added.
        """
        if not len(self._store):
            raise SpatialBoostError("no images were given; expected at least one")
        layer = self._layers[0] if len(self._layers) == 1 else self._layers
        cls_VD = self._classes.stacked()[:, 0] if len(self._classes) else None
        return Features(self._store, cls_VD, self._grid, self.image_size, layer, self._norm, self._device)


@torch.no_grad()
def read_batches(
    encoder: nn.Module,
    images: Iterable[Any],
    *,
    image_size: int | tuple[int, int] = 224,
    layer: Layer = -1,
    batch_size: int = 16,
    progress: str | None = None,
    total: int | None = None,
    see: Callable[[Any], Any] | None = None,
) -> Iterator[tuple[list[Any], Tokens]]:
    """Run a frozen encoder over images, and yield each batch with its tokens; nothing is kept.

    The arguments are those of `read_features`, and ``total``, the number of images for the progress bar, and ``see``,
    which gives the part of an item's image that the encoder sees; without it, the whole image.
    """
    see = see or (lambda item: getattr(item, "image_HW3", item))
    layers = _layers(encoder, layer)
    size = _height_and_width(image_size)
    weight = next(encoder.parameters())
    was_training = encoder.training
    encoder.eval()
    try:
        with tqdm(total=total, desc=progress, disable=progress is None, leave=False, unit="view") as bar:
            for batch in _batches(iter(images), batch_size):
                pixels = [see(item) for item in batch]
                pixel_values = prepare_images(encoder, pixels, size).to(weight.device, weight.dtype)
                yield batch, _read_layers(encoder, pixel_values, layers)
                bar.update(len(batch))
    finally:
        encoder.train(was_training)


def read_patches(encoder: nn.Module, images: Sequence[Any], **reading: Any) -> Tensor:
    """Patch tokens ``(B, N, D)`` of images, read now, float32 on the encoder's device; arguments of `read_features`."""
    return torch.cat([tokens.patches.float() for _, tokens in read_batches(encoder, images, **reading)])


def each_encoder(
    encoders: nn.Module | Mapping[str, Any], reserved: str
) -> list[tuple[str, Any, Callable[[], AbstractContextManager[Any]]]]:
    """Name, model, and the context manager in which to measure it, for each encoder.

    One boosted model is measured twice: as its base, within `spatialboost.disabled`, and as it is.
    """
    if isinstance(encoders, nn.Module):
        from spatialboost.boosting import disabled

        return [("base", encoders, lambda: disabled(encoders)), ("boosted", encoders, nullcontext)]
    if not encoders or reserved in encoders:
        raise SpatialBoostError(
            f"encoders are named {list(encoders)}; give at least one encoder, none with the name {reserved!r}"
        )
    return [(name, model, nullcontext) for name, model in encoders.items()]


def _read_layers(encoder: nn.Module, pixel_values: Tensor, layers: Sequence[int]) -> Tokens:
    """The tokens of one or several layers, joined along their width."""
    read = read_tokens(encoder, pixel_values, layer=list(layers))
    if len(read) == 1:
        return read[0]
    classes = [tokens.cls for tokens in read if tokens.cls is not None]
    patches = torch.cat([tokens.patches for tokens in read], dim=-1)
    return Tokens(patches, read[0].grid, torch.cat(classes, dim=-1) if len(classes) == len(read) else None)


def _layers(encoder: nn.Module, layer: Layer) -> tuple[int, ...]:
    if layer == QUARTERS:
        depth = num_layers(encoder)
        return tuple(dict.fromkeys(max(0, round(depth * quarter / 4) - 1) for quarter in (1, 2, 3, 4)))
    if isinstance(layer, str):
        raise SpatialBoostError(f"layer is {layer!r}; expected the number of one block or of several, or {QUARTERS!r}")
    layers = (layer,) if isinstance(layer, int) else tuple(layer)
    if not layers:
        raise SpatialBoostError("no layer was given; expected the number of one block or of several, -1 for the last")
    return tuple(feature_layer(encoder, each) for each in layers)


def _norm(encoder: nn.Module, layers: Sequence[int]) -> str:
    last = num_layers(encoder) - 1
    if last not in layers:
        return "none"
    return "the encoder's final norm" + ("" if len(layers) == 1 else f" on layer {last}, none on the others")


def _height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
