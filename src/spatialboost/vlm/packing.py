"""Several conversations in one row of a batch, without attention from one to another.

There are two ways, and `start_packing` chooses:

- ``row``: all conversations of a batch in one row, so that nothing is padding. Flash Attention takes their bounds; with
  torch's own attention, each conversation is attended to by itself.
- ``rows``: as many conversations in a row as the longest one leaves room for, with masks of blocks. For models whose
  attention is their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spatialboost.errors import SpatialBoostError

# Shape legend: B conversations, L tokens of the longest, R rows after packing, P tokens of a packed row, E width, A
# labelled tokens.

Way = Literal["row", "rows"]
BY_CONVERSATION = "sdpa_by_conversation"  # name of our attention in transformers


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch are in packed rows.

    Attributes:
        sources_RP: For each place in a packed row, the number of its token in the flattened padded batch.
        position_ids_RP: Position of each token in its own conversation. Where it restarts, another conversation begins:
            by this, transformers makes masks of blocks, and Flash Attention gets the bounds of the conversations.
        places_BL: For each token of the padded batch, the number of its place in the flattened packed rows; -1 for
            padding.
        bounds: Where each conversation begins in a single row, and where the last one ends.
    """

    sources_RP: Tensor
    position_ids_RP: Tensor
    places_BL: Tensor
    bounds: tuple[int, ...]

    def gather(self, values_BLE: Tensor) -> Tensor:
        """Values of the padded batch in packed rows ``(R, P, E)``."""
        return values_BLE.flatten(0, 1).index_select(0, self.sources_RP.flatten()).view(*self.sources_RP.shape, -1)

    def find(self, rows_A: Tensor, columns_A: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns, in the packed rows, of tokens that are given by those in the padded batch."""
        places_A = self.places_BL[rows_A, columns_A]
        width = self.sources_RP.shape[1]
        return places_A // width, places_A % width

    def options(self, llm: Any) -> dict[str, Any]:
        """What the language model needs beside the embeddings."""
        return _options(llm, self.position_ids_RP, self.bounds)


def _options(llm: Any, position_ids_RP: Tensor, bounds: tuple[int, ...]) -> dict[str, Any]:
    if llm.config._attn_implementation != BY_CONVERSATION:
        return {"position_ids": position_ids_RP}
    # A mask without padding, so that transformers makes no mask of blocks, which would be as large as the row squared
    ones_RP = torch.ones_like(position_ids_RP)
    return {"position_ids": position_ids_RP, "attention_mask": ones_RP, "cu_seq_lens_q": bounds}


def pack(attention_mask_BL: Tensor, way: Way) -> Packing | None:
    """Put several conversations of a batch into one row.

    Example:
        >>> packing = pack(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]), "rows")
        >>> packing.position_ids_RP.tolist()
        [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
        >>> packing.sources_RP.tolist()
        [[0, 1, 2, 3, 4], [10, 11, 12, 5, 6]]

    The batch stays what it is: the same conversations and the same labels, so that the loss is the same, too. Only its
    padding becomes less.

    Args:
        attention_mask_BL: 0 on padding and 1 elsewhere.
        way: ``row``: all conversations in one row. ``rows``: rows that are at most as long as the longest conversation.

    Returns:
        None if there is no padding to save.
    """
    mask_BL = attention_mask_BL.cpu().bool()
    lengths = mask_BL.sum(1).tolist()
    rows = fill_rows(lengths, max(lengths)) if way == "rows" else [list(range(len(lengths)))]
    if len(rows) == len(lengths) or bool(mask_BL.all()):
        return None
    width = max(sum(lengths[each] for each in row) for row in rows)
    tokens = mask_BL.flatten().nonzero()[:, 0].split(lengths)
    sources_RP, position_ids_RP = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(2))
    places_BL = torch.full((mask_BL.numel(),), -1)
    for number, row in enumerate(rows):
        start = 0
        for each in row:
            stop = start + lengths[each]
            sources_RP[number, start:stop] = tokens[each]
            position_ids_RP[number, start:stop] = torch.arange(lengths[each])
            places_BL[tokens[each]] = torch.arange(start, stop) + number * width
            start = stop
        position_ids_RP[number, start:] = torch.arange(width - start)  # the padding is a conversation of its own
    device = attention_mask_BL.device
    bounds = tuple(accumulate(lengths, initial=0))
    return Packing(sources_RP.to(device), position_ids_RP.to(device), places_BL.view(mask_BL.shape).to(device), bounds)


def fill_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Distribute conversations over rows of at most `most` tokens, the longest first, each into the first with room.

    Example:
        >>> fill_rows([5, 2, 3], most=5)
        [[0], [2, 1]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for each in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        found = next((number for number, left in enumerate(room) if left >= lengths[each]), len(rows))
        if found == len(rows):
            rows.append([])
            room.append(most)
        rows[found].append(each)
        room[found] -= lengths[each]
    return rows


# --- the language model


def start_packing(llm: Any) -> Way:
    """Choose how conversations are packed for a language model, and set its attention for it.

    What a model can do is measured, with two short sequences: what it computes for the second one must not depend on
    the first. So it holds for any kind of model and any version of transformers.

    Example:
        >>> from spatialboost.vlm.llms import build_small_llm
        >>> start_packing(build_small_llm([], kind="llama", width=32, layers=1, heads=2)[0])
        'row'

    Raises:
        SpatialBoostError: The model mixes conversations in one row: it has recurrent layers, or it makes its positions
            or its masks without positions that restart.
    """
    own = llm.config._attn_implementation
    if own == BY_CONVERSATION or "flash" in own:
        problem = _problem(llm)
        way: Way = "row"
    elif own == "sdpa" and llm._can_set_attn_implementation() and not _has_chunks(llm):
        AttentionInterface.register(BY_CONVERSATION, attend_by_conversation)
        AttentionMaskInterface.register(BY_CONVERSATION, sdpa_mask)
        llm.set_attn_implementation(BY_CONVERSATION)
        problem = _problem(llm)
        if problem is None:
            return "row"
        llm.set_attn_implementation(own)
        problem, way = _problem(llm), "rows"
    else:
        problem, way = _problem(llm), "rows"
    if problem is not None:
        raise SpatialBoostError(
            f"pack: true cannot be used with {type(llm).__name__}: {problem}. Set pack: false; a smaller batch_size "
            "with more `accumulate` reduces padding, too"
        )
    return way


def stop_packing(llm: Any) -> None:
    """Give a language model back the attention that it had before `start_packing`."""
    if llm.config._attn_implementation == BY_CONVERSATION:
        llm.set_attn_implementation("sdpa")


def attend_by_conversation(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """torch's attention as transformers calls it; if there are bounds, of each conversation in the row by itself."""
    bounds = options.pop("cu_seq_lens_q", None)
    if bounds is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    lengths = [stop - start for start, stop in pairwise(bounds)]
    # Not slices: in the backward pass, each of them would be filled up with zeros to the whole row
    parts = zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True)
    found = []
    for start, (q, k, v) in zip(bounds, parts, strict=False):
        own = slice(start, start + q.shape[2])
        mask = None if attention_mask is None else attention_mask[:, :, own, own]  # of a sliding window
        found.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0])
    return torch.cat(found, 1), None


