"""Masks with class names by Mask2Former and OneFormer through transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.networks import Network, run_by_size
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.regions import MAX_OBJECTS, Region, add_objects, check_max_objects

# Words of class names of COCO, ADE20K and Cityscapes that name no thing with an extent of its own.
_BACKGROUND = (
    "background ceiling dirt earth field floor grass gravel ground land mountain pavement path platform playingfield "
    "river road roof sand sea sidewalk sky snow terrain tree unlabeled vegetation wall water wood"
)
BACKGROUND = frozenset(_BACKGROUND.split())
_FILLERS = frozenset(["merged", "other", "stuff"])  # COCO: "wall-other-merged", "water-other"


class ClassMasks:
    """The extractors ``mask2former`` and ``oneformer``: things with the names of their classes.

    What the image is divided into, including walls and the sky, is taken as the network gives it (panoptic); only what
    is a thing becomes an object. Two things of one class are told apart by colour and place.

    Args:
        model: a folder, or ``user/name`` on the Hub. None takes ``default_model``.
        revision, device, dtype: see `Network`.
        threshold: smallest confidence of an object, 0 to 1.
        max_objects: maximum number of objects in a view.

    Raises:
        SpatialBoostError: the model cannot be loaded, or a number is out of its range.
    """

    kind = "masks"
    short = "mask2former"
    words = False  # whether the network is told its task in words
    default_model = "facebook/mask2former-swin-large-coco-panoptic"

    def __init__(
        self,
        *,
        model: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        threshold: float = 0.5,
        max_objects: int = MAX_OBJECTS,
    ) -> None:
        check_max_objects(max_objects)
        check_threshold(threshold)
        self.threshold, self.max_objects = threshold, max_objects
        self.network = Network(
            "AutoModelForUniversalSegmentation",
            model or self.default_model,
            revision=revision,
            device=device,
            dtype=dtype,
            words=self.words,
        )
        self.provenance = self.network.provenance
        self.name = f"{self.short} ({self.network.label}, above {threshold:g}, up to {max_objects} objects)"

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        return add_objects(views, self.segments([view.image_HW3 for view in views]), max_objects=self.max_objects)

    def segments(self, images: Sequence[np.ndarray]) -> list[list[Region]]:
        """The things in each image, by falling size."""
        return run_by_size(images, self._of_one_size)  # transformers does not take padding off the masks again

    def _of_one_size(self, images: list[np.ndarray]) -> list[list[Region]]:
        told = {"task_inputs": ["panoptic"] * len(images)} if self.words else {}
        with self.network.running():
            inputs = self.network.place(self.network.processor(images=images, return_tensors="pt", **told))
            outputs = self.network.model(**inputs)
            for name in ("class_queries_logits", "masks_queries_logits"):
                outputs[name] = outputs[name].float()
            found = self.network.processor.post_process_panoptic_segmentation(
                outputs,
                threshold=self.threshold,
                label_ids_to_fuse=set(),
                target_sizes=[image.shape[:2] for image in images],
            )
        names = self.network.model.config.id2label
        return [self._things(each, names) for each in found]

    def _things(self, found: dict[str, Any], names: dict[int, str]) -> list[Region]:
        labels_HW = found["segmentation"].cpu().numpy()
        regions = []
        for segment in found["segments_info"]:
            name = class_name(names.get(segment["label_id"], ""))
            if name and not BACKGROUND.intersection(name.split()):
                regions.append(Region(labels_HW == segment["id"], float(segment["score"]), name))
        return sorted(regions, key=lambda region: -int(region.mask_HW.sum()))


class OneFormer(ClassMasks):
    """The extractor ``oneformer``; see `ClassMasks`."""

    short, words = "oneformer", True
    default_model = "shi-labs/oneformer_coco_swin_large"


def class_name(label: str) -> str:
    """A class's label as people say it: the first of several names, without numbers and fillers.

    Example:
        >>> class_name("wall-other-merged"), class_name("chest of drawers, chest"), class_name("LABEL_3")
        ('wall', 'chest of drawers', '')
    """
    first = re.split(r"[,;/]", label.lower())[0]
    words = [word for word in re.split(r"[\s_-]+", first) if word and word not in _FILLERS]
    return "" if words[:1] == ["label"] else " ".join(words)


def check_threshold(threshold: float) -> None:
    """Raise a `SpatialBoostError` unless a threshold is between 0 and 1."""
    if not 0 <= threshold <= 1:
        raise SpatialBoostError(f"threshold is {threshold}, expected a number from 0 to 1")
