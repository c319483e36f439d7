"""Encoded conversations and their images as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.vlm.chat import IGNORE

# Shape legend: B conversations, L tokens of the longest, I images of all conversations, N patches, D encoder width.

IMAGE_KEYS = ("pixel_values", "patch_features")


class Collator:
    """Pad conversations to one length and concatenate their images.

    Example:
        >>> row = {"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, -100, 7]),
        ...        "visual_mask": torch.tensor([True, False, False]), "patch_features": torch.zeros(1, 1, 48)}
        >>> short = {name: value[:2] for name, value in row.items()}
        >>> batch = Collator(pad_token_id=0)([row, short])
        >>> batch["input_ids"].tolist(), batch["patch_features"].shape
        ([[5, 6, 7], [5, 6, 0]], torch.Size([2, 1, 48]))

    A row is the result of `encode_chat` with ``pixel_values`` ``(I, 3, H, W)`` or ``patch_features`` ``(I, N, D)``.

    Args:
        pad_token_id: Fills the padding of ``input_ids``.
        padding_side: ``right`` for training, ``left`` for generation.
    """

    def __init__(self, pad_token_id: int, padding_side: Literal["right", "left"] = "right") -> None:
        if pad_token_id is None:
            raise SpatialBoostError("pad_token_id is None: set `tokenizer.pad_token`, for example to its eos_token")
        self.padding_side = padding_side
        self.fill = {"input_ids": pad_token_id, "labels": IGNORE, "visual_mask": False, "turns": -1}

    def __call__(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Make one batch; ``attention_mask`` is 0 on padding and 1 elsewhere."""
        length = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: self._pad([row[name] for row in rows], length, fill)
            for name, fill in self.fill.items()
            if name in rows[0]
        }
        batch["attention_mask"] = self._pad([torch.ones_like(row["input_ids"]) for row in rows], length, 0)
        for name in IMAGE_KEYS:
            images = [row[name] for row in rows if name in row]
            if images:
                shapes = {tuple(each.shape[1:]) for each in images}
                if len(shapes) > 1:
                    raise SpatialBoostError(
                        f"{name} of one batch differ in shape: {sorted(shapes)}; resize all images to one size"
                    )
                batch[name] = torch.cat(images)
        return batch

    def _pad(self, values: Sequence[Tensor], length: int, fill: int | bool) -> Tensor:
        out = values[0].new_full((len(values), length), fill)
        for row, value in zip(out, values, strict=True):
            (row[: len(value)] if self.padding_side == "right" else row[length - len(value) :]).copy_(value)
        return out
