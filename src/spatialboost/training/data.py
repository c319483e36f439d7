"""Conversations in memory: tokenised once, their images decoded once, the frozen encoder's features computed once."""

from __future__ import annotations

import copy
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from spatialboost.encoders import Tokens, feature_layer, normalisation, patch_size, prepare_images, read_tokens
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_image
from spatialboost.training.checks import checksum
from spatialboost.vlm.chat import IMAGE, encode_chat

logger = logging.getLogger(__name__)

# Shape legend: I images of all rows, N patches, D encoder width, H and W pixels.

Row = Mapping[str, Any]  # "images": list, "messages": chat, "meta": JSON text or dictionary with "turns"


class ImageStore:
    """The images of all rows at one size, and what the frozen encoder makes of them.

    Args:
        rows: Each with a list of ``images``: PIL, ``uint8`` arrays, or ``{"bytes": ...}`` as in parquet.
        size: (height, width) in pixels, or one number for both.
        encoder: Says patch size and normalisation.
        limit: Bytes that may be held in memory; above it images are decoded when they are used.
        progress: Show a progress bar.

    Attributes:
        skipped: Rows that cannot be used, by number, with the reason.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        encoder: nn.Module,
        size: int | tuple[int, int],
        *,
        limit: float = 4e9,
        progress: bool = True,
    ) -> None:
        self.rows, self.limit, self.progress = rows, limit, progress
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        prepare_images(encoder, [], self.size)  # complains of a size that the encoder cannot take
        patch = patch_size(encoder)
        self.num_tokens = (self.size[0] // patch) * (self.size[1] // patch)
        self.mean, self.std = torch.tensor(normalisation(encoder)).view(2, 3, 1, 1)
        self.skipped: dict[int, str] = {}
        self.spans: list[tuple[int, int]] = []
        self.features: Tensor | np.ndarray | None = None
        self._features_of: tuple[Any, ...] | None = None
        self.pixels: list[Tensor] | None = []
        self._decode_all()

    def __len__(self) -> int:
        return self.spans[-1][1] if self.spans else 0

    def _decode_all(self) -> None:
        count = used = 0
        for i in tqdm(range(len(self.rows)), desc="images", disable=not self.progress):
            try:
                images = self._decode(i)
            except Exception as error:  # whatever a decoder raises on a broken file
                self.skipped[i] = f"image: {error}"
                images = torch.empty(0, 3, *self.size, dtype=torch.uint8)
            self.spans.append((count, count + len(images)))
            count += len(images)
            used += images.numel()
            if self.pixels is not None and used > self.limit:
                logger.info("images exceed %.1f GB: they are decoded when they are used", self.limit / 1e9)
                self.pixels = None
            if self.pixels is not None:
                self.pixels.append(images)

    def _decode(self, row: int) -> Tensor:
        """Images of a row, ``uint8 (images, 3, H, W)``."""
        images = [_to_size(open_image(image), self.size) for image in self.rows[row]["images"]]
        return torch.stack(images) if images else torch.empty(0, 3, *self.size, dtype=torch.uint8)

    def pixel_values(self, row: int) -> Tensor:
        """Normalised images of a row ``(images, 3, H, W)``."""
        images = self._decode(row) if self.pixels is None else self.pixels[row]
        return images.float().div_(255).sub_(self.mean).div_(self.std)

    def patch_features(self, row: int) -> Tensor:
        """Cached patch tokens of a row ``(images, N, D)``."""
        if self.features is None:
            raise SpatialBoostError("no features are cached: call cache_features first")
        start, stop = self.spans[row]
        features = self.features[start:stop]
        return features if isinstance(features, Tensor) else torch.from_numpy(features.astype(np.float32))

    @torch.no_grad()
    def cache_features(self, encoder: nn.Module, layer: int, *, file: Path | None = None, batch_size: int = 64) -> None:
        """Read every image once with a frozen encoder; nothing happens if that very encoder has been read before.

        Args:
            encoder: In evaluation mode while it is read.
            layer: Block after which to read.
            file: Where half-precision features go if they exceed the limit of the store.
            batch_size: Images of one forward.
        """
        identity = (feature_layer(encoder, layer), checksum(encoder))
        if identity == self._features_of:
            return
        was_training, device = encoder.training, next(encoder.parameters()).device
        encoder.eval()
        written, out = 0, None
        pending: list[Tensor] = []
        for row in tqdm(range(len(self.rows)), desc="features", disable=not self.progress):
            pending.append(self.pixel_values(row))
            if sum(map(len, pending)) < batch_size and row < len(self.rows) - 1:
                continue
            images = torch.cat(pending)
            pending = []
            tokens: Tokens = read_tokens(encoder, images.to(device), layer=layer)
            patches = tokens.patches.float().cpu()
            if out is None:
                out = self._room_for(patches.shape[1:], file)
            if isinstance(out, Tensor):
                out[written : written + len(patches)] = patches
            else:
                out[written : written + len(patches)] = patches.numpy()
            written += len(patches)
        encoder.train(was_training)
        self.features, self._features_of = out, identity

    def _room_for(self, shape: Sequence[int], file: Path | None) -> Tensor | np.ndarray:
        size = len(self) * shape[0] * shape[1] * 4
        if size <= self.limit or file is None:
            return torch.empty(len(self), *shape)
        # Each process of a distributed run has a file of its own: opening one for writing empties it for the others
        file = file.with_stem(file.stem + os.environ.get("RANK", ""))
        logger.info("features take %.1f GB: kept in %s", size / 2e9, file.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(len(self), *shape))


class ChatDataset(Dataset[dict[str, Tensor]]):
    """Tokenised conversations with their images, for `Collator`.

    Args:
        images: Of the same rows.
        tokenizer: Of the language model.
        indices: Rows to use; None is all.
        max_length: Tokens; whole turns beyond it are left out.
        turns: Keep only turns of these kinds (``meta["turns"][i]["kind"]``); a conversation with none is left out.
        shuffle_answers: Deal the answers out anew, see `shuffle_answers`.
        seed: Of the shuffling.

    Attributes:
        rows: Numbers of the rows behind the items.
        chats: Messages and kinds of turns behind the items.
        items: What `encode_chat` makes of them.
        skipped: Rows that cannot be used, by number, with the reason.
    """

    def __init__(
        self,
        images: ImageStore,
        tokenizer: Any,
        *,
        indices: Sequence[int] | None = None,
        max_length: int | None = None,
        turns: Sequence[str] | None = None,
        shuffle_answers: bool = False,
        seed: int = 0,
    ) -> None:
        self.images, self.pad_token_id = images, tokenizer.pad_token_id
        self.use_features = False
        self.skipped: dict[int, str] = {}
        chats: dict[int, Chat] = {}
        for i in range(len(images.rows)) if indices is None else indices:
            if i in images.skipped:
                self.skipped[i] = images.skipped[i]
                continue
            try:
                chats[i] = read_chat(images.rows[i], turns)
            except (SpatialBoostError, KeyError, TypeError, ValueError) as error:
                self.skipped[i] = f"conversation: {error}"
        if shuffle_answers:
            chats = deal_answers(chats, seed)
        self.rows: list[int] = []
        self.chats: list[Chat] = []
        self.items: list[dict[str, Tensor]] = []
        for i, (messages, kinds) in tqdm(chats.items(), desc="conversations", disable=not images.progress):
            start, stop = images.spans[i]
            try:
                counts = [images.num_tokens] * (stop - start)
                self.items.append(encode_chat(messages, tokenizer, num_visual_tokens=counts, max_length=max_length))
            except SpatialBoostError as error:
                self.skipped[i] = f"conversation: {error}"
                continue
            self.rows.append(i)
            self.chats.append((messages, kinds))
        for reason, count in Counter(self.skipped.values()).most_common(5):
            logger.warning("%d rows left out: %s", count, reason)
        if not self.items:
            reason = next(iter(self.skipped.values()), "there are none")
            raise SpatialBoostError(f"no conversation can be used; the first reason: {reason}")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One conversation, with ``patch_features`` or ``pixel_values``."""
        row = self.rows[index]
        if self.use_features:
            return {**self.items[index], "patch_features": self.images.patch_features(row)}
        return {**self.items[index], "pixel_values": self.images.pixel_values(row)}

    def with_features(self, use_features: bool = True) -> ChatDataset:
        """The same conversations with cached features instead of pixels, or the other way round."""
        view = copy.copy(self)
        view.use_features = use_features
        return view


