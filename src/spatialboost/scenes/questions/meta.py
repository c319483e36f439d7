"""Where the facts of each view stand in a conversation's `meta`; shared by all who read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

META_VERSION = 1  # of conversations about one view, whose facts stand beside the turns
SCENE_META_VERSION = 2  # of conversations about several views, whose facts stand in ``meta["views"]``
IMAGE_TAG = "<image>"


def facts_of_views(meta: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Of each view: ``source``, ``size``, ``intrinsics``, ``depth_noise``, ``scene_box`` and ``objects``.

    Example:
        >>> [facts["size"] for facts in facts_of_views({"images": 1, "size": [40, 60], "turns": []})]
        [[40, 60]]
        >>> [facts["size"] for facts in facts_of_views({"images": 2, "views": [{"size": [4, 6]}, {"size": [8, 6]}]})]
        [[4, 6], [8, 6]]
    """
    return meta.get("views", [meta])
