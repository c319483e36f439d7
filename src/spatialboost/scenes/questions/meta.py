"""The place of the facts of each view in a conversation's `meta`, for all code that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

META_VERSION = 1  # conversations about one view: its facts are at the top level of meta
SCENE_META_VERSION = 2  # conversations about several views: their facts are in ``meta["views"]``
IMAGE_TAG = "<image>"


def facts_of_views(meta: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The facts of each view: ``source``, ``size``, ``intrinsics``, ``depth_noise``, ``scene_box`` and ``objects``.

    In data sets of before gravity was used, ``up`` is missing.

    Example:
        >>> [facts["size"] for facts in facts_of_views({"images": 1, "size": [40, 60], "turns": []})]
        [[40, 60]]
        >>> [facts["size"] for facts in facts_of_views({"images": 2, "views": [{"size": [4, 6]}, {"size": [8, 6]}]})]
        [[4, 6], [8, 6]]
    """
    return meta.get("views", [meta])
