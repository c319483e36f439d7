"""Tokens of a frozen encoder over many views, computed once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from spatialboost.encoders import feature_layer, num_layers, prepare_images, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.cues import BAD_ITEM, Cues
from spatialboost.scenes.sources import Source

logger = logging.getLogger(__name__)

# Shape legend: V views, N patches, D width of the encoder.


@dataclass(frozen=True)
class Features:
    """Tokens of all views of one split, on the CPU in float32.

    Attributes:
        tokens_VND: patch tokens, row by row from the top left.
        cls_VD: class tokens, or None where the encoder has none.
        grid: rows and columns of patches.
        image_size: height and width in pixels at which the views went in.
        layer: block after which the tokens were read, from 0.
        norm: which norm they passed.
    """

    tokens_VND: Tensor
    cls_VD: Tensor | None
    grid: tuple[int, int]
    image_size: tuple[int, int]
    layer: int
    norm: str

    def about(self) -> dict[str, Any]:
        """What somebody else needs to know to read the same features."""
        return {
            "layer": self.layer,
            "norm": self.norm,
            "resolution": list(self.image_size),
            "grid": list(self.grid),
            "width": self.tokens_VND.shape[-1],
        }


@torch.no_grad()
def read_features(
    encoder: nn.Module,
    images: Iterable[Any],
    *,
    image_size: int | tuple[int, int] = 224,
    layer: int = -1,
    batch_size: int = 16,
    patches: bool = True,
    progress: str | None = None,
) -> Features:
    """Run a frozen encoder over images (uint8 arrays or PIL) in eval mode, where it is and in its own dtype.

    Example:
        >>> import numpy as np
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> features = read_features(encoder, [np.zeros((60, 80, 3), np.uint8)] * 3, image_size=32)
        >>> features.tokens_VND.shape, features.layer
        (torch.Size([3, 4, 48]), 1)

    Args:
        encoder: a timm vision transformer or a transformers vision model.
        images: the whole image is squeezed to ``image_size``, never cropped.
        image_size: (height, width) in pixels or one number for both; multiples of the patch size.
        layer: block after which tokens are read; negative counts from the end.
        batch_size: images at a time.
        patches: False keeps the mean patch token only (N = 1), for probes of whole images.
        progress: shown beside a progress bar; None shows none.

    Raises:
        SpatialBoostError: the encoder cannot be read, the size does not fit, or there is no image.
    """
    index = feature_layer(encoder, layer)
    weight = next(encoder.parameters())
    size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    total = len(images) if isinstance(images, Sequence) else None  # a stream has no length
    tokens, classes, grid = [], [], (0, 0)
    was_training = encoder.training
    encoder.eval()
    try:
        with tqdm(total=total, desc=progress, disable=progress is None, leave=False, unit="view") as bar:
            for batch in _batches(iter(images), batch_size):
                pixel_values = prepare_images(encoder, batch, size).to(weight.device, weight.dtype)
                read = read_tokens(encoder, pixel_values, layer=layer)
                kept = read.patches if patches else read.patches.mean(dim=1, keepdim=True)
                tokens.append(kept.float().cpu())
                if read.cls is not None:
                    classes.append(read.cls.float().cpu())
                grid = read.grid
                bar.update(len(batch))
    finally:
        encoder.train(was_training)
    if not tokens:
        raise SpatialBoostError("no images were given; expected at least one")
    norm = "the encoder's final norm" if index == num_layers(encoder) - 1 else "none"
    return Features(torch.cat(tokens), torch.cat(classes) if classes else None, grid, size, index, norm)


def read_both(
    name: str,
    model: nn.Module | tuple[Features, Features],
    switched: Callable[[], AbstractContextManager[Any]],
    train: Sequence[Any],
    test: Sequence[Any],
    *,
    progress: bool,
    **reading: Any,
) -> tuple[Features, Features]:
    """Features of the images of both splits, of one entry of `each_encoder`; ready-made ones are checked and handed on.

    Raises:
        SpatialBoostError: ready-made features are of another number of images.
    """
    if isinstance(model, nn.Module):
        with switched():
            ours = [
                read_features(model, images, progress=f"{name}, {split}" if progress else None, **reading)
                for split, images in (("train", train), ("test", test))
            ]
        return ours[0], ours[1]
    found = [len(features.tokens_VND) for features in model]
    if found != [len(train), len(test)]:
        raise SpatialBoostError(
            f"the features of {name!r} are of {found[0]} and {found[1]} views, but {len(train)} and {len(test)} can be "
            "read: read the features of just those"
        )
    return model


def load_views(source: Source | Sequence[Cues]) -> tuple[list[Cues], list[str]]:
    """Read every view once, without its objects; the second list says what is wrong with those that cannot be read."""
    views, problems = [], []
    for index in range(len(source)):
        try:
            views.append(replace(source[index], objects=()))
        except BAD_ITEM as error:
            names = getattr(source, "names", None)
            problem = f"{index if names is None else names[index]}: {error or type(error).__name__}"
            problems.append(problem)
            logger.warning("left out %s", problem)
    return views, problems


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch


def each_encoder(
    encoders: nn.Module | Mapping[str, Any], reserved: str
) -> list[tuple[str, Any, Callable[[], AbstractContextManager[Any]]]]:
    """What is measured: name, model, and the context in which to measure it.

    One boosted model counts twice, as itself and, within `spatialboost.disabled`, as its base.
    """
    if isinstance(encoders, nn.Module):
        from spatialboost.boosting.boost import disabled

        return [("base", encoders, lambda: disabled(encoders)), ("boosted", encoders, nullcontext)]
    if not encoders or reserved in encoders:
        raise SpatialBoostError(f"encoders are named {list(encoders)}; give at least one, none called {reserved!r}")
    return [(name, model, nullcontext) for name, model in encoders.items()]
