"""Rows as training examples. Each example is made when it is requested, in this process or in a worker process."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from spatialboost.encoders import ImagePreparation, image_preparation, patch_size
from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.dataset.reader import open_image
from spatialboost.teachers.protocol import BAD_DATA, row_images
from spatialboost.training.features import FeatureStore

logger = logging.getLogger(__name__)

# Shape legend: I images of a row or of a batch's rows, B rows of a batch, H and W pixels.

Row = Mapping[str, Any]
Example = dict[str, Tensor]
MakeExample = Callable[[int, Row], Mapping[str, Tensor]]

IMAGE_KEYS = ("pixel_values", "patch_features")
MOST_TRIES = 64  # rows that are tried until one can be used
MOST_REASONS = 1000  # bad rows whose reason is looked up; the others are only counted


class RowImages:
    """Turns the images of a row into an encoder's input. It can be pickled and does not contain the encoder.

    Example:
        >>> import numpy as np
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2)
        >>> images = RowImages(encoder, 32)
        >>> images({"images": [np.zeros((60, 80, 3), np.uint8)]}).shape, images.grid
        (torch.Size([1, 3, 32, 32]), (2, 2))

    Args:
        encoder: Gives the patch size and the normalisation.
        size: (height, width) in pixels, or one number for both; multiples of the patch size.

    Attributes:
        size: (height, width) in pixels.
        grid: Rows and columns of patches.
        num_tokens: Patches of one image.
    """

    def __init__(self, encoder: nn.Module, size: int | tuple[int, int]) -> None:
        self.size = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.preparation: ImagePreparation = image_preparation(encoder)
        self.preparation([], self.size)  # raises an error here if the encoder cannot take this size
        patch = patch_size(encoder)
        self.grid = (self.size[0] // patch, self.size[1] // patch)
        self.num_tokens = self.grid[0] * self.grid[1]

    def __call__(self, row: Row) -> Tensor:
        """Images of a row, resized and normalised ``(I, 3, H, W)``."""
        images = row_images(row)
        wrong = [each for each in images if not (isinstance(each, Mapping) or hasattr(each, "__array_interface__"))]
        if wrong:
            raise SpatialBoostError(f"an image is {wrong[0]!r:.80}; expected bytes, an array or a PIL image")
        return self.preparation([open_image(image) for image in images], self.size)


class RowDataset(Dataset[Example]):
    """Some rows of a data set as training examples. A row is read only when its example is requested.

    If a row cannot be used (its image cannot be decoded, or its example cannot be made), another row is used instead.
    It is the same other row in every process. So training does not stop, and a resumed run sees the same rows.

    Example:
        >>> import numpy as np
        >>> from timm.models.vision_transformer import VisionTransformer
        >>> encoder = VisionTransformer(img_size=32, patch_size=16, embed_dim=48, depth=1, num_heads=2)
        >>> rows = [{"images": [np.full((32, 32, 3), grey, np.uint8)]} for grey in (0, 99, 255)]
        >>> dataset = RowDataset(rows, RowImages(encoder, 32), lambda number, row: {"label": torch.tensor(number)})
        >>> len(dataset), dataset[2]["label"], dataset[2]["pixel_values"].shape
        (3, tensor(2), torch.Size([1, 3, 32, 32]))

    Args:
        rows: Each a mapping with a list of ``images``: PIL, ``uint8`` arrays, or ``{"bytes": ...}`` as in parquet.
        images: How images are prepared.
        make_example: Makes the tensors of a row, without the images, from the row's number and the row. If it raises
            a ValueError or an OSError, the row counts as bad; other errors are mistakes in the function.
        numbers: Rows to use; None is all.
        features: Store for the features of a frozen encoder; None makes a new one. Data sets over the same rows may
            share one store.
        cache_gb: A new store keeps float32 up to this size, and float16 above it.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        images: RowImages,
        make_example: MakeExample,
        *,
        numbers: Sequence[int] | None = None,
        features: FeatureStore | None = None,
        cache_gb: float = 4.0,
    ) -> None:
        self.rows, self.images, self.make_example = rows, images, make_example
        # the same rows, for those whose features are stored
        self._light_rows: Sequence[Row] = rows.without_bytes() if hasattr(rows, "without_bytes") else rows
        self.numbers: Sequence[int] = range(len(rows)) if numbers is None else numbers
        self.features = FeatureStore(len(rows), limit=cache_gb * 1e9) if features is None else features
        self.use_features = False
        if not len(self.numbers):
            raise SpatialBoostError("no rows are given, so there is nothing to learn from: give at least one row")
        # Shared with worker processes, so that all of them skip a bad row after one has found it
        self._bad = torch.zeros(len(self.numbers), dtype=torch.uint8).share_memory_()
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Example:
        """The example of a row, or of the row used instead if it is bad; ``row`` is the number of the row used."""
        reason = ""
        for place in self._places(index):
            if self._bad[place]:
                continue
            try:
                return self.read(self.numbers[place])
            except BAD_DATA as error:
                reason = reason or self._mark_bad(place, error)
        first = reason or next(iter(self.skipped.values()))
        tried = min(MOST_TRIES, len(self))
        raise SpatialBoostError(f"{tried} of {len(self)} rows were tried, and none can be used; the first: {first}")

    def read(self, number: int) -> Example:
        """The example of the row with this number.

        Raises:
            ValueError: The row is bad.
            OSError: The row is bad.
        """
        stored = self.use_features and self.features.has(number)
        row = (self._light_rows if stored else self.rows)[number]
        example = dict(self.make_example(number, row))
        if stored:
            example.pop("pixel_values", None)
            example["patch_features"] = self.features.read(number)
        elif "pixel_values" not in example:
            example["pixel_values"] = self.images(row)
        example["row"] = torch.tensor(number)
        return example

    def usable(self, limit: int | None = None) -> Iterator[tuple[int, Example]]:
        """Number and example of each usable row, in order, for at most `limit` rows."""
        found = 0
        for place, number in enumerate(self.numbers):
            if limit is not None and found >= limit:
                return
            try:
                example = self.read(number)
            except BAD_DATA as error:
                self._mark_bad(place, error)
                continue
            found += 1
            yield number, example

    def with_features(self, use_features: bool = True) -> RowDataset:
        """The same rows, but images whose features are in the store are not read."""
        view = copy.copy(self)
        view.use_features = use_features
        return view

    def fill_features(self, batch_size: int = 64) -> None:
        """Compute the features of this process's share of the rows now, and not when they are first needed."""
        collate = RowCollator(lambda rest: {}, features=True)
        rank, processes = (int(os.environ.get(name, other)) for name, other in (("RANK", 0), ("WORLD_SIZE", 1)))
        rows, own = self.with_features(), range(rank, len(self), processes)
        for start in range(0, len(own), batch_size):
            places = [at for at in own[start : start + batch_size] if not self.features.has(self.numbers[at])]
            if places:
                self.features.complete(collate([rows[place] for place in places]))

    @property
    def skipped(self) -> dict[int, str]:
        """Bad rows found so far: row number -> reason."""
        found = {}
        for place in self._bad.nonzero()[:, 0].tolist():
            number = self.numbers[place]
            if number not in self._reasons:  # found by a worker process, which shares only the mark
                self._reasons[number] = self._reason(number) if len(self._reasons) < MOST_REASONS else "not read again"
            found[number] = self._reasons[number]
        return found

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Mark rows as bad that another process has found."""
        numbers = self.numbers if isinstance(self.numbers, range) else list(self.numbers)
        for number, reason in reasons.items():
            if number not in numbers:
                continue
            self._bad[numbers.index(number)] = 1
            self._reasons[number] = reason

    def gather_skipped(self) -> None:
        """Share the bad rows among all processes of a distributed run."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        found: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(found, self.skipped)
        for reasons in found:
            self.leave_out(reasons)

    def warn_of_skipped(self) -> None:
        """Log how many rows were left out, for each of the most frequent reasons."""
        for reason, count in Counter(self.skipped.values()).most_common(5):
            logger.warning("%d rows left out: %s", count, reason)

    def _places(self, index: int) -> Iterator[int]:
        """The requested position, then the positions to try if it is bad; these are far from each other."""
        count = len(self)
        index = range(count)[index]
        step = max(1, round(count * 0.618))
        while math.gcd(step, count) != 1:
            step += 1
        for attempt in range(min(MOST_TRIES, count)):
            yield (index + attempt * step) % count

    def _mark_bad(self, place: int, error: Exception) -> str:
        self._bad[place] = 1
        number = self.numbers[place]
        self._reasons[number] = _in_one_line(error)
        return f"row {number}: {self._reasons[number]}"

    def _reason(self, number: int) -> str:
        try:
            self.read(number)
        except BAD_DATA as error:
            return _in_one_line(error)
        return "unknown: it can be read now"


