"""One row of a data set: a conversation with its images, poses and depth maps."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from spatialboost.scenes.cues import Cues
from spatialboost.scenes.dataset.schema import column_names
from spatialboost.scenes.questions.conversation import Conversation
from spatialboost.scenes.questions.layout import clean_description
from spatialboost.scenes.questions.meta import facts_of_views
from spatialboost.scenes.scene import Scene

# Shape legend: H, W = image height and width in pixels.

_MAX_MILLIMETRES = 2**16 - 2  # the largest value of 16 bits is "no reading" in many data sets, and so in ours
_MAX_LABELS = 255


def make_row(scene: Scene, talk: Conversation, item: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make a row with the columns that `spatialboost.scenes.dataset.schema` defines for these settings."""
    views = scene.views
    columns = {
        "images": lambda: [encode_image(view.image_HW3, settings["quality"]) for view in views],
        "messages": lambda: talk.messages,
        "meta": lambda: json.dumps({**talk.meta, "item": item}),
        "poses": lambda: [None if view.pose_44 is None else _numbers(view.pose_44) for view in views],
        "intrinsics": lambda: [_numbers(view.intrinsics_33) for view in views],
        "depths": lambda: [encode_image(millimetres(view)) for view in views],
        "labels": lambda: [
            encode_image(_labels(view, facts["objects"]))
            for view, facts in zip(views, facts_of_views(talk.meta), strict=True)
        ],
    }
    names = column_names(settings["version"], with_depth=settings["with_depth"])
    return {name: columns[name]() for name in names}


def encode_image(pixels: np.ndarray, quality: int = 100) -> dict[str, Any]:
    """Encode an image in the format of ``datasets``: JPEG without chroma subsampling; at quality 100, lossless PNG."""
    stream = io.BytesIO()
    if quality < 100:
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return {"bytes": stream.getvalue(), "path": None}


def millimetres(view: Cues) -> np.ndarray:
    """The depth of a view in millimetres, uint16 ``(H, W)``; 0 = no reading, or the value does not fit into 16 bits."""
    depth_HW = np.where(view.valid_HW, np.rint(np.nan_to_num(view.depth_HW) * 1000), 0)
    depth_HW[depth_HW > _MAX_MILLIMETRES] = 0
    return depth_HW.astype(np.uint16)


def _labels(view: Cues, facts: list[dict[str, Any]]) -> np.ndarray:
    """uint8 ``(H, W)``: i + 1 at the visible pixels of the object ``facts[i]``, 0 at all other pixels."""
    masks = {clean_description(thing.description): thing.mask_HW for thing in view.objects}
    labels_HW = np.zeros(view.size, np.uint8)
    for label, fact in enumerate(facts[:_MAX_LABELS], start=1):
        labels_HW[masks[fact["description"]]] = label
    return labels_HW


def _numbers(matrix: np.ndarray) -> list[list[float]]:
    return np.asarray(matrix, np.float64).tolist()
