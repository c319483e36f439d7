"""The extractors that the command line and `open_extractor` can open by name. To add one, add a line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from spatialboost.errors import SpatialBoostError, unknown
from spatialboost.scenes.extract.protocol import KINDS, Extractor
from spatialboost.scenes.registry import look_up

EXTRACTORS: dict[str, str | Callable[..., Extractor]] = {
    "gravity": "spatialboost.scenes.extract.gravity:Gravity",
    "superpixels": "spatialboost.scenes.extract.segments:Superpixels",
    "depth-anything": "spatialboost.scenes.extract.depth:DepthAnything",
    "depth-pro": "spatialboost.scenes.extract.depth:DepthPro",
    "zoedepth": "spatialboost.scenes.extract.depth:ZoeDepth",
    "sam2": "spatialboost.scenes.extract.sam:Sam",
    "mobile-sam": "spatialboost.scenes.extract.mobile_sam:MobileSam",
    "mask2former": "spatialboost.scenes.extract.panoptic:ClassMasks",
    "oneformer": "spatialboost.scenes.extract.panoptic:OneFormer",
    "grounding-dino": "spatialboost.scenes.extract.grounded:Grounded",
    "region-text": "spatialboost.scenes.extract.region_text:RegionText",
    "open-vocabulary": "spatialboost.scenes.extract.open_vocabulary:OpenVocabulary",
    "matched-poses": "spatialboost.scenes.extract.reconstruction:MatchedPoses",
    "endpoint": "spatialboost.scenes.extract.language.endpoint:Endpoint",
    "local-vlm": "spatialboost.scenes.extract.language.local:LocalVlm",
}


def open_extractor(name: str, **options: Any) -> Extractor:
    """Make an extractor by its name.

    Example:
        >>> open_extractor("superpixels", max_objects=4).kind
        'masks'

    Raises:
        SpatialBoostError: the name or the kind is unknown, or the extractor does not have the option.
    """
    factory = look_up(EXTRACTORS, "extractor", name)
    known = list(inspect.signature(factory).parameters)
    wrong = [option for option in options if option not in known]
    if wrong:
        has = f"its options are {', '.join(known)}" if known else "it has no options"
        raise SpatialBoostError(f"extractor {name!r} has no option {wrong[0]!r}; {has}")
    extractor: Extractor = factory(**options)
    if extractor.kind not in KINDS:
        raise unknown("kind of extractor", extractor.kind, KINDS)
    return extractor