Chat = tuple[list[dict[str, Any]], list[str]]  # messages, and the kind of each question-answer pair


def read_chat(row: Row, turns: Sequence[str] | None = None) -> Chat:
    """Messages of a row and the kind of each of its turns, only those asked for.

    Example:
        >>> row = {"messages": [{"role": "user", "content": "<image>\\nA?"}, {"role": "assistant", "content": "a"},
        ...                     {"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}],
        ...        "meta": '{"turns": [{"kind": "depth"}, {"kind": "closer"}]}'}
        >>> read_chat(row, ["closer"])
        ([{'role': 'user', 'content': '<image>\\nB?'}, {'role': 'assistant', 'content': 'b'}], ['closer'])
    """
    messages = [dict(message) for message in row["messages"]]
    meta = row.get("meta") or {}
    meta = json.loads(meta) if isinstance(meta, str) else meta
    pairs = list(zip(messages[::2], messages[1::2], strict=False))
    kinds = [str(turn["kind"]) for turn in meta.get("turns", [])]
    alternates = [message["role"] for message in messages] == ["user", "assistant"] * len(pairs)
    if not alternates or len(kinds) != len(pairs):
        if turns is None:
            return messages, []
        raise SpatialBoostError(
            "turns can only be chosen where user and assistant alternate and meta names each turn's kind"
        )
    if turns is None:
        return messages, kinds
    first = messages[0]["content"]
    num_images = first.count(IMAGE)
    if num_images:
        messages[0]["content"] = first.replace(IMAGE, "").lstrip("\n")
    kept = [(pair, kind) for pair, kind in zip(pairs, kinds, strict=True) if kind in turns]
    if not kept:
        raise SpatialBoostError(f"no turn of kind {', '.join(turns)}; there are {', '.join(sorted(set(kinds)))}")
    messages = [message for pair, _ in kept for message in pair]
    messages[0]["content"] = f"{IMAGE}\n" * num_images + messages[0]["content"]
    return messages, [kind for _, kind in kept]


def deal_answers(chats: Mapping[int, Chat], seed: int) -> dict[int, Chat]:
    """Give each answer to another conversation's question of the same turn and kind: right words, wrong content.

    Every answer is moved where at least two conversations share a turn's place and kind.
    """
    places: dict[tuple[int, str], list[int]] = defaultdict(list)
    for i, (_, kinds) in chats.items():
        for turn, kind in enumerate(kinds):
            places[turn, kind].append(i)
    dealt = {i: ([dict(message) for message in messages], kinds) for i, (messages, kinds) in chats.items()}
    rng = np.random.default_rng(seed)
    for (turn, _), members in places.items():
        order = rng.permutation(len(members))
        for giver, taker in zip(order, np.roll(order, 1), strict=True):
            answer = chats[members[giver]][0][2 * turn + 1]
            dealt[members[taker]][0][2 * turn + 1] = dict(answer)
    return dealt


def _to_size(image: Any, size: tuple[int, int]) -> Tensor:
    """An image as ``uint8 (3, H, W)``."""
    pixels = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise SpatialBoostError(f"it is {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if tensor.shape[1:] == size:
        return tensor.contiguous()
    resized = nn.functional.interpolate(tensor[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)
