"""Several conversations in one row of a batch, without attention from one to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Shape legend: B conversations, L tokens of the longest, R rows after packing, P tokens of a packed row, E width.


@dataclass(frozen=True)
class Packing:
    """Where the tokens of a padded batch are in packed rows.

    Attributes:
        sources_RP: For each place in a packed row, the number of its token in the flattened padded batch.
        position_ids_RP: Position of each token in its own conversation. Where it restarts, another conversation begins:
            by this, transformers makes masks of blocks, and Flash Attention gets the bounds of the conversations.
        places_BL: For each token of the padded batch, the number of its place in the flattened packed rows; -1 for
            padding.
    """

    sources_RP: Tensor
    position_ids_RP: Tensor
    places_BL: Tensor

    def gather(self, values_BLE: Tensor) -> Tensor:
        """Values of the padded batch in packed rows ``(R, P, E)``."""
        return values_BLE.flatten(0, 1).index_select(0, self.sources_RP.flatten()).view(*self.sources_RP.shape, -1)

    def find(self, rows_A: Tensor, columns_A: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns, in the packed rows, of tokens that are given by those in the padded batch."""
        places_A = self.places_BL[rows_A, columns_A]
        width = self.sources_RP.shape[1]
        return places_A // width, places_A % width


def pack(attention_mask_BL: Tensor, *, one_row: bool = False) -> Packing | None:
    """Put several short conversations of a batch into one row, which is at most as long as the longest of them.

    Example:
        >>> packing = pack(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]))
        >>> packing.position_ids_RP.tolist()
        [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
        >>> packing.sources_RP.tolist()
        [[0, 1, 2, 3, 4], [10, 11, 12, 5, 6]]

    The batch stays what it is: the same conversations and the same labels, so that the loss is the same, too. Only its
    padding becomes less.

    Args:
        attention_mask_BL: 0 on padding and 1 elsewhere.
        one_row: Put all conversations into one row, for kernels that take the bounds of the conversations and compute
            nothing between them.

    Returns:
        None if the conversations need as many rows as before.
    """
    mask_BL = attention_mask_BL.cpu().bool()
    lengths = mask_BL.sum(1).tolist()
    rows = fill_rows(lengths, sum(lengths) if one_row else max(lengths))
    if len(rows) == len(lengths):
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
    return Packing(sources_RP.to(device), position_ids_RP.to(device), places_BL.view(mask_BL.shape).to(device))


def fill_rows(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Distribute conversations over rows of at most `most` tokens, the longest first, each into the first that has room.

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
