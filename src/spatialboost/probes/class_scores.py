"""The scores of predicted classes: mean intersection over union, and the share of right ones."""

from __future__ import annotations

import torch
from torch import Tensor

from spatialboost.errors import SpatialBoostError
from spatialboost.probes.segmented_images import NONE

# Shape legend: C classes.


class ClassCounts:
    """How often each class was taken for each other one, over images that are added one by one.

    Example:
        >>> counts = ClassCounts(2)
        >>> counts.add(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
        >>> {name: round(value, 3) for name, value in counts.metrics().items()}
        {'miou': 0.5, 'accuracy': 0.667}

    Args:
        classes: number of classes.

    Attributes:
        per_view: the mIoU of each image alone.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.per_view: list[float] = []
        self._counts_CC = torch.zeros(classes, classes, dtype=torch.float64)

    def add(self, guess: Tensor, truth: Tensor) -> None:
        """Add predicted and true classes of one shape; -1 in the truth is not measured."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix

        counts_CC = multiclass_confusion_matrix(guess, truth, self.classes, ignore_index=NONE).double()
        self._counts_CC += counts_CC
        if counts_CC.any():
            self.per_view.append(_mean_iou(counts_CC))

    def metrics(self) -> dict[str, float]:
        """mIoU over the classes that occur in truth or prediction, and accuracy, over all images together.

        Raises:
            SpatialBoostError: nothing has a class.
        """
        if not self._counts_CC.any():
            raise SpatialBoostError("no pixel of the test images has a class, so there is nothing to measure")
        accuracy = float(self._counts_CC.diagonal().sum() / self._counts_CC.sum())
        return {"miou": _mean_iou(self._counts_CC), "accuracy": accuracy}


def _mean_iou(counts_CC: Tensor) -> float:
    both_C = counts_CC.diagonal()
    union_C = counts_CC.sum(0) + counts_CC.sum(1) - both_C
    return float((both_C / union_C)[union_C > 0].mean())