class RowCollator:
    """Makes a batch of examples. Images of all rows are concatenated; the teacher's `collate` does the rest.

    Example:
        >>> example = {"pixel_values": torch.zeros(2, 3, 32, 32), "depth": torch.ones(1), "row": torch.tensor(7)}
        >>> {name: tuple(value.shape) for name, value in RowCollator()([example, example]).items()}
        {'depth': (2, 1), 'pixel_values': (4, 3, 32, 32)}

    Args:
        collate: The teacher's collate function; None stacks tensors.
        features: Add what `FeatureStore.complete` needs: ``feature_rows`` and ``feature_counts``.
    """

    def __init__(self, collate: Callable[..., dict[str, Any]] | None = None, *, features: bool = False) -> None:
        self.collate = default_collate if collate is None else collate
        self.features = features

    def __call__(self, examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Make one batch."""
        own = (*IMAGE_KEYS, "row")
        rest = [{key: value for key, value in each.items() if key not in own} for each in examples]
        batch = dict(self.collate(rest)) if any(rest) else {}
        for key in IMAGE_KEYS:
            images = [each[key] for each in examples if key in each]
            if images and (key == "pixel_values" or len(images) == len(examples)):
                batch[key] = torch.cat(images)
        if self.features:
            batch["feature_rows"] = torch.stack([each["row"] for each in examples])
            counts = [len(each["pixel_values"]) if "pixel_values" in each else -1 for each in examples]
            batch["feature_counts"] = torch.tensor(counts)  # images of each row; -1: its features are stored
        return batch


def num_workers(wanted: int | None) -> int:
    """Number of worker processes that read data; None chooses it by the processors that this process may use."""
    if wanted is not None:
        return wanted
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processors //= max(1, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return min(8, processors - 1) if processors > 2 else 0


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if isinstance(error, SpatialBoostError) and text else f"{type(error).__name__}: {text}")[:300]
