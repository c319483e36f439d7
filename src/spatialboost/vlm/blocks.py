"""The blocks of a language model: their outputs, and the queries and keys of their attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spatialboost.errors import SpatialBoostError

# Shape legend: B conversations, L tokens, E width of the language model, H heads, C width of a head.

KEPT = "sdpa_kept"  # name of our attention in transformers
_QUERIES, _KEYS = ("q_norm", "q_proj"), ("k_norm", "k_proj")  # the last one before rotary positions comes first


def llm_blocks(llm: Any) -> list[nn.Module]:
    """The blocks of a language model, in order.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> len(llm_blocks(build_small_llm([], width=32, layers=3, heads=2)[0]))
        3

    Raises:
        SpatialBoostError: They are not known.
    """
    config = llm.config.get_text_config() if hasattr(llm.config, "get_text_config") else llm.config
    count = getattr(config, "num_hidden_layers", None)
    for part in llm.base_model.modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return list(part)
    raise SpatialBoostError(
        f"{type(llm).__name__} has no list of {count} blocks, so nothing can be read after one of them: use a language "
        "model of transformers whose blocks follow each other"
    )


def block_numbers(llm: Any, wanted: Sequence[int] | None) -> list[int]:
    """Numbers of blocks in order, of those that are wanted; None is all, and negative ones count from the end.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> block_numbers(build_small_llm([], width=32, layers=3, heads=2)[0], [-1, 0])
        [0, 2]

    Raises:
        SpatialBoostError: A block does not exist.
    """
    count = len(llm_blocks(llm))
    if wanted is None:
        return list(range(count))
    wrong = [each for each in wanted if not -count <= each < count]
    if wrong:
        raise SpatialBoostError(
            f"the language model has no block {wrong[0]}; it has {count}, from 0 to {count - 1}, and negative numbers "
            "count from the end"
        )
    return sorted({each % count for each in wanted})


@contextmanager
def kept_outputs(llm: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within it, each call of the language model puts the outputs ``(B, L, E)`` of some blocks into a dictionary.

    Example:
        >>> import torch
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> llm, _ = build_small_llm([], width=32, layers=3, heads=2)
        >>> with kept_outputs(llm, [1]) as kept:
        ...     _ = llm(input_ids=torch.zeros(1, 5, dtype=torch.long))
        >>> kept[1].shape
        torch.Size([1, 5, 32])

    The output of the last block is the one before the model's last norm.
    """
    kept: dict[int, Tensor] = {}

    def keeper(layer: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, out: Any) -> None:
            kept[layer] = out[0] if isinstance(out, tuple) else out

        return keep

    blocks = llm_blocks(llm)
    handles = [blocks[layer].register_forward_hook(keeper(layer)) for layer in layers]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def query_projection(llm: Any, layer: int) -> Tensor:
    """The weight of a block's query projection ``(H * C, E)``, without a LoRA.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> query_projection(build_small_llm([], width=32, layers=3, heads=2)[0], 1).shape
        torch.Size([32, 32])

    Raises:
        SpatialBoostError: The block has no projection of queries alone.
    """
    width = llm.get_input_embeddings().weight.shape[1]
    parts = {name.rpartition(".")[2]: part for name, part in llm_blocks(llm)[layer].named_modules()}
    if "q_proj" in parts:
        part: Any = parts["q_proj"]
        weight = getattr(part, "base_layer", part).weight
        if weight.ndim == 2 and weight.shape[1] == width:
            return weight.detach()
    if "c_attn" in parts:  # GPT-2: queries, keys and values in one matrix, the other way round
        part = parts["c_attn"]
        return getattr(part, "base_layer", part).weight.detach()[:, :width].T
    raise SpatialBoostError(
        f"block {layer} of {type(llm).__name__} has no query projection `q_proj` of its own, from which a head could "
        "start: set teacher.head_start: random"
    )


@contextmanager
def kept_attention(llm: Any, layers: Sequence[int], *, rotary: bool) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Within it, each call of the language model puts queries and keys of some blocks into a dictionary.

    Queries are ``(B, L, H, C)``, and keys have one for each head of queries: where several heads share a key, as in
    grouped-query attention, it is repeated for each. Nothing that the model computes is changed.

    Example:
        >>> import torch
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> llm, _ = build_small_llm([], kind="llama", width=32, layers=3, heads=2)
        >>> with kept_attention(llm, [1], rotary=False) as kept:
        ...     _ = llm(input_ids=torch.zeros(1, 5, dtype=torch.long))
        >>> [each.shape for each in kept[1]]
        [torch.Size([1, 5, 2, 16]), torch.Size([1, 5, 2, 16])]

    Args:
        llm: The language model.
        layers: Numbers of blocks.
        rotary: As the attention gets them, turned by their positions; False: before that.

    Raises:
        SpatialBoostError: The model's attention cannot be read in this way.
    """
    own = llm.config._attn_implementation
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    before: dict[tuple[int, str], Tensor] = {}

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
        if module.layer_idx in layers:
            each: tuple[Tensor, ...] = (query.transpose(1, 2), key.transpose(1, 2))
            if not rotary:
                each = tuple(_before(before, module.layer_idx, side, now) for side, now in zip("qk", each, strict=True))
            queries, keys = (part.detach() for part in each)
            kept[module.layer_idx] = queries, keys.repeat_interleave(queries.shape[2] // keys.shape[2], 2)
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    if not llm._can_set_attn_implementation():
        raise SpatialBoostError(
            f"{type(llm).__name__} has an attention of its own, so its queries and keys are not known: use a language "
            "model whose attention transformers can exchange"
        )
    AttentionInterface.register(KEPT, attend)
    AttentionMaskInterface.register(KEPT, sdpa_mask)
    handles = [] if rotary else _follow(llm, layers, before)
    llm.set_attn_implementation(KEPT)
    try:
        yield kept
    finally:
        llm.set_attn_implementation(own)
        for handle in handles:
            handle.remove()


def _follow(llm: Any, layers: Sequence[int], before: dict[tuple[int, str], Tensor]) -> list[Any]:
    """Keep what the last layers before rotary positions give."""

    def keeper(key: tuple[int, str]) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            before[key] = out.detach()

        return keep

    rotates = any("rotary" in type(part).__name__.lower() for part in llm.modules())
    handles, blocks = [], llm_blocks(llm)
    for layer in layers:
        parts = {name.rpartition(".")[2]: part for name, part in blocks[layer].named_modules()}
        for side, names in (("q", _QUERIES), ("k", _KEYS)):
            found = next((name for name in names if name in parts), None)
            if found is not None:
                handles.append(parts[found].register_forward_hook(keeper((layer, side))))
            elif rotates:
                raise SpatialBoostError(
                    f"block {layer} of {type(llm).__name__} has no projection {names[-1]} of its own, so its queries "
                    "and keys before rotary positions are not known: set teacher.rotary: true"
                )
    return handles


def _before(before: dict[tuple[int, str], Tensor], layer: int, side: str, now: Tensor) -> Tensor:
    found = before.get((layer, side))
    return now if found is None else found.reshape(now.shape)
