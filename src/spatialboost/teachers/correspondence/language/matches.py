"""How well the attention of a language model matches the visual tokens of the same point in two views, by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spatialboost.encoders import image_preparation
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.scene import Scene
from spatialboost.teachers.correspondence.config import CorrespondenceOptions
from spatialboost.teachers.correspondence.language.examples import sequence_tokens
from spatialboost.teachers.correspondence.measures import AttentionMatches, Tally, count_matches
from spatialboost.teachers.correspondence.sequences import Sequences
from spatialboost.vlm.blocks import block_numbers, kept_attention
from spatialboost.vlm.image_prompt import ImagePrompt
from spatialboost.vlm.model import SpatialVLM

# Shape legend: F views, N visual tokens of a view, H heads, C width of a head.


def language_matches(
    vlm: SpatialVLM,
    tokenizer: Any,
    scenes: Sequence[Scene] | Any,
    *,
    image_size: int | tuple[int, int] = 224,
    layers: Sequence[int] | None = None,
    radius: float = 2.0,
    rotary: bool = False,
    options: CorrespondenceOptions | None = None,
) -> AttentionMatches:
    """Measure how often the language model's own queries and keys match the same point of two views, layer by layer.

    Example:
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> from spatialboost.scenes.rooms.render import render_scenes
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> encoder = VisionTransformer(img_size=64, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=0)
        >>> llm, tokenizer = build_small_llm([], kind="llama", width=32, layers=3, heads=2)
        >>> vlm = SpatialVLM(encoder, llm)
        >>> found = language_matches(vlm, tokenizer, render_scenes([2], views=3, size=64), image_size=64)
        >>> found.layers, found.grid, found.points > 20
        ([0, 1, 2], (8, 8), True)

    It is `spatialboost.teachers.correspondence.attention_matches` for the layers of a language model. The views are the
    images of one question. A patch is a visual token: with pooling there are fewer. Nothing is fitted, and no head of
    the teacher is used. Attention is causal, so the compared pairs, a query of the first view and a key of a later
    one, are pairs that the model itself never compares; the paper measures them all the same.

    Args:
        vlm: The model.
        tokenizer: Its tokenizer.
        scenes: Scenes of several views with depth and poses, in the order of time.
        image_size: (height, width) to which the whole view is resized, or one number for both.
        layers: Numbers of blocks of the language model; None is all.
        radius: A match is right if it is at most this many visual tokens away.
        rotary: Compare queries and keys as the attention gets them, turned by their positions; False: before that.
        options: As for `attention_matches`.

    Raises:
        SpatialBoostError: No scene has a point that two views see, or the model's attention cannot be read.

    Source: GASP (arXiv 2605.30231): layer-wise PCK, confidence against accuracy, robustness over time.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    preparation = image_preparation(vlm.encoder)
    grid = (size[0] // preparation.patch, size[1] // preparation.patch)
    grid = grid if vlm.pool is None else vlm.pool.grid
    options = options or CorrespondenceOptions(frames=(2, 1000))
    sequences = Sequences(lambda row: preparation(row["images"], size), grid, options, whole=True)
    read = partial(read_attention, tokenizer=tokenizer, grid=grid, rotary=rotary)
    return count_matches(Tally(vlm, block_numbers(vlm.llm, layers), radius, read=read), sequences, scenes)


@torch.no_grad()
def read_attention(
    vlm: SpatialVLM,
    pixel_values: Tensor,
    layers: Sequence[int],
    *,
    tokenizer: Any,
    grid: tuple[int, int],
    rotary: bool,
) -> tuple[dict[int, tuple[Tensor, Tensor]], tuple[int, int]]:
    """Queries and keys of the visual tokens of some views: layer -> two tensors ``(F, N, H, C)``; and the grid.

    Args:
        vlm: The model.
        pixel_values: The views ``(F, 3, H, W)``.
        layers: Numbers of blocks of the language model.
        tokenizer: Its tokenizer.
        grid: Rows and columns of visual tokens.
        rotary: As the attention gets them.

    Raises:
        SpatialBoostError: The model's attention cannot be read.
    """
    views = len(pixel_values)
    tokens = sequence_tokens(tokenizer, vlm.prompt or ImagePrompt(grid), views)
    ids, mask = (tokens[name][None].to(pixel_values.device) for name in ("input_ids", "visual_mask"))
    embeds = vlm.embed(ids, mask, pixel_values=pixel_values)
    with kept_attention(vlm.llm, layers, rotary=rotary) as kept:
        vlm.llm.base_model(inputs_embeds=embeds, use_cache=False)
    if missing := [layer for layer in layers if layer not in kept]:
        raise SpatialBoostError(
            f"the attention of {type(vlm.llm).__name__} does not go through transformers in block {missing[0]}, so its "
            "queries and keys are not known: use another language model, or leave the block out"
        )
    return {
        layer: (queries[0][mask[0]].unflatten(0, (views, -1)), keys[0][mask[0]].unflatten(0, (views, -1)))
        for layer, (queries, keys) in kept.items()
    }, grid