def _has_chunks(llm: Any) -> bool:
    """Whether some layers attend within chunks (Llama 4), which are counted from the start of the row."""
    return getattr(llm.config.get_text_config(), "attention_chunk_size", None) is not None


@torch.no_grad()
def _problem(llm: Any) -> str | None:
    """Why a language model cannot keep the conversations in one row apart; None if it can."""
    table, was_training = llm.get_input_embeddings(), llm.training
    weight = table.weight
    if isinstance(weight, FakeTensor):
        return None  # a plan of the memory: there are no values by which it could be measured
    ids = torch.linspace(0, weight.shape[0] - 1, 12, device=weight.device).long()[None]
    positions = torch.tensor([[*range(5), *range(7)]], device=weight.device)
    llm.eval()
    try:
        embeds = table(ids)
        alone, mixed, packed = (
            llm(inputs_embeds=part, use_cache=False, **more).logits[:, -7:].float()
            for part, more in ((embeds[:, 5:], {}), (embeds, {}), (embeds, _options(llm, positions, (0, 5, 12))))
        )
    except (TypeError, ValueError, AttributeError, IndexError) as error:  # what models raise for such an argument
        return f"it does not take these arguments ({' '.join(str(error).split())[:200]})"
    finally:
        llm.train(was_training)
    wrong, mixing = (float((each - alone).abs().max()) for each in (packed, mixed))
    rounding = 8 * torch.finfo(weight.dtype).eps * float(alone.abs().max())
    if wrong > max(0.05 * mixing, rounding):
        return "what it computes for a conversation depends on the one before it in the same row"
    return None
