"""Which masks to keep when a segmenter that takes clicks (SAM and its kin) gets a grid of clicks."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import masks_to_boxes, nms

# Shape legend: N = clicks, K = masks, h, w = size of the network's own masks in pixels.

# SAM uses 0.88, 0.95 and 0.7 (https://github.com/facebookresearch/segment-anything). Smaller models are
# less sure of themselves.
MIN_SCORE, MIN_STABILITY, MAX_IOU = 0.8, 0.9, 0.7


def click_grid(size: tuple[int, int], clicks: int) -> np.ndarray:
    """A grid of ``clicks`` x ``clicks`` points over an image: float ``(N, 2)``, (x, y) from the top left corner.

    Example:
        >>> click_grid((100, 200), 2).tolist()
        [[50.0, 25.0], [150.0, 25.0], [50.0, 75.0], [150.0, 75.0]]
    """
    height, width = size
    steps = (np.arange(clicks) + 0.5) / clicks
    return np.stack(np.meshgrid(steps * width, steps * height), -1).reshape(-1, 2)


def stability(logits_Khw: torch.Tensor) -> torch.Tensor:
    """How little each mask changes when its threshold moves from +1 to -1: smaller area over larger area, ``(K,)``.

    Example:
        >>> stability(torch.tensor([[[3.0, 3.0, 0.5, -3.0]]])).tolist()
        [0.6666666865348816]
    """
    inner, outer = ((logits_Khw > limit).sum((-2, -1)) for limit in (1.0, -1.0))
    return inner / outer.clamp(min=1)


def keep_masks(
    logits_Khw: torch.Tensor,
    scores_K: torch.Tensor,
    *,
    min_score: float = MIN_SCORE,
    min_stability: float = MIN_STABILITY,
    max_iou: float = MAX_IOU,
) -> torch.Tensor:
    """The numbers of the masks to keep, the best score first: sure, stable, not empty, and each thing once.

    The masks are logits before the threshold 0, the scores the IoU that the network predicts; one that is not a number
    is never kept.
    """
    masks_Khw = logits_Khw > 0
    good_K = (scores_K > min_score) & (stability(logits_Khw) > min_stability) & masks_Khw.any(-1).any(-1)
    numbers = good_K.nonzero().flatten()
    if not len(numbers):
        return numbers
    return numbers[nms(masks_to_boxes(masks_Khw[numbers]), scores_K[numbers].float(), max_iou)]
