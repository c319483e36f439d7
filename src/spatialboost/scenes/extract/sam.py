"""Masks by SAM, SAM 2 and EdgeTAM through transformers: everything in an image, or the things in given boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.networks import Network
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.regions import MAX_OBJECTS, Region, add_objects, check_max_objects

# Shape legend: N = boxes, K = masks, H, W = size of an image, h, w = size of a mask of the network.

_AT_ONCE = 64  # clicks in one call of the mask decoder


class Segmenter:
    """A model that turns clicks or boxes into masks: SAM, SAM 2 or EdgeTAM."""

    def __init__(self, model: str, **options: Any) -> None:
        self.network = Network("AutoModelForMaskGeneration", model, words=True, **options)

    def everything(self, images: Sequence[np.ndarray], *, clicks: int) -> list[list[Region]]:
        """Masks of everything in each image, found by a grid of ``clicks`` x ``clicks`` clicks.

        The points are put into the processor with the image, and not into transformers' `mask-generation` pipeline: for
        SAM 2, that pipeline leaves the lower part of a wide image (the right part of a tall one) without points.
        """
        from spatialboost.scenes.extract.clicks import click_grid, keep_masks

        grids = [click_grid(image.shape[:2], clicks)[:, None].tolist() for image in images]
        labels = [[[1]] * len(grid) for grid in grids]
        with self.network.running():
            inputs = self._prepare(images, input_points=grids, input_labels=labels)
            embeddings = self.network.model.get_image_embeddings(inputs["pixel_values"])
            found = []
            for number in range(len(images)):
                prompts = [
                    {key: inputs[key][number : number + 1, start : start + _AT_ONCE] for key in _POINTS}
                    for start in range(0, len(grids[number]), _AT_ONCE)
                ]
                logits_Khw, scores_K = self._decode(embeddings, number, prompts, several=True)
                keep = keep_masks(logits_Khw, scores_K)
                found.append(self._full_size(inputs, number, logits_Khw[keep], scores_K[keep]))
        return found

    def in_boxes(self, image: np.ndarray, boxes_N4: np.ndarray) -> list[Region]:
        """The mask of the thing in each box ``[x0, y0, x1, y1]`` (pixels) of an image, in the order of the boxes."""
        with self.network.running():
            inputs = self._prepare([image], input_boxes=[boxes_N4.tolist()])
            embeddings = self.network.model.get_image_embeddings(inputs["pixel_values"])
            logits_Nhw, scores_N = self._decode(embeddings, 0, [{"input_boxes": inputs["input_boxes"]}], several=False)
            return self._full_size(inputs, 0, logits_Nhw, scores_N)

    def _prepare(self, images: Sequence[np.ndarray], **prompts: Any) -> Any:
        return self.network.place(self.network.processor(images=list(images), return_tensors="pt", **prompts))

    def _decode(self, embeddings: Any, number: int, prompts: list[dict[str, Any]], *, several: bool) -> Any:
        """Logits ``(K, h, w)`` and predicted IoU ``(K,)`` of all masks of one image, in float32."""
        import torch

        own = [each[number : number + 1] for each in embeddings] if isinstance(embeddings, list) else None
        image = own or embeddings[number : number + 1]
        logits, scores = [], []
        for prompt in prompts:
            found = self.network.model(image_embeddings=image, multimask_output=several, **prompt)
            logits.append(found.pred_masks[0].flatten(0, 1).float())
            scores.append(found.iou_scores[0].flatten().float())
        return torch.cat(logits), torch.cat(scores)

    def _full_size(self, inputs: Any, number: int, logits_Khw: Any, scores_K: Any) -> list[Region]:
        if not len(scores_K):
            return []
        sizes = {key: inputs[key][number : number + 1].tolist() for key in _SIZES if key in inputs}
        masks = self.network.processor.image_processor.post_process_masks([logits_Khw[:, None]], **sizes)[0][:, 0]
        pairs = zip(masks.cpu().numpy(), scores_K.tolist(), strict=True)
        return [Region(mask_HW, score) for mask_HW, score in pairs]


_POINTS, _SIZES = ("input_points", "input_labels"), ("original_sizes", "reshaped_input_sizes")


class Sam:
    """The extractor ``sam2``: masks of everything in an image, described by colour and place.

    Args:
        model: SAM, SAM 2 or EdgeTAM: a folder, or ``user/name`` on the Hub.
        revision, device, dtype: see `Network`.
        clicks: clicks along each edge of the image; small things need more.
        max_objects: maximum number of objects in a view.

    Raises:
        SpatialBoostError: the model cannot be loaded, or a number is below one.
    """

    kind = "masks"

    def __init__(
        self,
        *,
        model: str = "facebook/sam2.1-hiera-small",
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        clicks: int = 32,
        max_objects: int = MAX_OBJECTS,
    ) -> None:
        check_max_objects(max_objects)
        if clicks < 1:
            raise SpatialBoostError(f"clicks is {clicks}, expected at least one along each edge")
        self.clicks, self.max_objects = clicks, max_objects
        self.segmenter = Segmenter(model, revision=revision, device=device, dtype=dtype)
        self.provenance = self.segmenter.network.provenance
        self.name = f"sam2 ({self.segmenter.network.label}, {clicks} clicks along an edge, up to {max_objects} objects)"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        found = self.segmenter.everything([view.image_HW3 for view in views], clicks=self.clicks)
        return add_objects(views, found, max_objects=self.max_objects)
