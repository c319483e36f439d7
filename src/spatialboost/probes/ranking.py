"""Scores of ranked images: average precision, and global average precision of predictions with a confidence."""

from __future__ import annotations

import numpy as np

from spatialboost.errors import SpatialBoostError

# Shape legend: V images of the database, Q queries, k neighbours.


def average_precision(ranked: np.ndarray, relevant: np.ndarray, ignored: np.ndarray, *, trapezoid: bool) -> float:
    """Average precision of one query.

    Example:
        >>> ranked, none = np.array([4, 2, 7, 1]), np.array([], int)
        >>> average_precision(ranked, np.array([4, 7]), none, trapezoid=False)  # (1/1 + 2/3) / 2
        0.8333333333333333
        >>> average_precision(ranked, np.array([4, 7]), np.array([2]), trapezoid=False)  # as if 2 were not there
        1.0

    Args:
        ranked: numbers of the images, the nearest first.
        relevant: numbers of the images that are to be found.
        ignored: numbers of images that count neither as right nor as wrong: they are taken out of the ranking first.
        trapezoid: take the mean of the precisions before and after each hit, as the benchmarks of Oxford and Paris do
            (arXiv 1803.11285); otherwise the precision after it, as scikit-learn and torchmetrics do.

    Raises:
        SpatialBoostError: no image is relevant.
    """
    if not len(relevant):
        raise SpatialBoostError("no image is relevant, so that there is no average precision")
    counted = ranked if not len(ignored) else ranked[~np.isin(ranked, ignored)]
    rank = np.flatnonzero(np.isin(counted, relevant))
    hits = np.arange(1, len(rank) + 1)
    precision = hits / (rank + 1)
    if trapezoid:
        before = np.where(rank > 0, (hits - 1) / np.maximum(rank, 1), 1.0)
        precision = (precision + before) / 2
    return float(precision.sum() / len(relevant))


def global_average_precision(right_Q: np.ndarray, confidence_Q: np.ndarray, known_Q: np.ndarray) -> float:
    """GAP: average precision over the predictions of all queries together, sorted by confidence.

    Example:
        >>> right, confidence = np.array([True, False, True]), np.array([0.9, 0.5, 0.2])
        >>> global_average_precision(right, confidence, np.array([True, False, True]))  # (1/1 + 2/3) / 2
        0.8333333333333333

    Args:
        right_Q: whether the class of a query was predicted rightly.
        confidence_Q: confidence of the prediction.
        known_Q: whether the database has the query's class. A prediction for any other query is wrong.

    Source: the Met dataset (arXiv 2202.01747).
    """
    order_Q = np.argsort(-confidence_Q, kind="stable")
    sorted_Q = (right_Q & known_Q)[order_Q]
    precision_Q = np.cumsum(sorted_Q) / np.arange(1, len(sorted_Q) + 1)
    return float((precision_Q * sorted_Q).sum() / known_Q.sum())


def softmax_confidence(
    similarity_Qk: np.ndarray, label_Qk: np.ndarray, k: int, sharpness: float, num_classes: int
) -> np.ndarray:
    """Confidence ``(Q,)`` that a query has the class of its nearest image.

    Each class among the ``k`` nearest images has the similarity s of its nearest image; all other classes have 0. The
    confidence is the softmax of ``sharpness * s`` over all classes. The predicted class is that of the nearest image,
    whatever ``k`` is.

    Args:
        similarity_Qk: cosine similarities, the largest first.
        label_Qk: classes of these images.
        k: neighbours that are used.
        sharpness: the inverse of the softmax's temperature.
        num_classes: classes of the database.

    Source: the Met dataset (arXiv 2202.01747).
    """
    similarity_Qk, label_Qk = np.maximum(similarity_Qk[:, :k], 0), label_Qk[:, :k]
    same_Qkk = label_Qk[:, :, None] == label_Qk[:, None, :]
    first_Qk = np.argmax(same_Qkk, axis=2) == np.arange(label_Qk.shape[1])
    # divided by exp(sharpness * largest), so that no power overflows
    gap_Qk = np.exp(sharpness * (similarity_Qk - similarity_Qk[:, :1]))
    others_Q = (num_classes - first_Qk.sum(1)) * np.exp(-sharpness * similarity_Qk[:, 0])
    return 1 / ((gap_Qk * first_Qk).sum(1) + others_Q)
