"""Objects that a text names, found by Grounding DINO through transformers; their masks by SAM."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spatialboost.errors import SpatialBoostError
from spatialboost.scenes.extract.networks import Network, run_by_size
from spatialboost.scenes.extract.panoptic import check_threshold
from spatialboost.scenes.extract.protocol import Addition, PartialCues
from spatialboost.scenes.extract.regions import MAX_OBJECTS, Region, add_objects, box_mask, check_max_objects
from spatialboost.scenes.extract.sam import Segmenter

log = logging.getLogger(__name__)

# Shape legend: N = boxes of one image.


class Grounded:
    """The extractor ``grounding-dino``: what a text names, such as ``"chair. table. floor lamp"``.

    Args:
        names: what to look for: a list, or a text with full stops or semicolons between the names.
        model: Grounding DINO or MM Grounding DINO: a folder, or ``user/name`` on the Hub.
        masks: SAM, SAM 2 or EdgeTAM, which draws the mask in each box. None takes the whole box as the mask: then what
            lies behind an object counts as a part of it, and its extent in 3D is too large.
        revision, device, dtype: see `Network`.
        threshold: smallest confidence of an object, 0 to 1.
        max_objects: maximum number of objects in a view.

    Raises:
        SpatialBoostError: there is no name, a model cannot be loaded, or a number is out of its range.
    """

    kind = "masks"

    def __init__(
        self,
        *,
        names: str | Sequence[str] = "",
        model: str = "IDEA-Research/grounding-dino-tiny",
        masks: str | None = None,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "float32",
        threshold: float = 0.3,
        max_objects: int = MAX_OBJECTS,
    ) -> None:
        check_max_objects(max_objects)
        check_threshold(threshold)
        self.names = read_names(names)
        self.threshold, self.max_objects = threshold, max_objects
        self.network = Network(
            "AutoModelForZeroShotObjectDetection", model, revision=revision, device=device, dtype=dtype, words=True
        )
        self.provenance = dict(self.network.provenance)
        self.segmenter: Segmenter | None = None
        drawn = "whole boxes"
        if masks:
            self.segmenter = Segmenter(masks, revision=None, device=device, dtype=dtype)
            own = self.segmenter.network
            self.provenance = {key: f"{text}; {own.provenance[key]}" for key, text in self.provenance.items()}
            drawn = own.label
        else:
            log.warning("grounding-dino without the option masks takes whole boxes as masks: extents are too large")
        self.name = (
            f"grounding-dino ({self.network.label}, masks: {drawn}, above {threshold:g}, up to {max_objects} of: "
            f"{', '.join(self.names)})"
        )

    def __call__(self, views: Sequence[PartialCues], /) -> list[Addition]:
        found = self.boxes([view.image_HW3 for view in views])
        regions = [self._regions(view, *each) for view, each in zip(views, found, strict=True)]
        return add_objects(views, regions, max_objects=self.max_objects)

    def boxes(self, images: Sequence[np.ndarray]) -> list[tuple[np.ndarray, list[float], list[str]]]:
        """For each image: boxes ``[x0, y0, x1, y1]`` in pixels ``(N, 4)``, their scores, and their names."""
        return run_by_size(images, self._of_one_size)

    def _of_one_size(self, images: list[np.ndarray]) -> list[tuple[np.ndarray, list[float], list[str]]]:
        text = " ".join(f"{name}." for name in self.names)
        with self.network.running():
            processor = self.network.processor
            inputs = self.network.place(processor(images=images, text=[text] * len(images), return_tensors="pt"))
            outputs = self.network.model(**inputs)
            outputs["logits"], outputs["pred_boxes"] = outputs.logits.float(), outputs.pred_boxes.float()
            results = processor.post_process_grounded_object_detection(
                outputs,
                inputs["input_ids"],
                threshold=self.threshold,
                text_threshold=self.threshold,
                target_sizes=[image.shape[:2] for image in images],
            )
        return [self._read(result) for result in results]

    def _read(self, result: dict[str, Any]) -> tuple[np.ndarray, list[float], list[str]]:
        names = [match_name(label, self.names) for label in result["text_labels"]]
        boxes_N4, scores = result["boxes"].cpu().numpy(), result["scores"].tolist()
        good = [i for i, name in enumerate(names) if name and np.isfinite(boxes_N4[i]).all()]
        return boxes_N4[good], [scores[i] for i in good], [names[i] for i in good]

    def _regions(self, view: PartialCues, boxes_N4: np.ndarray, scores: list[float], names: list[str]) -> list[Region]:
        if not names:
            return []
        if self.segmenter is None:
            masks = [box_mask(box, view.image_HW3.shape[:2]) for box in boxes_N4.tolist()]
        else:
            masks = [region.mask_HW for region in self.segmenter.in_boxes(view.image_HW3, boxes_N4)]
        return [Region(*each) for each in zip(masks, scores, names, strict=True)]


def read_names(names: str | Sequence[str]) -> list[str]:
    """The names in lower case, each once.

    Example:
        >>> read_names("Chair. floor lamp; chair.")
        ['chair', 'floor lamp']

    Raises:
        SpatialBoostError: there is none.
    """
    parts = (
        re.split(r"[.;\n]", names) if isinstance(names, str) else [part for name in names for part in name.split(".")]
    )
    found = list(dict.fromkeys(" ".join(part.lower().split()) for part in parts if part.strip()))
    if not found:
        raise SpatialBoostError(f"names is {names!r}; expected what to look for, such as 'chair. table. floor lamp'")
    return found


def match_name(label: str, names: Sequence[str]) -> str:
    """The name that a label of Grounding DINO means: it has the words above a threshold, perhaps not all of a name.

    Example:
        >>> match_name("lamp", ["floor lamp", "table"]), match_name("floor lamp table", ["floor lamp", "table"])
        ('floor lamp', '')

    Returns:
        The name that is equal, or the only one with all of these words; "" if there is none.
    """
    words_in_order = re.sub(r"\[\w+\]|[.?]", " ", label.lower()).split()  # without "[SEP]" and full stops
    if " ".join(words_in_order) in names:
        return " ".join(words_in_order)
    words = set(words_in_order)
    meant = [name for name in names if words and words <= set(name.split())]
    return meant[0] if len(meant) == 1 else ""
